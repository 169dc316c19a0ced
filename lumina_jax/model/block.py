"""One layer of the Chameleon decoder (arXiv 2405.09818, 2.3): attention and SwiGLU, and what they read."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name as named

from lumina_jax.config import TransformerConfig
from lumina_jax.dims import Array, pick
from lumina_jax.model.linear import linear
from lumina_jax.model.remat import REMAT
from lumina_jax.model.sharded_attention import sharded_attention
from lumina_jax.model.weights import weight
from lumina_jax.ops.attention import cached_attention
from lumina_jax.ops.cache import Scatter, Slots, scatter, write
from lumina_jax.ops.norms import head_norm, rms_norm
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
        x = named(x, "layer_input")
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
        query = named(linear(self, "q", "D N H", "BSD,DNH->BSNH", x), "query")
        key = named(linear(self, "k", "D K H", "BSD,DKH->BSKH", x), "key")
        value = named(linear(self, "v", "D K H", "BSD,DKH->BSKH", x), "value")
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
        return named(linear(self, "o", "N H D", "BSNH,NHD->BSD", mixed), "out"), cache

    def _mlp(self, x: Array) -> Array:
        gate = named(linear(self, "gate", "D F", "BSD,DF->BSF", x), "gate")
        up = named(linear(self, "up", "D F", "BSD,DF->BSF", x), "up")
        inner = constrain(nn.silu(gate) * up, "B S F", self.layout)
        return named(linear(self, "down", "F D", "BSF,FD->BSD", inner), "down")

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
        return rms_norm(x, weight(self, "scale", "D").astype(x.dtype), self.config.norm_eps)


class HeadNorm(nn.Module):
    """`ops.norms.head_norm` with its weights, one row a shard of the release."""

    config: TransformerConfig
    layout: Layout | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = weight(self, "scale", "R H").astype(x.dtype)
        bias = weight(self, "bias", "R H").astype(x.dtype)
        return head_norm(x, scale, bias, self.config.norm_eps)


def rematerialised(config: TransformerConfig) -> Any:
    """Block, or Block whose activations are recomputed going back but for those that `config.remat` keeps."""
    remat = pick(REMAT, config.remat, "remat")
    if not remat.recompute:
        return Block
    return nn.remat(Block, policy=remat.policy, prevent_cse=not config.scan_layers)


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
