"""The key/value cache: fixed slots, a length per row, written and rewound without copies of the model.

Slots are arrays of floats, or int8 with scales (`ops.quantize`); whoever reads or writes them is told by their type.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lumina_jax.config import TransformerConfig
from lumina_jax.dims import Array, Float, Int, typed
from lumina_jax.ops.quantize import QuantizedSlots, quantize_slots

Slots = Array | QuantizedSlots


class Cache(NamedTuple):
    """Keys and values of every layer, [B, K, T, H] each, and how many slots of each row are filled.

    Heads before slots, as attention multiplies them: compilers then read the cache as it lies, without a copy of it.

    The first axis of every leaf is B.
    """

    keys: tuple[Slots, ...]
    values: tuple[Slots, ...]
    length: Array  # [B] int32


class Scatter(NamedTuple):
    """Where tokens go that do not follow each other, and what each of them sees."""

    slots: Array  # Int[B, S]
    seen: Array  # Bool[B, S, T], itself included


def init_cache(
    config: TransformerConfig, num_rows: int, num_slots: int, dtype: str | None = None
) -> Cache:
    """An empty cache for `num_rows` sequences of at most `num_slots` tokens; dtype: `config.cache_dtype`."""
    dtype = dtype or config.cache_dtype or config.compute_dtype
    shape = (num_rows, config.num_kv_heads, num_slots, config.head_size)

    def empty() -> Slots:
        zeros = jnp.zeros(shape, dtype)
        return QuantizedSlots(zeros, jnp.zeros(shape[:-1])) if dtype == "int8" else zeros

    keys, values = ([empty() for _ in range(config.num_layers)] for _ in range(2))
    return Cache(tuple(keys), tuple(values), jnp.zeros((num_rows,), jnp.int32))


def cache_bytes(config: TransformerConfig, num_rows: int, num_slots: int) -> int:
    """The bytes of such a cache, lengths included."""
    leaves = jax.tree.leaves(jax.eval_shape(lambda: init_cache(config, num_rows, num_slots)))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


@typed
def write(
    slots: Float[Array, "B K T H"] | QuantizedSlots,
    new: Float[Array, "B S K H"],
    start: Int[Array, "B"],
) -> Float[Array, "B K T H"] | QuantizedSlots:
    """`slots` with `new[b]` in slots start[b] .. start[b]+S-1 of row b.

    The caller keeps start[b] + S <= T: beyond it XLA moves the window back inside, over older slots.
    """

    def place(row: Array, window: Array, at: Array) -> Array:
        return lax.dynamic_update_slice(row, window, (0, at, *[0] * (row.ndim - 2)))

    kept = _kept(slots, new)
    return jax.tree.map(lambda old, window: jax.vmap(place)(old, window, start), slots, kept)


@typed
def scatter(
    slots: Float[Array, "B K T H"] | QuantizedSlots,
    new: Float[Array, "B S K H"],
    at: Int[Array, "B S"],
) -> Float[Array, "B K T H"] | QuantizedSlots:
    """`slots` with token s of `new[b]` in slot at[b, s] of row b; of several in one slot any one stays."""

    def place(row: Array, tokens: Array, at: Array) -> Array:
        return row.at[:, at].set(tokens)

    kept = _kept(slots, new)
    return jax.tree.map(lambda old, tokens: jax.vmap(place)(old, tokens, at), slots, kept)


def _kept(slots: Slots, new: Array) -> Slots:
    """Keys or values [B, S, K, H] as the cache keeps them, [B, K, S, H]."""
    new = new.swapaxes(1, 2)
    return quantize_slots(new) if isinstance(slots, QuantizedSlots) else new.astype(slots.dtype)


@typed
def rewind(cache: Cache, length: Int[Array, "B"]) -> Cache:
    """The cache as it was when row b held `length[b]` tokens; what lies beyond is overwritten later."""
    return cache._replace(length=length.astype(jnp.int32))
