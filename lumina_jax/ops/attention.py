"""Causal grouped-query attention, with the kernel chosen in one place."""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from lumina_jax.dims import Array, Bool, Float, Int, typed
from lumina_jax.ops.quantize import QuantizedSlots
from lumina_jax.ops.splash import Splash, make_splash

Kernel = Literal["xla", "cudnn", "splash"]
BLOCK = 512  # queries whose scores XLA's kernel holds at once


def choose_kernel(device: Any, dtype: str, head_size: int) -> Kernel:
    """The fused kernel of a TPU or GPU where it is legal, XLA elsewhere.

    Splash attention (Pallas) wants heads of whole TPU lanes, 128 numbers; cuDNN's flash attention an Ampere GPU or
    newer, 16-bit inputs and a head size that is a multiple of 8 and at most 128.
    """
    if device.platform == "tpu":
        return "splash" if head_size % 128 == 0 else "xla"
    fits = dtype in ("bfloat16", "float16") and head_size % 8 == 0 and head_size <= 128
    if device.platform in ("gpu", "cuda") and fits:
        return "cudnn" if float(getattr(device, "compute_capability", 0)) >= 8.0 else "xla"
    return "xla"


@typed
def attention(
    query: Float[Array, "B S N H"],
    key: Float[Array, "B T K H"],
    value: Float[Array, "B T K H"],
    *,
    segment_ids: Int[Array, "B S"] | None = None,
    key_segment_ids: Int[Array, "B T"] | None = None,
    part: Int[Array, ""] | None = None,
    kernel: Kernel = "xla",
    splash: Splash | None = None,
) -> Float[Array, "B S N H"]:
    """softmax(q k^T / sqrt(H)) v of whole sequences: a query sees itself and all before it, in its own segment only.

    Query head n reads key/value head n*K//N. T = S, unless the queries are one part of the sequence, the `part`-th of
    T/S; `key_segment_ids` are then those of all of it. `splash`: the kernel for these shapes, if it was made before.
    """
    if key_segment_ids is None:
        key_segment_ids = segment_ids
    if kernel == "splash":
        made = splash or make_splash(query.shape[1], query.shape[2])
        return made(query, key, value, segment_ids, key_segment_ids)
    start = None if part is None else part * query.shape[1]
    masked = part is not None or segment_ids is not None
    if kernel == "cudnn" and not (masked and query.shape[1] % 2):  # a trained mask wants even rows
        mask = None
        if masked:
            mask = visible_from(start, query.shape[1], key.shape[1], segment_ids, key_segment_ids)
        return jax.nn.dot_product_attention(
            query,
            key,
            value,
            mask=None if mask is None else mask[:, None],
            is_causal=part is None,
            implementation="cudnn",
        )
    key, value = key.swapaxes(1, 2), value.swapaxes(1, 2)
    if query.shape[1] > BLOCK:
        mixed = _attention_in_blocks(query, key, value, start, segment_ids, key_segment_ids)
    else:
        mask = visible_from(start, query.shape[1], key.shape[2], segment_ids, key_segment_ids)
        mixed = masked_attention(query, key, value, mask)
    return checkpoint_name(mixed, "attention")


@typed
def cached_attention(
    query: Float[Array, "B S N H"],
    keys: Float[Array, "B K T H"] | QuantizedSlots,
    values: Float[Array, "B K T H"] | QuantizedSlots,
    *,
    start: Int[Array, "B"] | None = None,
    seen: Bool[Array, "B S T"] | None = None,
) -> Float[Array, "B S N H"]:
    """`attention` over the slots of a cache: query i of row b sees slots 0 .. start[b]+i, or what `seen` says.

    Worked example: start = [5], S = 2: query 0 sees slots 0-5, query 1 sees slots 0-6.
    """
    if seen is None:
        first = jnp.zeros((1,), jnp.int32) if start is None else start
        last_slot = first[:, None] + jnp.arange(query.shape[1])
        seen = jnp.arange(keys.shape[2]) <= last_slot[:, :, None]
    return masked_attention(query, keys, values, seen)


def visible_from(
    start: Array | None,
    num_queries: int,
    num_keys: int,
    segment_ids: Array | None,
    key_segment_ids: Array | None,
) -> Array:
    """Which keys each query may read, the first query being number `start` of the sequence: bool [B or 1, S, T]."""
    place = jnp.arange(num_queries) + (0 if start is None else start)
    mask = (jnp.arange(num_keys) <= place[:, None])[None]
    if segment_ids is not None and key_segment_ids is not None:
        mask &= segment_ids[:, :, None] == key_segment_ids[:, None, :]
    return mask


def masked_attention(query: Array, key: Any, value: Any, mask: Array) -> Array:
    """Attention over keys and values [B, K, T, H] by two products; scores and softmax in float32.

    Batch axes first, the queries of a group below each other: products of plain matrices, on CPUs twice as fast.
    Keys and values in whole numbers go into the products as they are; their scales meet the scores and the weights.
    """
    num_rows, num_queries, num_heads, head_size = query.shape
    num_kv_heads, group = key.shape[1], num_heads // key.shape[1]
    key, key_scale = _floats(key, query.dtype)
    value, value_scale = _floats(value, query.dtype)
    grouped = query.swapaxes(1, 2).reshape(num_rows, num_kv_heads, group * num_queries, head_size)
    scores = jnp.einsum("BKRH,BKTH->BKRT", grouped, key, preferred_element_type=jnp.float32)
    scores = scores if key_scale is None else scores * key_scale
    seen = jnp.tile(mask, (1, group, 1))[:, None]
    scores = jnp.where(seen, scores / math.sqrt(head_size), -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1)
    weights = weights if value_scale is None else weights * value_scale
    mixed = jnp.einsum("BKRT,BKTH->BKRH", weights.astype(value.dtype), value)
    return mixed.reshape(num_rows, num_heads, num_queries, head_size).swapaxes(1, 2)


def _attention_in_blocks(
    query: Array,
    key: Array,
    value: Array,
    start: Array | None,
    segment_ids: Array | None,
    key_segment_ids: Array | None,
) -> Array:
    """`masked_attention` of long rows, BLOCK queries at a time, recomputed going back.

    The same numbers in [B, N, BLOCK, T] instead of [B, N, S, T] floats: at S = 8320 and 32 heads 0.5 GB for 9.
    """
    num_queries = query.shape[1]
    padding = -num_queries % BLOCK
    query = jnp.pad(query, ((0, 0), (0, padding), (0, 0), (0, 0)))
    if segment_ids is not None:
        segment_ids = jnp.pad(segment_ids, ((0, 0), (0, padding)), mode="edge")  # each sees one

    @jax.checkpoint
    def attend(first: Array) -> Array:
        here = jax.lax.dynamic_slice_in_dim(query, first, BLOCK, axis=1)
        segment = segment_ids
        if segment is not None:
            segment = jax.lax.dynamic_slice_in_dim(segment, first, BLOCK, axis=1)
        place = first if start is None else start + first
        seen = visible_from(place, BLOCK, key.shape[2], segment, key_segment_ids)
        return masked_attention(here, key, value, seen)

    blocks = jax.lax.map(attend, jnp.arange(0, num_queries + padding, BLOCK))
    return jnp.concatenate(list(blocks), axis=1)[:, :num_queries]


def _floats(slots: Any, dtype: Any) -> tuple[Array, Array | None]:
    """Keys or values in `dtype`, and their scales [B, K, 1, T], None for floats."""
    if not isinstance(slots, QuantizedSlots):
        return slots.astype(dtype), None
    return slots.values.astype(dtype), slots.scale[:, :, None]
