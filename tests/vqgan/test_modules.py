"""The pieces of the VQGAN: the stem, the norms, the separable convolution, and shapes of the whole."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumina_jax.config import VQGANConfig
from lumina_jax.vqgan.layers import (
    BELOW_AND_RIGHT,
    SAME,
    depth_to_space,
    depthwise,
    group_norm,
    pixel_norm,
    space_to_depth,
)
from lumina_jax.vqgan.modules import Down

TINY = VQGANConfig(8, (1, 2), 1, z_channels=4, code_width=4, num_codes=16, num_groups=4)


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_depth_to_space_inverts_space_to_depth():
    pixels = normal(2, 12, 8, 3)
    blocks = space_to_depth(pixels, 4)
    assert blocks.shape == (2, 3, 2, 48)
    np.testing.assert_array_equal(depth_to_space(blocks, 4), pixels)


def test_space_to_depth_keeps_a_block_together():
    pixels = normal(1, 8, 12, 3)
    np.testing.assert_array_equal(
        space_to_depth(pixels, 4)[0, 1, 2].reshape(4, 4, 3), pixels[0, 4:8, 8:12]
    )


def test_group_norm_equals_flax():
    x, norm = 3 + 2 * normal(2, 5, 3, 12), nn.GroupNorm(4, epsilon=1e-6, use_fast_variance=False)
    scale, bias = normal(12, seed=1), normal(12, seed=2)
    expected = norm.apply({"params": {"scale": scale, "bias": bias}}, x)
    np.testing.assert_allclose(group_norm(x, scale, bias, 4), expected, atol=1e-5)


def test_pixel_norm_equals_group_norm_of_each_pixel():
    x, scale, bias = normal(1, 2, 3, 12), normal(12, seed=1), normal(12, seed=2)
    alone = group_norm(x.reshape(6, 1, 1, 12), scale, bias, 4).reshape(x.shape)
    np.testing.assert_allclose(pixel_norm(x, scale, bias, 4), alone, atol=1e-5)


@pytest.mark.parametrize(("stride", "padding"), [(1, SAME), (2, BELOW_AND_RIGHT)])
def test_depthwise_equals_grouped_convolution(stride, padding):
    x, taps = normal(2, 6, 8, 5), normal(3, 3, 5, seed=1)
    expected = jax.lax.conv_general_dilated(
        x,
        taps[:, :, None],
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=5,
    )
    np.testing.assert_allclose(depthwise(x, taps, stride, padding), expected, atol=1e-5)


def test_downsampling_is_padded_right_and_below_only():
    x = normal(1, 4, 4, 8)
    level = Down(TINY, channels=8)
    params = level.init(jax.random.key(0), x)
    kernel, bias = (params["params"]["downsample"][name] for name in ("kernel", "bias"))
    blocks = {"params": {"block_0": params["params"]["block_0"]}}
    features = Down(TINY, channels=8, halve=False).apply(blocks, x)
    corner = jnp.einsum("IJC,IJCO->O", features[0, :3, :3], kernel) + bias
    np.testing.assert_allclose(level.apply(params, x)[0, 0, 0], corner, atol=1e-5)
