"""One layer of the Chameleon decoder (arXiv 2405.09818, 2.3): attention and SwiGLU, and what they read."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lumina_jax.config import TransformerConfig
from lumina_jax.dims import Array
from lumina_jax.model.sharded_attention import sharded_attention
from lumina_jax.model.weights import read
from lumina_jax.ops.attention import cached_attention
from lumina_jax.ops.cache import Scatter, Slots, scatter, write
from lumina_jax.ops.norms import head_norm, rms_norm
from lumina_jax.ops.products import product
from lumina_jax.ops.rope import Rotation, rotate
from lumina_jax.sharding import Layout, constrain


class Context(NamedTuple):
    """What every layer reads."""

    angles: Rotation
    start: Array | None  # [B] filled cache slots
    segment_ids: Array | None  # [B, S]
    dropout_key: Array | None
    scatter: Scatter | None = None  # in place of start


class LayerCache(NamedTuple):
    """One layer's keys and values, [B, K, T, H]."""

    keys: Slots
    values: Slots


class Block(nn.Module):
    """Attention and SwiGLU on a residual stream; norms before the branch ("pre") or after it ("swin")."""

    config: TransformerConfig
    layout: Layout | None = None

    @nn.compact
    def __call__(
        self, x: Array, layer_index: Array, context: Context, cache: LayerCache | None = None
    ) -> tuple[Array, LayerCache | None]:
        config = self.config
        swin = config.norm_placement == "swin"
        attention_norm = RMSNorm(config, self.layout, name="attention_norm")
        mlp_norm = RMSNorm(config, self.layout, name="mlp_norm")

        branch, cache = self._attend(x if swin else attention_norm(x), context, cache)
        branch = attention_norm(branch) if swin else branch
        x = x + self._drop(branch, context.dropout_key, 2 * layer_index)
        branch = self._mlp(x if swin else mlp_norm(x))
        branch = mlp_norm(branch) if swin else branch
        x = x + self._drop(branch, context.dropout_key, 2 * layer_index + 1)
        return constrain(x, "B S D", self.layout), cache

    def _attend(
        self, x: Array, context: Context, cache: LayerCache | None
    ) -> tuple[Array, LayerCache | None]:
        config, layout = self.config, self.layout
        query = product("BSD,DNH->BSNH", x, read(self, "q", "D N H"))
        key = product("BSD,DKH->BSKH", x, read(self, "k", "D K H"))
        value = product("BSD,DKH->BSKH", x, read(self, "v", "D K H"))
        query = constrain(query, "B S N H", layout)
        key, value = constrain(key, "B S K H", layout), constrain(value, "B S K H", layout)
        query = rotate(HeadNorm(config, layout, name="q_norm")(query), context.angles)
        key = rotate(HeadNorm(config, layout, name="k_norm")(key), context.angles)
        if cache is not None:
            cache = LayerCache(
                _written(cache.keys, key, context, layout),
                _written(cache.values, value, context, layout),
            )
            seen = None if context.scatter is None else context.scatter.seen
            mixed = cached_attention(query, *cache, start=context.start, seen=seen)
        else:
            mixed = sharded_attention(query, key, value, context.segment_ids, layout)
        return product("BSNH,NHD->BSD", mixed, read(self, "o", "N H D")), cache

    def _mlp(self, x: Array) -> Array:
        gate = product("BSD,DF->BSF", x, read(self, "gate", "D F"))
        up = product("BSD,DF->BSF", x, read(self, "up", "D F"))
        inner = constrain(nn.silu(gate) * up, "B S F", self.layout)
        return product("BSF,FD->BSD", inner, read(self, "down", "F D"))

    def _drop(self, x: Array, key: Array | None, branch_index: Array) -> Array:
        rate = self.config.dropout
        if key is None or rate == 0.0:
            return x
        keep = jax.random.bernoulli(jax.random.fold_in(key, branch_index), 1 - rate, x.shape)
        return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


def _written(slots: Slots, new: Array, context: Context, layout: Layout | None) -> Slots:
    """Keys or values with those of this call in their slots."""
    if context.scatter is not None:
        slots = scatter(slots, new, context.scatter.slots)
    else:
        assert context.start is not None
        slots = write(slots, new, context.start)
    return jax.tree.map(lambda leaf: constrain(leaf, "B K T H"[: 2 * leaf.ndim], layout), slots)


class RMSNorm(nn.Module):
    """`ops.norms.rms_norm` with its weight."""

    config: TransformerConfig
    layout: Layout | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return rms_norm(x, read(self, "scale", "D").astype(x.dtype), self.config.norm_eps)


class HeadNorm(nn.Module):
    """`ops.norms.head_norm` with its weights, one row a shard of the release."""

    config: TransformerConfig
    layout: Layout | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = read(self, "scale", "R H").astype(x.dtype)
        bias = read(self, "bias", "R H").astype(x.dtype)
        return head_norm(x, scale, bias, self.config.norm_eps)


def rematerialised(config: TransformerConfig) -> Any:
    """Block, or Block whose activations are recomputed going back: all ("full") or all but matmuls ("dots")."""
    if config.remat == "none":
        return Block
    save_dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    policy = save_dots if config.remat == "dots" else None
    return nn.remat(Block, policy=policy, prevent_cse=not config.scan_layers)


def scanned(config: TransformerConfig) -> Any:
    """Block scanned over weights stacked along a leading layer axis: called with all layer indices."""
    over_layers: Any = (0, nn.broadcast)
    return nn.scan(
        rematerialised(config),
        variable_axes={"params": 0},
        split_rngs={"params": False},
        in_axes=over_layers,
        length=config.num_layers,
    )
