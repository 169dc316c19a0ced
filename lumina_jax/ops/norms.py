"""Chameleon's two norms: RMSNorm on the residual stream, LayerNorm on queries and keys (arXiv 2405.09818, 2.3)."""

import jax.numpy as jnp
from jax import lax

from lumina_jax.dims import Array, Float, typed


@typed
def rms_norm(
    x: Float[Array, "*rows D"], scale: Float[Array, "... D"], eps: float
) -> Float[Array, "*rows D"]:
    """`x / rms(x) * scale` along the last axis: float32 inside, cast back to x's dtype, then scaled."""
    wide = x.astype(jnp.float32)
    mean_square = jnp.mean(wide * wide, axis=-1, keepdims=True)
    return (wide * lax.rsqrt(mean_square + eps)).astype(x.dtype) * scale


@typed
def head_norm(
    x: Float[Array, "B S N H"],
    scale: Float[Array, "... R H"],
    bias: Float[Array, "... R H"],
    eps: float,
) -> Float[Array, "B S N H"]:
    """LayerNorm of each head of queries or keys, before RoPE; statistics in float32, affine in x's dtype.

    The release was trained on R model-parallel shards and each shard learnt its own affine: row r serves
    heads r*N/R to (r+1)*N/R-1. With N=8, R=4, heads 0 and 1 read row 0.
    """
    repeats = x.shape[2] // scale.shape[-2]
    wide = x.astype(jnp.float32)
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
    normalised = (centred * lax.rsqrt(variance + eps)).astype(x.dtype)
    return normalised * jnp.repeat(scale, repeats, axis=-2) + jnp.repeat(bias, repeats, axis=-2)
