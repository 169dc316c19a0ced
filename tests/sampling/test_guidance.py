"""The streams of a request: what each reads, and how their logits are joined."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from lumina_jax.sampling.grammar import plan_image
from lumina_jax.sampling.guidance import (
    guide,
    guide_rows,
    scheduled_scales,
    stream_contexts,
    to_rows,
)
from lumina_jax.unirep.image_tokens import image_sentence

LOGITS = jnp.array([[1.0, 4.0], [3.0, 3.0], [0.0, 10.0], [2.0, 8.0]])  # rows: with, without, …


def test_guide_moves_away_from_the_unprompted_logits() -> None:
    guided = guide([LOGITS[0::2], LOGITS[1::2]], jnp.array([[4.0], [0.5]]))
    np.testing.assert_allclose(guided, [[3 + 4 * -2, 3 + 4 * 1], [2 + 0.5 * -2, 8 + 0.5 * 2]])


def test_guide_computes_in_float32() -> None:
    rough = guide([jnp.bfloat16(LOGITS[:1]), jnp.bfloat16(LOGITS[1:2])], jnp.array([[3.0]]))
    assert rough.dtype == jnp.float32


def random_streams(num_streams: int) -> list[np.ndarray]:
    """Logits of 2 requests."""
    return list(np.random.default_rng(0).normal(size=(num_streams, 2, 5)).astype(np.float32))


def test_three_streams_follow_metas_formula() -> None:
    full, images, none = random_streams(3)
    text_scale, image_scale = np.array([[3.0], [0.5]]), np.array([[1.2], [7.0]])
    guided = guide(
        [jnp.array(stream) for stream in (full, images, none)],
        jnp.array(np.concatenate([text_scale, image_scale], axis=1), jnp.float32),
    )
    wanted = none + image_scale * (images - none) + text_scale * (full - images)
    np.testing.assert_allclose(guided, wanted, rtol=1e-5)


def test_three_streams_with_equal_scales_are_two() -> None:
    full, images, none = (jnp.array(stream) for stream in random_streams(3))
    scale = jnp.array([[3.0], [0.5]])
    three = guide([full, images, none], jnp.concatenate([scale, scale], axis=1))
    np.testing.assert_allclose(three, guide([full, none], scale), atol=1e-5)


@pytest.mark.parametrize("layout", ["uni_rep", "chameleon"])
def test_streams_read_all_then_the_images_then_nothing_of_a_prompt(small_lumina, layout) -> None:
    config, vocab = replace(small_lumina.config, image_layout=layout), small_lumina.tokenizer.vocab
    image = image_sentence(np.arange(16).reshape(4, 4), vocab, config.grid, layout)
    prompt = np.concatenate([[vocab.bos_id, 300], image, [301, vocab.sep_id]])
    plan = plan_image(32, 32, config, vocab)
    full, images, none = stream_contexts(prompt, plan, vocab, 3)
    assert full.tolist() == [*prompt, *plan.lead]
    assert images.tolist() == [vocab.bos_id, *image, *plan.lead]
    unprompted = {"uni_rep": [], "chameleon": [vocab.bos_id]}[layout]
    assert none.tolist() == [*unprompted, *plan.lead]
    two = stream_contexts(prompt, plan, vocab, 2)
    assert [two[0].tolist(), two[1].tolist()] == [full.tolist(), none.tolist()]


@pytest.mark.parametrize("num_streams", [2, 3])
def test_negative_prompt_stands_in_the_last_stream(small_lumina, num_streams: int) -> None:
    vocab = small_lumina.tokenizer.vocab
    plan = plan_image(32, 32, small_lumina.config, vocab)
    prompt, negative = np.array([vocab.bos_id, 300, vocab.sep_id]), np.array([vocab.bos_id, 9])
    found = stream_contexts(prompt, plan, vocab, num_streams, negative)
    plain = stream_contexts(prompt, plan, vocab, num_streams)
    assert found[-1].tolist() == [*negative, *plan.lead]
    assert [row.tolist() for row in found[:-1]] == [row.tolist() for row in plain[:-1]]


def test_scheduled_scales_are_one_a_row_and_linear_between_knots(small_lumina) -> None:
    plan = plan_image(32, 48, small_lumina.config, small_lumina.tokenizer.vocab)
    rows = [scheduled_scales(k, plan)[plan.code_places].reshape(6, 4) for k in ((6, 1), (3, 0, 3))]
    np.testing.assert_allclose(rows[0], [[scale] * 4 for scale in (6, 5, 4, 3, 2, 1)], rtol=1e-6)
    np.testing.assert_allclose(rows[1][:, 0], [3, 1.8, 0.6, 0.6, 1.8, 3], rtol=1e-6)
    each = scheduled_scales((1.1, 7, 2, 9.3, 4, 0.7), plan)[plan.code_places][::4]
    assert each.tolist() == np.float32([1.1, 7, 2, 9.3, 4, 0.7]).tolist()
    assert set(scheduled_scales((2.1,), plan).tolist()) == {float(np.float32(2.1))}


@pytest.mark.parametrize("num_streams", [1, 2, 3])
def test_guide_rows_gathers_what_to_rows_spreads(num_streams: int) -> None:
    ids = jnp.array([7, 9])
    rows = to_rows(ids, num_streams)
    assert rows.tolist() == [7] * num_streams + [9] * num_streams
    logits, scales = rows[:, None].astype(jnp.float32), jnp.full((2, num_streams - 1), 4.0)
    assert guide_rows(logits, scales).tolist() == [[7], [9]]
