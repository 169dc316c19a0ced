"""The key/value cache: fixed slots, a length per row, written and rewound without copies of the model."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lumina_jax.config import TransformerConfig
from lumina_jax.dims import Array, Float, Int, typed


class Cache(NamedTuple):
    """Keys and values of every layer, [B, K, T, H] each, and how many slots of each row are filled.

    Heads before slots, as attention multiplies them: compilers then read the cache as it lies, without a copy of it.
    """

    keys: tuple[Array, ...]
    values: tuple[Array, ...]
    length: Array  # [B] int32


def init_cache(
    config: TransformerConfig, num_rows: int, num_slots: int, dtype: str | None = None
) -> Cache:
    """An empty cache for `num_rows` sequences of at most `num_slots` tokens; dtype: the compute dtype."""
    shape = (num_rows, config.num_kv_heads, num_slots, config.head_size)
    zeros = [jnp.zeros(shape, dtype or config.compute_dtype) for _ in range(2 * config.num_layers)]
    keys, values = tuple(zeros[: config.num_layers]), tuple(zeros[config.num_layers :])
    return Cache(keys, values, jnp.zeros((num_rows,), jnp.int32))


@typed
def write(
    slots: Float[Array, "B K T H"], new: Float[Array, "B S K H"], start: Int[Array, "B"]
) -> Float[Array, "B K T H"]:
    """`slots` with `new[b]` in slots start[b] .. start[b]+S-1 of row b.

    The caller keeps start[b] + S <= T: beyond it XLA moves the window back inside, over older slots.
    """
    place = jax.vmap(lambda row, window, at: lax.dynamic_update_slice(row, window, (0, at, 0)))
    return place(slots, new.swapaxes(1, 2).astype(slots.dtype), start)


@typed
def rewind(cache: Cache, length: Int[Array, "B"]) -> Cache:
    """The cache as it was when row b held `length[b]` tokens; what lies beyond is overwritten later."""
    return cache._replace(length=length.astype(jnp.int32))
