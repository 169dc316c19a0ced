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
    """Keys and values of every layer, [B, T, K, H] each, and how many slots of each row are filled.

    The first axis of every leaf is B.
    """

    keys: tuple[Slots, ...]
    values: tuple[Slots, ...]
    length: Array  # [B] int32


def init_cache(
    config: TransformerConfig, num_rows: int, num_slots: int, dtype: str | None = None
) -> Cache:
    """An empty cache for `num_rows` sequences of at most `num_slots` tokens; dtype: `config.cache_dtype`."""
    dtype = dtype or config.cache_dtype or config.compute_dtype
    shape = (num_rows, num_slots, config.num_kv_heads, config.head_size)

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
    slots: Float[Array, "B T K H"] | QuantizedSlots,
    new: Float[Array, "B S K H"],
    start: Int[Array, "B"],
) -> Float[Array, "B T K H"] | QuantizedSlots:
    """`slots` with `new[b]` in slots start[b] .. start[b]+S-1 of row b.

    The caller keeps start[b] + S <= T: beyond it XLA moves the window back inside, over older slots.
    """

    def place(row: Array, window: Array, at: Array) -> Array:
        return lax.dynamic_update_slice(row, window, (at, *[0] * (row.ndim - 1)))

    kept = quantize_slots(new) if isinstance(slots, QuantizedSlots) else new.astype(slots.dtype)
    return jax.tree.map(lambda old, window: jax.vmap(place)(old, window, start), slots, kept)


@typed
def rewind(cache: Cache, length: Int[Array, "B"]) -> Cache:
    """The cache as it was when row b held `length[b]` tokens; what lies beyond is overwritten later."""
    return cache._replace(length=length.astype(jnp.int32))
