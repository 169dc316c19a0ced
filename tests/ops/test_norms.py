"""The two norms against their formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from lumina_jax.ops.norms import head_norm, rms_norm


def test_rms_norm_equals_formula():
    """x / sqrt(mean x^2 + eps) * scale, for rows of very different size."""
    x = np.random.default_rng(0).normal(size=(2, 3, 5)) * [[[1e-3], [1.0], [1e3]]]
    scale = np.arange(1.0, 6.0)
    want = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * scale
    got = rms_norm(jnp.float32(x), jnp.float32(scale), 1e-5)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_rms_norm_in_bfloat16_sums_in_float32():
    """300 ones and a little: bfloat16 sums would stop at 256."""
    x = jnp.ones((1, 512), jnp.bfloat16)
    got = rms_norm(x, jnp.ones((512,), jnp.bfloat16), 0.0)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.float32(got), 1.0)


def test_head_norm_gives_each_shard_its_own_affine():
    """With N=6, R=3, heads 2r and 2r+1 are normalised with row r."""
    rng = np.random.default_rng(1)
    x, scale, bias = (
        rng.normal(2, 3, (2, 4, 6, 8)),
        rng.normal(size=(3, 8)),
        rng.normal(size=(3, 8)),
    )
    centred = x - x.mean(-1, keepdims=True)
    want = centred / np.sqrt(centred.var(-1, keepdims=True) + 1e-5)
    rows = np.array([0, 0, 1, 1, 2, 2])
    want = want * scale[rows] + bias[rows]
    got = head_norm(jnp.float32(x), jnp.float32(scale), jnp.float32(bias), 1e-5)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_rms_norm_gradient_is_finite_at_zero():
    """A row of zeros divides by sqrt(eps), not by zero."""
    gradient = jax.grad(lambda x: rms_norm(x, jnp.ones(4), 1e-5).sum())(jnp.zeros((1, 4)))
    assert bool(jnp.isfinite(gradient).all())
