"""Pixels to codes and back: batches, sizes, storage types, gradients."""

from dataclasses import replace
from functools import partial

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
STEM = replace(PLAIN, channel_multipliers=(1,), stem_px=8)
LEAN = replace(PLAIN, stem_px=4, separable=True, norm="pixel", normalise_codes=True)
CONFIGS = pytest.mark.parametrize("config", [PLAIN, STEM, LEAN], ids=["plain", "stem", "lean"])


@partial(jax.jit, static_argnums=1)
def there_and_back(params, config, pixels):
    """Codes of the pixels, and the pixels of these codes."""
    codes = encode(params, config, pixels)
    return codes, decode(params, config, codes)


vectors_of = jax.jit(encodings, static_argnums=1)
rebuild = jax.jit(reconstruct, static_argnums=1)


def random_params(config: VQGANConfig):
    """Weights by numpy: compiling an initialiser takes longer than all of the rest."""
    rng = np.random.default_rng(0)
    abstract = abstract_vqgan(config)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), "float32"), abstract
    )


def random_pixels(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (*shape, 3)), jnp.float32)


@pytest.mark.parametrize(
    "config",
    [pytest.param(STEM, id="stem"), pytest.param(LEAN, id="lean", marks=pytest.mark.slow)],
)
def test_batch_equals_one_by_one(config):
    params, pixels = random_params(config), random_pixels(2, 8, 16)
    codes, decoded = there_and_back(params, config, pixels)
    for index in range(2):
        alone_codes, alone = there_and_back(params, config, pixels[index][None])
        np.testing.assert_array_equal(codes[index], alone_codes[0])
        np.testing.assert_allclose(decoded[index], alone[0], atol=1e-4)


@CONFIGS
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 5), (3, 1)])
def test_any_multiple_of_the_patch_goes_through(config, rows, columns):
    size = (rows * config.patch_px, columns * config.patch_px)
    pixels = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    codes, decoded = jax.eval_shape(
        lambda params, pixels: there_and_back(params, config, pixels),
        abstract_vqgan(config),
        pixels,
    )
    assert codes.shape == (2, rows, columns)
    assert decoded.shape == pixels.shape


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match="20x16 px.*multiples of 8 px"):
        encode(random_params(STEM), STEM, random_pixels(1, 16, 20))


@pytest.mark.slow
def test_init_gives_the_abstract_tree_and_one_encoding_for_each_patch():
    params = init_vqgan(STEM, jax.random.key(0))
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params)
    assert shapes == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), abstract_vqgan(STEM))
    assert bool(jnp.isfinite(vectors_of(params, STEM, random_pixels(1, 8, 16))).all())


def test_parameters_stored_in_bfloat16_compute_in_float32():
    params, pixels = random_params(STEM), random_pixels(2, 16, 16)
    stored = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    widened = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), stored)
    vectors = vectors_of(stored, STEM, pixels)
    assert vectors.dtype == jnp.float32
    np.testing.assert_allclose(vectors, vectors_of(widened, STEM, pixels), atol=1e-6)


def test_pixel_norm_makes_a_code_independent_of_far_pixels_but_for_attention():
    config = replace(STEM, norm="pixel")
    params, pixels = random_params(config), random_pixels(1, 8, 80)
    params["encoder"]["mid"]["attn_1"]["proj_out"]["kernel"] *= 0
    changed = vectors_of(params, config, pixels.at[:, :, -8:].set(1.0))
    near = vectors_of(params, config, pixels)[:, :, 0]
    np.testing.assert_allclose(changed[:, :, 0], near, atol=1e-6)


def test_normalised_codes_have_length_one():
    config = replace(STEM, normalise_codes=True)
    vectors = vectors_of(random_params(config), config, random_pixels(1, 16, 8))
    np.testing.assert_allclose(jnp.linalg.norm(vectors, axis=-1), 1, atol=1e-5)


def test_reconstruct_equals_decode_of_encode():
    params, pixels = random_params(STEM), random_pixels(1, 8, 16)
    result = rebuild(params, STEM, pixels)
    codes, decoded = there_and_back(params, STEM, pixels)
    np.testing.assert_array_equal(result.codes, codes)
    np.testing.assert_allclose(result.pixels, decoded, atol=1e-4)  # z + (e - z) rounds


@pytest.mark.slow
def test_gradient_passes_straight_through_to_the_encoder_and_not_to_the_codebook():
    params, pixels = random_params(STEM), random_pixels(1, 8, 8)
    loss = jax.jit(lambda tree: jnp.square(reconstruct(tree, STEM, pixels).pixels).sum())
    gradients = jax.grad(loss)(params)
    assert float(jnp.abs(gradients["encoder"]["conv_in"]["kernel"]).max()) > 0
    assert float(jnp.abs(gradients["quantize"]["embedding"]).max()) == 0


def test_dropout_acts_with_a_key_only():
    config = replace(STEM, dropout=0.5)
    params, pixels = random_params(config), random_pixels(1, 8, 16)
    plain = vectors_of(params, STEM, pixels)
    np.testing.assert_allclose(vectors_of(params, config, pixels), plain, atol=1e-5)
    dropped = vectors_of(params, config, pixels, dropout_key=jax.random.key(0))
    assert float(jnp.abs(plain - dropped).max()) > 1e-2


def test_pixels_are_clamped_and_truncated():
    values = jnp.asarray([-2.0, -1.0, 0.0, 0.999, 3.0]).reshape(1, 1, 5, 1).repeat(3, -1)
    assert to_pixels(values)[0, 0, :, 0].tolist() == [0, 0, 127, 254, 255]


def test_every_level_survives_both_ways():
    levels = jnp.arange(256, dtype=jnp.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
    returned = to_pixels(from_pixels(levels)).astype(int)
    assert int(jnp.abs(returned - levels.astype(int)).max()) <= 1  # truncation may lose one level
