"""Encoder and decoder of the VQGAN (taming-transformers' VQModel, as Chameleon uses it), channels last.

Names mirror the release: `encoder.down.0.block.1.conv1` is `encoder/down_0/block_1/conv1` here.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lumina_jax.config import VQGANConfig
from lumina_jax.dims import Array
from lumina_jax.vqgan.layers import (
    BELOW_AND_RIGHT,
    SAME,
    Norm,
    Padding,
    Pointwise,
    SeparableConv,
    depth_to_space,
    space_to_depth,
)


class Network(nn.Module):
    """What every part shares: the sizes, the arithmetic, and the makers of its pieces."""

    config: VQGANConfig
    precision: jax.lax.Precision | None = None  # of the convolutions; HIGHEST computes codes
    dtype: Any = jnp.float32  # of the computation, whatever the parameters are stored in

    @nn.nowrap
    def conv(
        self, name: str, channels: int, strides: int = 1, padding: Padding = SAME
    ) -> nn.Module:
        """A 3x3 convolution, separable if the config says so."""
        options = {"name": name, "dtype": self.dtype, "precision": self.precision}
        options |= {"strides": strides, "padding": padding}
        if self.config.separable:
            return SeparableConv(channels, **options)
        return nn.Conv(channels, (3, 3), **options)

    @nn.nowrap
    def pointwise(self, name: str, channels: int) -> Pointwise:
        """A 1x1 convolution."""
        return Pointwise(channels, self.dtype, self.precision, name=name)

    @nn.nowrap
    def norm(self, name: str) -> Norm:
        """A GroupNorm with the config's number of groups."""
        return Norm(self.config.num_groups, self.config.norm == "pixel", name=name)

    @nn.nowrap
    def part(self, kind: type["Network"], name: str, **options) -> "Network":
        """A part with the same sizes and arithmetic."""
        return kind(self.config, self.precision, self.dtype, name=name, **options)


class ResBlock(Network):
    """norm, swish, conv twice, added to a shortcut that is 1x1 where the width changes."""

    channels: int = 0
    deterministic: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B,Y,X,C] -> [B,Y,X,channels]."""
        hidden = self.conv("conv1", self.channels)(nn.swish(self.norm("norm1")(x)))
        hidden = nn.swish(self.norm("norm2")(hidden))
        if self.config.dropout:
            dropout = nn.Dropout(self.config.dropout, name="dropout")
            hidden = dropout(hidden, deterministic=self.deterministic)
        hidden = self.conv("conv2", self.channels)(hidden)
        if x.shape[-1] != self.channels:
            x = self.pointwise("nin_shortcut", self.channels)(x)
        return x + hidden


class AttentionBlock(Network):
    """Single-head self-attention over all pixels, added to its input."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B,Y,X,C] -> [B,Y,X,C]."""
        batch, height, width, channels = x.shape
        normal = self.norm("norm")(x)
        q, k, v = (
            self.pointwise(name, channels)(normal).reshape(batch, height * width, channels)
            for name in "qkv"
        )
        scores = jnp.einsum("BSC,BTC->BST", q, k, precision=self.precision)
        weights = nn.softmax(scores.astype(jnp.float32) * channels**-0.5, axis=-1)
        mixed = jnp.einsum("BST,BTC->BSC", weights.astype(v.dtype), v, precision=self.precision)
        return x + self.pointwise("proj_out", channels)(mixed.reshape(x.shape))


class Middle(Network):
    """Residual block, attention, residual block at the lowest resolution."""

    deterministic: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B,P,Q,C] -> [B,P,Q,C]."""
        block = {"channels": x.shape[-1], "deterministic": self.deterministic}
        x = self.part(ResBlock, "block_1", **block)(x)
        x = self.part(AttentionBlock, "attn_1")(x)
        return self.part(ResBlock, "block_2", **block)(x)


class Down(Network):
    """One level of the encoder: residual blocks, then half the resolution except at the last level."""

    channels: int = 0
    halve: bool = True
    deterministic: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B,Y,X,C] -> [B,Y/2,X/2,channels]; the convolution is padded right and below only."""
        block = {"channels": self.channels, "deterministic": self.deterministic}
        for index in range(self.config.num_res_blocks):
            x = self.part(ResBlock, f"block_{index}", **block)(x)
        if self.halve:
            x = self.conv("downsample", self.channels, strides=2, padding=BELOW_AND_RIGHT)(x)
        return x


class Up(Network):
    """One level of the decoder: residual blocks, then twice the resolution except at level 0."""

    channels: int = 0
    double: bool = True
    deterministic: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B,Y,X,C] -> [B,2Y,2X,channels]."""
        block = {"channels": self.channels, "deterministic": self.deterministic}
        for index in range(self.config.num_res_blocks + 1):
            x = self.part(ResBlock, f"block_{index}", **block)(x)
        if self.double:
            x = self.conv("upsample", self.channels)(x.repeat(2, 1).repeat(2, 2))
        return x


class Encoder(Network):
    """Pixels in [-1, 1] to the features that are quantised (before `quant_conv`)."""

    deterministic: bool = True

    @nn.compact
    def __call__(self, pixels: Array) -> Array:
        """[B,Y,X,3] -> [B,P,Q,z_channels]."""
        widths = [self.config.channels * m for m in self.config.channel_multipliers]
        x = space_to_depth(pixels.astype(self.dtype), self.config.stem_px)
        x = self.conv("conv_in", self.config.channels)(x)
        for level, channels in enumerate(widths):
            options = {"channels": channels, "halve": level < len(widths) - 1}
            options["deterministic"] = self.deterministic
            x = self.part(Down, f"down_{level}", **options)(x)
        x = self.part(Middle, "mid", deterministic=self.deterministic)(x)
        x = nn.swish(self.norm("norm_out")(x))
        return self.conv("conv_out", self.config.z_channels)(x)


class Decoder(Network):
    """Features after `post_quant_conv` to pixels, not clamped."""

    deterministic: bool = True

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """[B,P,Q,z_channels] -> [B,Y,X,3]."""
        widths = [self.config.channels * m for m in self.config.channel_multipliers]
        x = self.conv("conv_in", widths[-1])(features.astype(self.dtype))
        x = self.part(Middle, "mid", deterministic=self.deterministic)(x)
        for level in reversed(range(len(widths))):
            options = {"channels": widths[level], "double": level > 0}
            options["deterministic"] = self.deterministic
            x = self.part(Up, f"up_{level}", **options)(x)
        x = nn.swish(self.norm("norm_out")(x))
        x = self.conv("conv_out", 3 * self.config.stem_px**2)(x)
        return depth_to_space(x, self.config.stem_px)


class PixelwiseConv(Network):
    """A 1x1 convolution beside the networks: `quant_conv` and `post_quant_conv`."""

    channels: int = 0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B,P,Q,C] -> [B,P,Q,channels]."""
        return self.pointwise("conv", self.channels)(x.astype(self.dtype))
