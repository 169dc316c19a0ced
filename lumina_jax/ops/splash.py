"""Splash attention, the TPU's block-sparse flash attention of JAX's Pallas kernels, for causal and packed rows."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from lumina_jax.dims import Array

LANES = 128  # queries and keys come in multiples of a TPU's vector lanes
MAX_BLOCK = 1024  # queries and keys that the kernel holds at once: larger ones do not fit a v5e's memory on the chip
RESIDUALS = (
    "attention"  # name, for `jax.checkpoint`, of the output and normalisers that going back reads
)


class Splash(NamedTuple):
    """The kernel for one length and number of heads: a pytree, so that it can be handed through `jax.shard_map`."""

    kernel: Any

    def __call__(
        self,
        query: Array,
        key: Array,
        value: Array,
        segment_ids: Array | None,
        key_segment_ids: Array | None,
    ) -> Array:
        """`ops.attention.attention` of [B,S,N,H] queries, padded to whole blocks and cut again."""
        padding = -key.shape[1] % LANES  # on the right, where no real query looks
        query, key, value = (_padded(x, padding) for x in (query, key, value))
        query = query * query.dtype.type(1 / math.sqrt(query.shape[-1]))
        by_head = (x.swapaxes(1, 2) for x in (query, key, value))
        if segment_ids is None or key_segment_ids is None:
            mixed = jax.vmap(self.kernel)(*by_head)
        else:
            segments = _kernels().SegmentIds(
                _padded(segment_ids, padding), _padded(key_segment_ids, padding)
            )
            mixed = jax.vmap(self.kernel)(*by_head, segments)
        return mixed.swapaxes(1, 2)[:, : query.shape[1] - padding]

    def specs(self, heads_and_queries: NamedSharding) -> "Splash":
        """Its partition specs for `jax.shard_map`, in its own place."""
        return Splash(self.kernel.manual_sharding_spec(heads_and_queries))


def make_splash(
    length: int, num_heads: int, head_shards: int = 1, sequence_shards: int = 1, on_tpu: bool = True
) -> Splash:
    """The kernel for rows of `length` tokens; `on_tpu` False interprets it, slowly, on any machine.

    Raises ValueError where a part of a split sequence is not a multiple of LANES; an unsplit one is padded.
    """
    if sequence_shards > 1 and length % (LANES * sequence_shards):
        raise ValueError(
            f"rows of {length} tokens split {sequence_shards} ways: splash attention wants max_tokens a multiple of "
            f"{LANES * sequence_shards}"
        )
    length += -length % LANES
    splash, mask = _kernels(), _masks()
    queries, keys = block_size(length // sequence_shards), block_size(length)
    sizes = splash.BlockSizes(
        block_q=queries,
        block_kv=keys,
        block_q_dkv=queries,
        block_kv_dkv=keys,
        block_q_dq=queries,
        block_kv_dq=keys,
    )
    causal = mask.CausalMask((length, length), shard_count=sequence_shards)
    return Splash(
        splash.make_splash_mha(
            mask.MultiHeadMask([causal] * num_heads),
            block_sizes=sizes,
            head_shards=head_shards,
            q_seq_shards=sequence_shards,
            residual_checkpoint_name=RESIDUALS,
            interpret=not on_tpu,
        )
    )


def block_size(length: int) -> int:
    """The largest multiple of LANES that divides `length` and is at most MAX_BLOCK: 768 of 4608, 1024 of 4096."""
    return max(size for size in range(LANES, MAX_BLOCK + 1, LANES) if length % size == 0)


def _padded(x: Array, padding: int) -> Array:
    return jnp.pad(x, ((0, 0), (0, padding), *((0, 0),) * (x.ndim - 2))) if padding else x


def _kernels() -> Any:
    """The module of the kernels: imported when one is wanted, which takes a second."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel

    return splash_attention_kernel


def _masks() -> Any:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask

    return splash_attention_mask
