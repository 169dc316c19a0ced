"""Rotary positions: the formula, and that only distances matter."""

import jax
import jax.numpy as jnp
import numpy as np

from lumina_jax.ops.rope import rotate, rotation


def test_rotate_turns_pairs_of_halves():
    """Dimension j and j + H/2 turn by position * theta^(-2j/H)."""
    x = np.random.default_rng(0).normal(size=(1, 3, 2, 8))
    positions = np.array([[0, 5, 11]])
    angle = positions[..., None] * 100.0 ** (-np.arange(4) / 4)
    cos, sin = np.cos(angle)[:, :, None], np.sin(angle)[:, :, None]
    want = np.concatenate(
        [x[..., :4] * cos - x[..., 4:] * sin, x[..., 4:] * cos + x[..., :4] * sin], -1
    )
    got = rotate(jnp.float32(x), rotation(jnp.asarray(positions), 8, 100.0, "float32"))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_rotated_product_depends_on_distance_only():
    """q at 7 with k at 3 scores like q at 107 with k at 103, and unlike k at 4."""
    keys = jax.random.split(jax.random.key(0))
    query, key = (jax.random.normal(one, (1, 1, 1, 16)) for one in keys)

    def score(query_position: int, key_position: int) -> float:
        def turned(x: jax.Array, position: int) -> jax.Array:
            return rotate(x, rotation(jnp.full((1, 1), position), 16, 1e4, "float32"))

        return float((turned(query, query_position) * turned(key, key_position)).sum())

    np.testing.assert_allclose(score(7, 3), score(107, 103), rtol=1e-4)
    assert abs(score(7, 3) - score(7, 4)) > 1e-2
