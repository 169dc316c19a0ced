"""The original's numbers through the face of the package: logits, tokens, pixels, conversations, images."""

import numpy as np
import pytest

from lumina_jax import Lumina

TARGET_PX = 96  # of the golden images


@pytest.fixture(scope="module")
def model(golden_checkpoint) -> Lumina:
    """A golden model, converted by the command."""
    return Lumina.load(golden_checkpoint)


def test_logits_equal_the_originals(golden, model) -> None:
    logits = model.logits(golden["logits_ids"])
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits[:, [0, 9, 18, 27, 36]], golden["logits"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["wide", "square", "rgba"])
def test_image_ids_equal_the_originals(golden, model, kind: str) -> None:
    wanted = golden[f"tok_{kind}"]
    np.testing.assert_array_equal(model.encode_image(golden.image(kind), TARGET_PX), wanted)
    path = golden.path / f"img_{kind}.png"
    np.testing.assert_array_equal(model.encode_image(path, TARGET_PX), wanted)


def test_decoded_pixels_equal_the_originals_to_one_level(golden, model) -> None:
    pixels = model.decode_image(golden["tok_wide"])
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - golden["decoded_wide"]).max() <= 1


def test_conversation_equals_the_originals_ids_and_labels(golden, model) -> None:
    ids, labels = model.conversation_ids(golden.conversation, TARGET_PX, root=golden.path)
    np.testing.assert_array_equal(ids, golden["conv_ids"])
    np.testing.assert_array_equal(labels, golden["conv_labels"])


@pytest.mark.parametrize("guidance", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_painted_ids_equal_the_originals(golden, model, guidance: int) -> None:
    caption = golden.prompt.split("\n")[1]  # after the template's line
    image = model.generate(caption, (96, 64), guidance=guidance, image_top_k=1)
    written = golden[f"gen_cfg{guidance}"]
    np.testing.assert_array_equal(image.ids[3:], written[: len(image.ids) - 3])
    assert image.ids[-1] == model.tokenizer.vocab.image_end_id
