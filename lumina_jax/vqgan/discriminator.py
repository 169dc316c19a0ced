"""A patch discriminator (pix2pix, arXiv 1611.07004): one logit per patch says whether it looks real."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from lumina_jax.dims import Array, Float, PRNGKeyArray, typed
from lumina_jax.vqgan.layers import Norm

WIDTHS = (32, 64, 128)  # each halves the resolution
NUM_GROUPS = 8


class Discriminator(nn.Module):
    """Strided 4x4 convolutions with GroupNorm, so that images of a batch do not mix."""

    @nn.compact
    def __call__(self, pixels: Array) -> Array:
        """[B,Y,X,3] in [-1, 1] -> logits [B,Y/8,X/8]."""
        x = pixels
        for index, width in enumerate(WIDTHS):
            x = nn.Conv(width, (4, 4), strides=2, padding=1, name=f"conv_{index}")(x)
            if index:
                x = Norm(NUM_GROUPS, name=f"norm_{index}")(x)
            x = nn.leaky_relu(x, 0.2)
        return nn.Conv(1, (3, 3), padding=1, name="conv_out")(x)[..., 0]


@typed
def init_discriminator(key: PRNGKeyArray) -> dict[str, Any]:
    """Random parameters in float32."""
    return dict(Discriminator().init(key, jnp.zeros((1, 16, 16, 3)))["params"])


@typed
def realness(params: Mapping[str, Any], pixels: Float[Array, "B Y X 3"]) -> Float[Array, "B P Q"]:
    """One logit per 8x8 block: above 0 looks real."""
    return jnp.asarray(Discriminator().apply({"params": params}, pixels))
