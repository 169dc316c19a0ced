"""Pixels to codes and back: batches, sizes, storage types, gradients."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lumina_jax.config import VQGANConfig
from lumina_jax.vqgan.codec import (
    abstract_vqgan,
    decode,
    encode,
    encodings,
    from_pixels,
    init_vqgan,
    reconstruct,
    to_pixels,
)

PLAIN = VQGANConfig(8, (1, 2), 1, z_channels=4, code_width=4, num_codes=64, num_groups=4)
STEM = replace(PLAIN, stem_px=4)
LEAN = replace(STEM, separable=True, norm="pixel", normalise_codes=True)
CONFIGS = pytest.mark.parametrize("config", [PLAIN, STEM, LEAN], ids=["plain", "stem", "lean"])


def random_params(config: VQGANConfig):
    """Weights by numpy: compiling an initialiser takes longer than all of the rest."""
    rng = np.random.default_rng(0)
    abstract = abstract_vqgan(config)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), "float32"), abstract
    )


def random_pixels(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (*shape, 3)), jnp.float32)


@CONFIGS
def test_batch_equals_one_by_one(config):
    params, pixels = random_params(config), random_pixels(3, 16, 24)
    codes = encode(params, config, pixels)
    alone = jnp.concatenate([encode(params, config, one[None]) for one in pixels])
    np.testing.assert_array_equal(codes, alone)
    decoded = decode(params, config, codes)
    alone = jnp.concatenate([decode(params, config, one[None]) for one in codes])
    np.testing.assert_allclose(decoded, alone, atol=1e-5)


@CONFIGS
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 5), (3, 1)])
def test_any_multiple_of_the_patch_goes_through(config, rows, columns):
    params, patch = random_params(config), config.patch_px
    codes = encode(params, config, random_pixels(1, rows * patch, columns * patch))
    assert codes.shape == (1, rows, columns)
    assert decode(params, config, codes).shape == (1, rows * patch, columns * patch, 3)


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match="20x16 px.*multiples of 8 px"):
        encode(random_params(STEM), STEM, random_pixels(1, 16, 20))


def test_init_gives_the_abstract_tree_and_one_encoding_for_each_patch():
    params = init_vqgan(STEM, jax.random.key(0))
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params)
    assert shapes == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), abstract_vqgan(STEM))
    assert bool(jnp.isfinite(encodings(params, STEM, random_pixels(1, 8, 16))).all())


def test_parameters_stored_in_bfloat16_compute_in_float32():
    params, pixels = random_params(STEM), random_pixels(2, 16, 16)
    stored = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    widened = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), stored)
    vectors = encodings(stored, STEM, pixels)
    assert vectors.dtype == jnp.float32
    np.testing.assert_allclose(vectors, encodings(widened, STEM, pixels), atol=1e-6)
    np.testing.assert_array_equal(encode(stored, STEM, pixels), encode(widened, STEM, pixels))


def test_local_norm_makes_a_code_independent_of_far_pixels_before_attention():
    config = replace(LEAN, channel_multipliers=(1,))
    params = random_params(config)
    params["encoder"]["mid"]["attn_1"]["proj_out"]["kernel"] *= 0
    pixels = random_pixels(1, 8, 80)
    changed = encodings(params, config, pixels.at[:, :, -4:].set(1.0))
    np.testing.assert_allclose(changed[:, :, 0], encodings(params, config, pixels)[:, :, 0])


def test_normalised_codes_have_length_one():
    vectors = encodings(random_params(LEAN), LEAN, random_pixels(1, 16, 8))
    np.testing.assert_allclose(jnp.linalg.norm(vectors, axis=-1), 1, atol=1e-5)


def test_reconstruct_equals_decode_of_encode():
    params, pixels = random_params(STEM), random_pixels(2, 16, 8)
    result = reconstruct(params, STEM, pixels)
    np.testing.assert_array_equal(result.codes, encode(params, STEM, pixels))
    expected = decode(params, STEM, result.codes)
    np.testing.assert_allclose(result.pixels, expected, atol=1e-4)  # z + (e - z) rounds


def test_gradient_passes_straight_through_to_the_encoder_and_not_to_the_codebook():
    params, pixels = random_params(STEM), random_pixels(1, 8, 8)
    gradients = jax.grad(lambda tree: jnp.square(reconstruct(tree, STEM, pixels).pixels).sum())(
        params
    )
    assert float(jnp.abs(gradients["encoder"]["conv_in"]["kernel"]).max()) > 0
    assert float(jnp.abs(gradients["quantize"]["embedding"]).max()) == 0


def test_dropout_needs_a_key_and_changes_the_result():
    config = replace(STEM, dropout=0.5)
    params, pixels = random_params(config), random_pixels(1, 8, 8)
    plain = reconstruct(params, config, pixels).encodings
    np.testing.assert_array_equal(plain, reconstruct(params, STEM, pixels).encodings)
    dropped = reconstruct(params, config, pixels, dropout_key=jax.random.key(0)).encodings
    assert float(jnp.abs(plain - dropped).max()) > 0


def test_pixels_are_clamped_and_truncated():
    values = jnp.asarray([-2.0, -1.0, 0.0, 0.999, 3.0]).reshape(1, 1, 5, 1).repeat(3, -1)
    assert to_pixels(values)[0, 0, :, 0].tolist() == [0, 0, 127, 254, 255]


def test_every_level_survives_both_ways():
    levels = jnp.arange(256, dtype=jnp.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
    returned = to_pixels(from_pixels(levels)).astype(int)
    assert int(jnp.abs(returned - levels.astype(int)).max()) <= 1  # truncation may lose one level
