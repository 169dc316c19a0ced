"""Guided and unguided rows in one batch."""

import jax.numpy as jnp
import numpy as np

from lumina_jax.sampling.guidance import guide, guide_rows, to_rows

LOGITS = jnp.array([[1.0, 4.0], [3.0, 3.0], [0.0, 10.0], [2.0, 8.0]])  # rows: with, without, …


def test_guide_moves_away_from_the_unprompted_logits() -> None:
    guided = guide(LOGITS[0::2], LOGITS[1::2], jnp.array([4.0, 0.5]))
    np.testing.assert_allclose(guided, [[3 + 4 * -2, 3 + 4 * 1], [2 + 0.5 * -2, 8 + 0.5 * 2]])


def test_guide_computes_in_float32() -> None:
    rough = guide(jnp.bfloat16(LOGITS[:1]), jnp.bfloat16(LOGITS[1:2]), jnp.array([3.0]))
    assert rough.dtype == jnp.float32


def test_guide_rows_pairs_what_to_rows_spreads() -> None:
    ids = jnp.array([7, 9])
    assert to_rows(ids, guided=True).tolist() == [7, 7, 9, 9]
    assert to_rows(ids, guided=False).tolist() == [7, 9]
    np.testing.assert_array_equal(
        guide_rows(LOGITS, jnp.array([1.0, 1.0]), guided=True), LOGITS[0::2]
    )
    np.testing.assert_array_equal(guide_rows(LOGITS, jnp.ones(4), guided=False), LOGITS)
