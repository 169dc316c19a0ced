"""The face on a model of Chameleon's own layout: bare squares of codes, no size tokens, no line ends."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lumina_jax import Lumina
from lumina_jax.checkpoint import save_model
from lumina_jax.config import SampleConfig
from lumina_jax.sampling.batch import Request
from lumina_jax.sampling.generate import prepare
from lumina_jax.sampling.grammar import check_room
from lumina_jax.sampling.original import continue_ids
from lumina_jax.unirep.conversation import prompt_ids
from lumina_jax.unirep.image_tokens import parse_image

META: dict[str, Any] = {
    "guidance": 3.0,
    "image_guidance": 1.2,
    "temperature": 0.7,
    "image_top_p": 0.9,
}
SIDE_PX, SIDE = 32, 4  # 8 px a code


@pytest.fixture(scope="module")
def model(small_lumina) -> Lumina:
    """The small model's weights, read as those of a model that paints 32x32 px."""
    config = replace(small_lumina.config, image_layout="chameleon", target_px=SIDE_PX)
    parts = small_lumina.params, small_lumina.vqgan_params, small_lumina.tokenizer
    return Lumina(config, *parts)


def test_painted_image_is_the_trained_square_of_codes_alone(model) -> None:
    image = model.generate("a red star", seed=3, **META)
    vocab = model.tokenizer.vocab
    assert len(image.ids) == 2 + SIDE**2
    assert (image.ids[0], image.ids[-1]) == (vocab.image_start_id, vocab.image_end_id)
    codes = parse_image(image.ids, vocab, model.config.grid, "chameleon")
    assert codes.shape == (SIDE, SIDE)
    np.testing.assert_array_equal(model.decode_image(image.ids), image.pixels)
    assert image.size == model.trained_size == (SIDE_PX, SIDE_PX)


def test_prompt_is_the_text_alone(model, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(
        "lumina_jax.painting.prepare", lambda _, requests, *rest: seen.extend(requests) or []
    )
    with pytest.raises(ValueError):  # nothing was painted
        model.generate("a red star")
    assert seen[0].prompt_ids.tolist() == prompt_ids("a red star", model.tokenizer).tolist()


@pytest.mark.slow
def test_image_of_a_list_equals_the_same_image_alone(model) -> None:
    alone = model.generate("a red star", seed=3, **META)
    both = model.generate(["a small circle, please.", "a red star"], seed=[1, 3], **META)
    np.testing.assert_array_equal(both[1].ids, alone.ids)


def test_settings_of_the_png_name_image_guidance_and_nucleus(model) -> None:
    image = model.generate("a red star", **META)
    assert '"image_guidance": 1.2' in image.metadata["settings"]
    assert '"image_top_p": 0.9' in image.metadata["settings"]


def test_loaded_checkpoint_keeps_layout_and_settings(model, tmp_path) -> None:
    path = tmp_path / "model"
    save_model(path, model.loaded.params, model.config, model.tokenizer, {"sample": META})
    loaded = Lumina.load(path)
    assert loaded.config.image_layout == "chameleon"
    assert loaded.settings == SampleConfig(**META)


@pytest.mark.parametrize("shape", [(50, 100), (100, 50), (33, 41)])
def test_encoded_image_is_a_square_whatever_its_shape(model, shape) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    ids = model.encode_image(pixels)
    assert len(ids) == 2 + SIDE**2
    assert model.decode_image(ids).shape == (SIDE_PX, SIDE_PX, 3)


def test_conversation_holds_the_square(model) -> None:
    pixels = np.zeros((50, 100, 3), np.uint8)
    record = {"conversations": [{"from": "human", "value": "a <|image|>"}], "image": [pixels]}
    ids, _ = model.conversation_ids(record)
    sentence = model.encode_image(pixels).tolist()
    first = ids.tolist().index(sentence[0])
    assert ids.tolist()[first : first + len(sentence)] == sentence


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (32, 48)}, r"size 32x48: this model paints 32x32 px only, it never saw size"),
        ({"size": (16, 16)}, r"size 16x16: this model paints 32x32 px only, it never saw size"),
        ({"size": (33, 32)}, r"size 33x32: this model paints 32x32 px only, it never saw size"),
        ({"grammar": "original"}, "'original' on a model of the 'chameleon' layout"),
        ({"prompt": " "}, "empty prompt"),
        ({"grammar": "original", "image_guidance": 1.2}, "'original' has no stream for it"),
        ({"image_guidance": -1.0}, "image_guidance -1.0: want a finite number >= 0"),
        ({"image_guidance": float("inf")}, "image_guidance inf: want a finite"),
        ({"image_top_p": 0.0}, "image_top_p 0.0: want > 0"),
        ({"image_top_p": float("nan")}, "image_top_p nan: want > 0"),
    ],
)
def test_what_the_layout_cannot_do_is_refused_in_one_line(model, arguments, message) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        model.generate(**{"prompt": "a red star", **arguments})
    assert "\n" not in str(caught.value)


def test_original_rules_refuse_the_layout_themselves(model) -> None:
    with pytest.raises(ValueError, match="never saw; use grammar 'exact'"):
        continue_ids(model.loaded, [0, 250, 251], SampleConfig(), num_tokens=4)


def test_original_rules_are_refused_before_anything_is_drawn(model) -> None:
    request = Request(prompt_ids("a", model.tokenizer), SIDE_PX, SIDE_PX)
    with pytest.raises(ValueError, match="'original' on a model of the 'chameleon' layout"):
        prepare(model.loaded, [request], SampleConfig(grammar="original"))


def test_room_is_counted_in_the_layouts_own_tokens(model) -> None:
    config = replace(model.config, max_tokens=5 + 2 + SIDE**2)
    check_room(SIDE_PX, SIDE_PX, 5, config)
    with pytest.raises(ValueError, match=f"needs {2 + SIDE**2} tokens, .* room for 17"):
        check_room(SIDE_PX, SIDE_PX, 6, config)
