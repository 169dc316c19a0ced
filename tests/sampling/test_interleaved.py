"""Answers of text and images: the grammar of free ones, exact sizes, and that neighbours change nothing."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumina_jax.config import SampleConfig
from lumina_jax.model.chameleon import hidden_states
from lumina_jax.sampling import interleaved, sequential
from lumina_jax.sampling.batch import Request
from lumina_jax.sampling.generate import generate
from lumina_jax.sampling.grammar import possible_sizes
from lumina_jax.sampling.interleaved import AnswerRequest, write_answers
from lumina_jax.sampling.policy import candidate_seeds
from lumina_jax.unirep.conversation import prompt_ids
from lumina_jax.unirep.image_tokens import find_images, parse_image

SETTINGS = SampleConfig(guidance=2.0, image_top_k=30, text_top_k=600, temperature=3.0)
SMALL = (32, 16)


@pytest.fixture(scope="module")
def context(small_lumina) -> np.ndarray:
    """A prompt."""
    return prompt_ids("a red star", small_lumina.tokenizer)


@pytest.fixture(scope="module")
def eager(small_lumina, context):
    """`eager(room)`: the model with so much room after the context, whose answer begins with an image where it can."""
    model, config = small_lumina.loaded, small_lumina.config.transformer
    transformer = model.params["transformer"]
    read = jax.jit(hidden_states, static_argnames=("config",))
    hidden = np.asarray(read(transformer, config, jnp.asarray(context[None]))[0][0, -1])
    table = np.array(transformer["head"]["table"])
    table[model.tokenizer.vocab.image_start_id] = 60 * hidden / (hidden @ hidden)
    params = {**model.params, "transformer": {**transformer, "head": {"table": table}}}

    def make(room: int):
        short = replace(model.config, max_tokens=len(context) + room)
        return model._replace(params=params, config=short)

    return make


def test_wanted_image_equals_generate_after_the_same_context(small_lumina, context) -> None:
    model = small_lumina.loaded
    asked = AnswerRequest(context, "image", SMALL, seed=4, settings=SETTINGS)
    (answer,) = write_answers(model, [asked])
    (drawn,) = generate(model, [Request(context, *SMALL, seed=4)], SETTINGS)
    np.testing.assert_array_equal(answer.ids, drawn.ids)
    assert answer.is_finished and [piece.kind for piece in answer.pieces] == ["image"]


@pytest.mark.slow
def test_each_of_several_images_has_those_before_in_its_context(small_lumina, context) -> None:
    model = small_lumina.loaded
    asked = AnswerRequest(context, "image", SMALL, num_images=3, seed=4, settings=SETTINGS)
    (answer,) = write_answers(model, [asked])
    before = context
    for ids, seed in zip(answer.images, candidate_seeds(4, 3), strict=True):
        (drawn,) = generate(model, [Request(before, *SMALL, seed=seed)], SETTINGS)
        np.testing.assert_array_equal(ids, drawn.ids)
        before = np.concatenate([before, ids])


def free(context: np.ndarray, count: int, **options) -> list[AnswerRequest]:
    """Free answers from different seeds."""
    return [AnswerRequest(context, seed=seed, **options) for seed in range(count)]


@pytest.mark.slow
def test_free_answers_hold_whole_images_of_possible_sizes_and_text(
    small_lumina, eager, context
) -> None:
    vocab, grid = small_lumina.tokenizer.vocab, small_lumina.config.grid
    allowed, sizes = set(possible_sizes(small_lumina.config)), []
    for answer in write_answers(eager(60), free(context, 6), SETTINGS):
        assert len(answer.ids) <= 60
        spans = find_images(answer.ids, vocab)
        rest = np.delete(answer.ids, [i for span in spans for i in range(*span)])
        assert vocab.is_text(rest).all() and rest.tolist() == answer.text_ids
        assert answer.is_finished or len(answer.ids) == 60
        for start, stop in spans:
            rows, columns = parse_image(answer.ids[start:stop], vocab, grid).shape
            sizes.append((columns * grid.patch_px, rows * grid.patch_px))
    assert len(sizes) > 5 and len(set(sizes)) > 2 and set(sizes) <= allowed


@pytest.mark.slow
def test_free_answers_keep_to_an_asked_size(small_lumina, eager, context) -> None:
    vocab, grid = small_lumina.tokenizer.vocab, small_lumina.config.grid
    answers = write_answers(eager(60), free(context, 4, size=SMALL), SETTINGS)
    shapes = [parse_image(ids, vocab, grid).shape for answer in answers for ids in answer.images]
    assert len(shapes) >= 4 and set(shapes) == {(2, 4)}


@pytest.mark.parametrize("room", [9, 10])
def test_an_image_starts_where_the_least_one_fits_and_nowhere_else(eager, context, room) -> None:
    answers = write_answers(eager(room), free(context, 4), replace(SETTINGS, text_top_k=1))
    assert [len(answer.images) for answer in answers] == [int(room == 10)] * 4
    if room == 10:
        assert all(len(answer.ids) == 10 and not answer.is_finished for answer in answers)


@pytest.mark.slow
def test_answer_of_a_batch_equals_the_same_alone(eager, context) -> None:
    model = eager(60)
    requests = [
        *free(context, 3),
        AnswerRequest(context[:-1], "text", seed=3),
        AnswerRequest(context, "image", SMALL, num_images=2, seed=3),
    ]
    together = write_answers(model, requests, SETTINGS)
    for request, answer in zip(requests, together, strict=True):
        (alone,) = write_answers(model, [request], SETTINGS)
        np.testing.assert_array_equal(alone.ids, answer.ids)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"want": "image"}, "an image without a size"),
        ({"want": "image", "size": (33, 32)}, "multiples of 16"),
        ({"want": "image", "size": (128, 128), "num_images": 2}, "2 images of 128x128 px: need"),
        ({"want": "image", "size": SMALL, "num_images": 0}, "0 images"),
        ({"size": (256, 256)}, "needs .* tokens"),
        ({"max_tokens": 0}, "max_tokens 0"),
        ({"settings": SampleConfig(grammar="original")}, "written by 'exact' only"),
        ({"seed": -1, "want": "text"}, "seed -1: want 0 to"),
        ({"settings": SampleConfig(decoder="jacoby")}, "did you mean 'jacobi'"),
        ({"settings": SampleConfig(drafts="abov")}, "did you mean 'above'"),
        ({"want": "text", "size": (33, 32)}, "multiples of 16"),
    ],
)
def test_wrong_requests_are_one_clear_line_before_anything_is_drawn(
    small_lumina, context, options, message, monkeypatch
) -> None:
    drawn = []
    for name in ("draw_texts", "generate"):
        monkeypatch.setattr(interleaved, name, lambda *given, **named: drawn.append(given))
    with pytest.raises(ValueError, match=message) as caught:
        write_answers(
            small_lumina.loaded, [AnswerRequest(context), AnswerRequest(context, **options)]
        )
    assert not drawn
    assert "\n" not in str(caught.value)


def test_text_needs_no_room_for_an_image_of_the_asked_size(small_lumina, context) -> None:
    """A free answer whose images do not fit is text."""
    long = np.tile(context, 300 // len(context))  # 140 tokens more do not fit into 400
    both = [AnswerRequest(long, want, (128, 64), max_tokens=5) for want in ("text", None)]
    text, free = write_answers(small_lumina.loaded, both, replace(SETTINGS, text_top_k=1))
    assert not free.images and text.ids.tolist() == free.ids.tolist()


def test_images_of_an_answer_share_one_shape_and_tell_their_request(
    small_lumina, context, monkeypatch
) -> None:
    """So the decoder is compiled once: its program depends on this shape and the batch."""
    find, shapes, told = sequential._shared_shape, [], []
    monkeypatch.setattr(
        sequential, "_shared_shape", lambda jobs: shapes.append(find(jobs)) or shapes[-1]
    )
    requests = [
        AnswerRequest(context, "text", max_tokens=1),
        AnswerRequest(context, "image", (80, 64), num_images=2, settings=SETTINGS),
    ]
    _, answer = write_answers(small_lumina.loaded, requests, progress=told.append)
    assert len(context) + len(answer.images[0]) <= 128 < len(answer.ids)  # buckets of slots
    assert shapes[0] == shapes[1] and shapes[0].num_slots == 256
    assert {row.requests for row in told} == {(1,)} and len(told) == 2 * 8
