"""A model whose images tell no size, start, codes and end alone: any size that the caller tells."""

from dataclasses import replace

import numpy as np
import pytest

from lumina_jax import Lumina
from lumina_jax.sampling.batch import Request
from lumina_jax.sampling.generate import prepare
from lumina_jax.unirep.conversation import prompt_ids
from lumina_jax.unirep.tasks import text_to_image

WIDE = (64, 32)  # 8 px a code: 4 rows of 8


@pytest.fixture(scope="module")
def model(small_lumina) -> Lumina:
    """The small model's weights, read as those of a model of the layout "plain"."""
    config = replace(small_lumina.config, image_layout="plain")
    parts = small_lumina.params, small_lumina.vqgan_params, small_lumina.tokenizer
    return Lumina(config, *parts)


def test_painted_images_have_the_size_that_was_asked_and_hold_codes_alone(model) -> None:
    wide, tall = model.generate("a red star", size=[WIDE, WIDE[::-1]], seed=3)
    vocab = model.tokenizer.vocab
    for image, size in ((wide, WIDE), (tall, WIDE[::-1])):
        assert len(image.ids) == 2 + 4 * 8
        assert (image.ids[0], image.ids[-1]) == (vocab.image_start_id, vocab.image_end_id)
        assert vocab.is_code(image.ids[1:-1]).all()
        assert image.size == size
        np.testing.assert_array_equal(model.decode_image(image.ids, size), image.pixels)


def test_prompt_tells_the_size_and_the_unguided_pass_reads_two_tokens(model) -> None:
    text, vocab = text_to_image(*WIDE, "a red star"), model.tokenizer.vocab
    request = model.request("a red star", WIDE)
    assert request.prompt_ids.tolist() == prompt_ids(text, model.tokenizer).tolist()
    (job,) = prepare(model.loaded, [request], replace(model.settings, guidance=2.0))
    assert job.contexts[1].tolist() == [vocab.bos_id, vocab.image_start_id]


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["jacobi", "coupled"])
def test_parallel_decoders_paint_any_size_too(model, decoder) -> None:
    image = model.generate("a red star", size=WIDE, seed=3, decoder=decoder)
    assert image.size == WIDE
    if decoder == "jacobi":
        np.testing.assert_array_equal(
            image.ids, model.generate("a red star", size=WIDE, seed=3).ids
        )


def test_staggered_is_refused(model) -> None:
    with pytest.raises(ValueError, match="no line ends to begin from"):
        prepare(
            model.loaded,
            [Request(np.array([0, 1]), *WIDE)],
            replace(model.settings, decoder="staggered"),
        )


def test_a_painted_image_is_read_again_and_ids_alone_are_not(model) -> None:
    image = model.generate("a red star", size=WIDE, seed=3, image_top_k=1)
    np.testing.assert_array_equal(model.image_ids(image), image.ids)
    for read in (model.image_ids, model.image_size, model.decode_image):
        with pytest.raises(ValueError, match="do not tell their size: say it"):
            read(image.ids)


@pytest.mark.slow
def test_answers_want_their_size_told(model) -> None:
    chat = model.chat()
    with pytest.raises(ValueError, match="draws no size"):
        chat.send("hello")
    drawn = chat.draw("a red star", size=WIDE).images[0]
    assert drawn.size == WIDE
    with pytest.raises(ValueError, match="do not tell their size"):
        model.edit(drawn, "make it blue")
    assert model.edit(drawn, "make it blue", size=WIDE).size == WIDE
