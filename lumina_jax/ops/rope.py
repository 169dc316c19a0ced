"""Rotary position embedding in the half-split form: dimension j turns together with j + H/2 (arXiv 2104.09864)."""

from typing import NamedTuple

import jax.numpy as jnp

from lumina_jax.dims import Array, Float, Int, typed


class Rotation(NamedTuple):
    """Cosines and sines of every position's angles, [B, S, H/2]; made once per forward pass."""

    cos: Array
    sin: Array


@typed
def rotation(positions: Int[Array, "B S"], head_size: int, theta: float, dtype: str) -> Rotation:
    """The angles `position * theta^(-2j/H)`, computed in float32 and then cast to `dtype` as the original does."""
    exponents = jnp.arange(0, head_size, 2, dtype=jnp.float32) / head_size
    angles = positions[..., None].astype(jnp.float32) * theta**-exponents
    return Rotation(jnp.cos(angles).astype(dtype), jnp.sin(angles).astype(dtype))


@typed
def rotate(x: Float[Array, "B S N H"], angles: Rotation) -> Float[Array, "B S N H"]:
    """`x` with the pair (x_j, x_{j+H/2}) of every head turned by its position's j-th angle."""
    cos, sin = angles.cos[:, :, None, :], angles.sin[:, :, None, :]
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
