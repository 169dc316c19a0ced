"""Pixels to codes and back, as pure functions of a parameter tree that mirrors the release:

    encoder/…  quant_conv/conv  quantize/embedding [M, E]  post_quant_conv/conv  decoder/…

Codes are computed in float32 at the highest precision whatever the parameters are stored in, because one
rounding can flip a code.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lumina_jax.config import VQGANConfig
from lumina_jax.dims import Array, Float, Int, PRNGKeyArray, UInt8, typed
from lumina_jax.vqgan.modules import Decoder, Encoder, PixelwiseConv
from lumina_jax.vqgan.quantise import nearest_codes, normalise

Params = Mapping[str, Any]
HIGHEST = jax.lax.Precision.HIGHEST


class Reconstruction(NamedTuple):
    """Everything a training loss reads."""

    pixels: Array  # [B, Y, X, 3] in [-1, 1], not clamped
    encodings: Array  # [B, P, Q, E] before quantisation
    quantised: Array  # [B, P, Q, E] the chosen codes
    codes: Array  # [B, P, Q]


@typed
def init_vqgan(config: VQGANConfig, key: PRNGKeyArray) -> dict[str, Any]:
    """Random parameters in float32; the codebook is uniform in ±1/M as in taming-transformers."""
    encoder_key, quant_key, code_key, post_key, decoder_key = jax.random.split(key, 5)
    pixels = jnp.zeros((1, config.patch_px, config.patch_px, 3))
    features = jnp.zeros((1, 1, 1, config.z_channels))
    encodings = jnp.zeros((1, 1, 1, config.code_width))
    quant_conv = PixelwiseConv(config, channels=config.code_width)
    post_quant_conv = PixelwiseConv(config, channels=config.z_channels)
    bound = 1 / config.num_codes
    shape = (config.num_codes, config.code_width)
    params = {
        "encoder": Encoder(config).init(encoder_key, pixels)["params"],
        "quant_conv": quant_conv.init(quant_key, features)["params"],
        "quantize": {"embedding": jax.random.uniform(code_key, shape, minval=-bound, maxval=bound)},
        "post_quant_conv": post_quant_conv.init(post_key, encodings)["params"],
        "decoder": Decoder(config).init(decoder_key, features)["params"],
    }
    if not config.has_decoder:
        del params["decoder"]
    return params


def abstract_vqgan(config: VQGANConfig) -> dict[str, Any]:
    """The tree of `init_vqgan` as shapes and dtypes, without computing anything."""
    return jax.tree.map(lambda leaf: leaf, _abstract_vqgan(config))  # the caller's own


@typed
def encodings(
    params: Params,
    config: VQGANConfig,
    pixels: Float[Array, "B Y X 3"],
    *,
    precision: jax.lax.Precision | None = HIGHEST,
    dropout_key: PRNGKeyArray | None = None,
) -> Float[Array, "B P Q E"]:
    """Pixels in [-1, 1] to the float32 vectors that are quantised.

    Raises ValueError when the height or the width is not a multiple of `config.patch_px`.
    """
    check_pixels(pixels.shape, config)
    encoder = Encoder(config, precision, deterministic=dropout_key is None)
    features = encoder.apply({"params": params["encoder"]}, pixels, rngs=_rngs(dropout_key))
    quant_conv = PixelwiseConv(config, precision, channels=config.code_width)
    vectors: Any = quant_conv.apply({"params": params["quant_conv"]}, features)
    return normalise(vectors) if config.normalise_codes else vectors


@typed
def encode(
    params: Params, config: VQGANConfig, pixels: Float[Array, "B Y X 3"]
) -> Int[Array, "B P Q"]:
    """Pixels in [-1, 1] to codes, P = Y / patch, Q = X / patch."""
    return nearest_codes(encodings(params, config, pixels), params["quantize"]["embedding"])


@typed
def decode_vectors(
    params: Params,
    config: VQGANConfig,
    vectors: Float[Array, "B P Q E"],
    *,
    precision: jax.lax.Precision | None = HIGHEST,
    dropout_key: PRNGKeyArray | None = None,
) -> Float[Array, "B Y X 3"]:
    """Codebook vectors to pixels around [-1, 1], not clamped. Raises ValueError where the VQGAN has no decoder."""
    if not config.has_decoder:
        raise ValueError(
            "this checkpoint's VQGAN has no decoder, because transformers' files hold none: it reads images and paints "
            "none; convert it again with --vqgan vqgan.ckpt"
        )
    post_quant_conv = PixelwiseConv(config, precision, channels=config.z_channels)
    features = post_quant_conv.apply({"params": params["post_quant_conv"]}, vectors)
    decoder = Decoder(config, precision, deterministic=dropout_key is None)
    pixels: Any = decoder.apply({"params": params["decoder"]}, features, rngs=_rngs(dropout_key))
    return pixels


@typed
def decode(
    params: Params, config: VQGANConfig, codes: Int[Array, "B P Q"]
) -> Float[Array, "B Y X 3"]:
    """Codes to pixels around [-1, 1], not clamped: `to_pixels` makes them an image."""
    return decode_vectors(params, config, params["quantize"]["embedding"][codes])


@typed
def reconstruct(
    params: Params,
    config: VQGANConfig,
    pixels: Float[Array, "B Y X 3"],
    *,
    precision: jax.lax.Precision | None = None,
    dropout_key: PRNGKeyArray | None = None,
) -> Reconstruction:
    """Encode, quantise and decode, with gradients passed straight through the quantiser."""
    keys = (None, None) if dropout_key is None else jax.random.split(dropout_key)
    vectors = encodings(params, config, pixels, precision=precision, dropout_key=keys[0])
    embedding = jax.lax.stop_gradient(params["quantize"]["embedding"])
    codes = nearest_codes(jax.lax.stop_gradient(vectors), embedding)
    quantised = embedding[codes]
    through = vectors + jax.lax.stop_gradient(quantised - vectors)
    output = decode_vectors(params, config, through, precision=precision, dropout_key=keys[1])
    return Reconstruction(output, vectors, quantised, codes)


@typed
def from_pixels(pixels: UInt8[Array, "B Y X 3"]) -> Float[Array, "B Y X 3"]:
    """uint8 to [-1, 1]: value / 255 * 2 - 1."""
    return pixels.astype(jnp.float32) / 255 * 2 - 1


@typed
def to_pixels(pixels: Float[Array, "B Y X 3"]) -> UInt8[Array, "B Y X 3"]:
    """[-1, 1] to uint8, clamped and truncated (not rounded) as the original does."""
    clamped = jnp.clip(pixels.astype(jnp.float32), -1, 1)
    return ((clamped + 1) / 2 * 255).astype(jnp.uint8)


def check_pixels(shape: tuple[int, ...], config: VQGANConfig) -> None:
    """Raise ValueError unless height and width are multiples of the patch."""
    _, height, width, _ = shape
    patch = config.patch_px
    if height % patch or width % patch:
        raise ValueError(
            f"image of {width}x{height} px: the VQGAN wants multiples of {patch} px; crop it first"
        )


def _rngs(dropout_key: PRNGKeyArray | None) -> dict[str, Any]:
    return {} if dropout_key is None else {"dropout": dropout_key}


@lru_cache
def _abstract_vqgan(config: VQGANConfig) -> dict[str, Any]:
    return jax.eval_shape(lambda key: init_vqgan(config, key), jax.random.key(0))
