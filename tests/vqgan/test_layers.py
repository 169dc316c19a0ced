"""The depthwise convolution's own backward pass against XLA's grouped convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumina_jax.vqgan.layers import BELOW_AND_RIGHT, SAME, Padding, depthwise


@pytest.mark.parametrize(("stride", "padding"), [(1, SAME), (2, BELOW_AND_RIGHT)])
def test_depthwise_gradients_equal_those_of_the_grouped_convolution(stride: int, padding: Padding):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 8, 6, 5)), jnp.float32)
    taps = jnp.asarray(rng.normal(size=(3, 3, 5)), jnp.float32)

    def grouped(x: jax.Array, taps: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x,
            taps[:, :, None],
            (stride, stride),
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=5,
        )

    ours = jax.grad(lambda *a: jnp.sin(depthwise(*a, stride, padding)).sum(), (0, 1))(x, taps)
    theirs = jax.grad(lambda *a: jnp.sin(grouped(*a)).sum(), (0, 1))(x, taps)
    for own, reference in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(own, reference, rtol=1e-5, atol=1e-5)
