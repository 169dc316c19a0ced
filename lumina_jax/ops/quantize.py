"""Whole numbers with scales in the place of floats: weights by output channel or by group, cache slots by head.

The numbers and scales are qwix's (symmetric, the largest magnitude on the largest number). The products are our own:
with activations in floats `qwix.einsum` scales the whole weight before it multiplies, here the result is scaled.
"""

import math
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from lumina_jax.dims import Array, Float, typed

Integers = Literal["int8", "int4"]
GROUP = 128  # inputs that share a scale of int4, as in most releases of 4-bit weights
LARGE = 2**18  # elements; up to here a CPU keeps copies of weights as floats, which is faster
MIN_GROUP = 32  # below it the scales would weigh as much as they help: one for all inputs


class QuantizedWeight(NamedTuple):
    """A weight as `values` x `scale`, in the place of its array (an `ops.products.StoredWeight`)."""

    values: Array  # int8 or int4, the weight's shape
    # float32; of each axis as many as the weight has channels or groups there, 1 where one serves all
    scale: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the weight."""
        return self.values.shape

    def product(self, spec: str, x: Array, dtype: Any) -> Array:
        """`jnp.einsum(spec, x, weight)` as `dtype`; whole numbers up to 256 are exact in every dtype of x.

        The axes of the weight that stay are the last of the result, in their order: "BSD,DNH->BSNH".
        """
        letters, result = spec.split(",")[1].split("->")
        contracted = [axis for axis, letter in enumerate(letters) if letter not in result]
        weight, scale = _floats(self.values, x), self.scale
        by_channel = all(scale.shape[axis] == 1 for axis in contracted)
        if not by_channel:
            weight = _scaled(weight, scale.astype(x.dtype))
        y = jnp.einsum(spec, x, weight, preferred_element_type=jnp.float32)
        return (y * scale.squeeze(contracted) if by_channel else y).astype(dtype)

    def rows(self, first: int, count: int) -> "QuantizedWeight":
        """The weight of rows `first` to `first + count` of the first axis, each of which has scales of its own."""
        return QuantizedWeight(*(jax.lax.slice_in_dim(leaf, first, first + count) for leaf in self))

    def array(self) -> Array:
        """The weight as a float32 array."""
        return _scaled(self.values.astype(jnp.float32), self.scale)


class QuantizedSlots(NamedTuple):
    """Cached keys or values as whole numbers with a scale of every row, slot and head."""

    values: Array  # int8[B, K, T, H]
    scale: Array  # float32[B, K, T]

    @property
    def shape(self) -> tuple[int, ...]:
        """[B, K, T, H]."""
        return self.values.shape


@partial(jax.jit, static_argnames=("contracted", "integers"))
def quantize_weight(
    array: Array, contracted: tuple[int, ...], integers: Integers
) -> QuantizedWeight:
    """`array` with its `contracted` axes, those that a product sums over, as int8 or int4.

    int8: one scale an output channel. int4: one a channel and group of inputs, along the last contracted axis. No
    element moves by more than half a scale. A sharded array gives shards of the same axes.
    """
    last = contracted[-1]
    if integers == "int8":
        return _quantize(array, "int8", set(range(array.ndim)) - set(contracted))
    groups = {last: group_size(array.shape[last])}
    return _quantize(array, "int4", set(range(array.ndim)) - {last}, groups)


def group_size(num_inputs: int) -> int:
    """How many inputs share a scale of int4: GROUP, the largest part of it that divides them, or all of them.

    >>> group_size(4096), group_size(352), group_size(100)
    (128, 32, 100)
    """
    fitting = math.gcd(num_inputs, GROUP)
    return fitting if fitting >= MIN_GROUP else num_inputs


@typed
def quantize_slots(new: Float[Array, "B K S H"]) -> QuantizedSlots:
    """Keys or values as they are kept in an int8 cache."""
    values, scale = _quantize(new, "int8", (0, 1, 2))
    return QuantizedSlots(values, scale.squeeze(-1))


def _quantize(
    array: Array,
    integers: Integers,
    channels: Collection[int],
    groups: Mapping[int, int] | None = None,
) -> QuantizedWeight:
    """qwix's numbers, in float32: in bfloat16 the quotients themselves would be rounded."""
    import qwix  # here, so that what paints in floats does without it

    found = qwix.quantize(
        array.astype(jnp.float32),
        jnp.dtype(integers),
        channelwise_axes=sorted(channels),
        tiled_axes=groups,
    )
    return QuantizedWeight(found.qvalue, found.scale)


def _floats(values: Array, x: Array) -> Array:
    """`values` in the dtype of `x`, which accelerators make while they multiply.

    CPUs make a whole copy, and those of a loop before it begins, together as large as a model of floats. There a zero
    taken from x ties a large weight's copy to its product, after which its memory serves the next.
    """
    if values.size < LARGE:
        return values.astype(x.dtype)
    zero = jax.lax.platform_dependent(
        x.reshape(-1)[0],
        cpu=lambda first: (first * 0).astype(values.dtype),
        default=lambda first: jnp.zeros((), values.dtype),
    )
    return (values + zero).astype(x.dtype)


def _scaled(values: Array, scale: Array) -> Array:
    """`values` times their scales, of which an axis has one, one a group or one an element."""
    for axis, (size, count) in enumerate(zip(values.shape, scale.shape, strict=True)):
        if count not in (1, size):
            scale = jnp.repeat(scale, size // count, axis=axis)
    return values * scale
