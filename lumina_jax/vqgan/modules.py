"""Encoder and decoder of the VQGAN (taming-transformers' VQModel, as Chameleon uses it), channels last.

Names mirror the release: `encoder.down.0.block.1.conv1` is `encoder/down_0/block_1/conv1` here.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lumina_jax.config import VQGANConfig
from lumina_jax.dims import Array, Float, typed

GROUP_NORM_EPS = 1e-6  # taming-transformers
Padding = tuple[tuple[int, int], tuple[int, int]]  # (above, below), (left, right)
SAME: Padding = ((1, 1), (1, 1))
BELOW_AND_RIGHT: Padding = ((0, 1), (0, 1))


@typed
def space_to_depth(pixels: Float[Array, "B Y X C"], stem_px: int) -> Float[Array, "B P Q D"]:
    """Move `stem_px` x `stem_px` neighbours into the channels: row, column, channel order."""
    batch, height, width, channels = pixels.shape
    rows, columns = height // stem_px, width // stem_px
    split = pixels.reshape(batch, rows, stem_px, columns, stem_px, channels)
    return split.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows, columns, -1)


@typed
def depth_to_space(blocks: Float[Array, "B P Q D"], stem_px: int) -> Float[Array, "B Y X C"]:
    """The inverse of `space_to_depth`."""
    batch, rows, columns, depth = blocks.shape
    split = blocks.reshape(batch, rows, columns, stem_px, stem_px, depth // stem_px**2)
    merged = split.transpose(0, 1, 3, 2, 4, 5)
    return merged.reshape(batch, rows * stem_px, columns * stem_px, -1)


@typed
def group_norm(
    x: Float[Array, "B Y X C"],
    scale: Float[Array, "C"],
    bias: Float[Array, "C"],
    num_groups: int,
) -> Float[Array, "B Y X C"]:
    """GroupNorm over pixels and the channels of a group, computed in float32 in two passes."""
    batch, height, width, channels = x.shape
    flat = x.astype(jnp.float32).reshape(batch, height * width, channels)
    centred = flat - _group_mean(flat, num_groups)
    variance = _group_mean(jnp.square(centred), num_groups)
    normal = centred * (jax.lax.rsqrt(variance + GROUP_NORM_EPS) * scale) + bias
    return normal.reshape(x.shape).astype(x.dtype)


@typed
def pixel_norm(
    x: Float[Array, "B Y X C"],
    scale: Float[Array, "C"],
    bias: Float[Array, "C"],
    num_groups: int,
) -> Float[Array, "B Y X C"]:
    """GroupNorm of every pixel by itself, over the channels of a group, in float32."""
    grouped = x.astype(jnp.float32).reshape(*x.shape[:-1], num_groups, -1)
    centred = grouped - grouped.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    normal = (centred * jax.lax.rsqrt(variance + GROUP_NORM_EPS)).reshape(x.shape)
    return (normal * scale + bias).astype(x.dtype)


def _group_mean(flat: Array, num_groups: int) -> Array:
    """[B,S,C] -> [B,1,C]: pixels first, then the channels of a group, which compiles to far faster loops."""
    batch, _, channels = flat.shape
    means = flat.mean(1).reshape(batch, num_groups, -1).mean(-1)
    return jnp.repeat(means, channels // num_groups, axis=-1)[:, None]


@typed
def depthwise(
    x: Float[Array, "B Y X C"], taps: Float[Array, "I J C"], stride: int, padding: Padding
) -> Float[Array, "B P Q C"]:
    """Convolve each channel with its own taps, as shifted sums: on CPUs 20 times faster than XLA's grouped
    convolution (jax 0.10).
    """
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    rows, columns, _ = taps.shape
    height = (padded.shape[1] - rows) // stride + 1
    width = (padded.shape[2] - columns) // stride + 1
    total = jnp.zeros((), x.dtype)
    for row in range(rows):
        for column in range(columns):
            window = padded[
                :,
                row : row + stride * (height - 1) + 1 : stride,
                column : column + stride * (width - 1) + 1 : stride,
            ]
            total = total + window * taps[row, column].astype(x.dtype)
    return total


class Norm(nn.Module):
    """GroupNorm with an affine map per channel, over the whole image or (`local`) at every pixel by itself.

    Local statistics make a patch's code independent of the rest of the picture and of its size.
    """

    num_groups: int
    local: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalise [B,Y,X,C]."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        if self.local:
            return pixel_norm(x, scale, bias, self.num_groups)
        return group_norm(x, scale, bias, self.num_groups)


class Pointwise(nn.Module):
    """A 1x1 convolution, computed as a matrix product: XLA's backward pass of the convolution transposes."""

    channels: int
    dtype: Any = jnp.float32
    precision: jax.lax.Precision | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B,Y,X,C] -> [B,Y,X,channels]."""
        shape = (1, 1, x.shape[-1], self.channels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        matrix = kernel[0, 0].astype(self.dtype)
        product = jnp.einsum("BYXI,IO->BYXO", x, matrix, precision=self.precision)
        return product + bias.astype(self.dtype)


class SeparableConv(nn.Module):
    """3x3 taps per channel, then a 1x1 convolution: about 8 times fewer products than a 3x3 convolution."""

    channels: int
    dtype: Any
    precision: jax.lax.Precision | None = None
    strides: int = 1
    padding: Padding = SAME

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B,Y,X,C] -> [B,Y/strides,X/strides,channels]."""
        init = nn.initializers.normal(1 / 3)
        taps = self.param("taps", init, (3, 3, x.shape[-1]))
        x = depthwise(x, taps, self.strides, self.padding)
        return Pointwise(self.channels, self.dtype, self.precision, name="pointwise")(x)


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
