"""The Chameleon decoder (arXiv 2405.09818, 2.3): a Llama-like transformer with query-key norm, in Flax linen."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from lumina_jax.config import TransformerConfig
from lumina_jax.dims import Array, Float, Int, typed
from lumina_jax.model.block import Context, LayerCache, RMSNorm, rematerialised, scanned
from lumina_jax.model.weights import ByRow, layer_name, weight
from lumina_jax.ops.cache import Cache, Scatter
from lumina_jax.ops.products import product, rows
from lumina_jax.ops.rope import rotation
from lumina_jax.sharding import Layout, all_tokens, constrain, letter_axes, own_tokens


@typed
def forward(
    params: Any,
    config: TransformerConfig,
    ids: Int[Array, "B S"],
    positions: Int[Array, "B S"] | None = None,
    *,
    cache: Cache | None = None,
    scatter: Scatter | None = None,
    segment_ids: Int[Array, "B S"] | None = None,
    dropout_key: Array | None = None,
    head_slice: tuple[int, int] | None = None,
    layout: Layout | None = None,
) -> tuple[Float[Array, "B S V"], Cache | None]:
    """Logits, float32, for every token of `ids`, and the cache grown by S tokens where one was given.

    Without a cache attention is causal, within segments where `segment_ids` are given. With one, row b's
    tokens are written to slots cache.length[b] and following and see all earlier slots; the caller keeps
    length + S within the slots. With `scatter` they go where that says, see what that says, and the length stays; give
    their `positions`. `positions` (RoPE) count from 0, or from cache.length, unless given.
    `dropout_key` switches dropout on. `head_slice` = (first id, how many) computes only those logits.

    Raises ValueError where a cache meets `scan_layers` or segments.
    """
    hidden, cache = hidden_states(
        params,
        config,
        ids,
        positions,
        cache=cache,
        scatter=scatter,
        segment_ids=segment_ids,
        dropout_key=dropout_key,
        layout=layout,
    )
    return logits_from_hidden(params, config, hidden, head_slice, layout), cache


@typed
def hidden_states(
    params: Any,
    config: TransformerConfig,
    ids: Int[Array, "B S"],
    positions: Int[Array, "B S"] | None = None,
    *,
    cache: Cache | None = None,
    scatter: Scatter | None = None,
    segment_ids: Int[Array, "B S"] | None = None,
    dropout_key: Array | None = None,
    layout: Layout | None = None,
) -> tuple[Float[Array, "B S D"], Cache | None]:
    """`forward` up to the final norm: for losses that never hold all logits (`losses.loss_from_hidden`)."""
    if cache is not None and config.scan_layers:
        raise ValueError("a cache wants scan_layers=False: use model.params.unstack_layers first")
    if cache is not None and segment_ids is not None:
        raise ValueError("a cache holds one sequence a row: drop segment_ids or the cache")
    body = {name: leaf for name, leaf in params.items() if name != "head"}
    if layout is not None and config.scan_layers:
        body["layers"] = by_row(body["layers"], ids.shape[0], layout)
    result: Any = Chameleon(config, layout).apply(
        {"params": body}, ids, positions, cache, segment_ids, dropout_key, scatter
    )
    return result


@typed
def logits_from_hidden(
    params: Any,
    config: TransformerConfig,
    hidden: Float[Array, "B S D"],
    head_slice: tuple[int, int] | None = None,
    layout: Layout | None = None,
) -> Float[Array, "B S V"]:
    """Logits, float32, of the whole vocabulary or of `head_slice` = (first id, how many)."""
    table = params["head"]["table"]
    if head_slice is not None:
        table = rows(table, *head_slice)
    logits = product("BSD,VD->BSV", hidden, table, jnp.float32)
    return constrain(logits, "B S V", layout) if head_slice is None else logits


def by_row(layers: Any, num_rows: int, layout: Layout) -> Any:
    """Stacked layers whose norms have a copy for every row of the batch (`weights.ByRow`).

    So a device sums their gradients over its rows layer by layer, and over the devices of other rows once, after all
    layers: no layer waits for small messages, but those between parts of a split sequence.
    """
    axes = letter_axes("B", layout) or None

    def copies(scale: Array) -> ByRow:
        spread = jnp.broadcast_to(scale[:, None, None], (len(scale), num_rows, 1, *scale.shape[1:]))
        place = NamedSharding(layout.mesh, PartitionSpec(None, axes))
        return ByRow(jax.lax.with_sharding_constraint(spread, place))

    return {
        name: jax.tree.map(copies, leaf) if name.endswith("_norm") else leaf
        for name, leaf in layers.items()
    }


class Chameleon(nn.Module):
    """Embedding, layers and final norm; the head is declared here and applied by `logits_from_hidden`."""

    config: TransformerConfig
    layout: Layout | None = None

    @nn.compact
    def __call__(
        self,
        ids: Array,
        positions: Array | None = None,
        cache: Cache | None = None,
        segment_ids: Array | None = None,
        dropout_key: Array | None = None,
        scatter: Scatter | None = None,
    ) -> tuple[Array, Cache | None]:
        config = self.config
        start = None if cache is None else cache.length
        if positions is None:
            positions = jnp.arange(ids.shape[1])[None]
            positions = positions if start is None else positions + start[:, None]
        angles = rotation(positions, config.head_size, config.rope_theta, config.compute_dtype)
        context = Context(angles, start, segment_ids, dropout_key, scatter)

        x = Embedding(config, self.layout, name="embed")(ids)
        if config.scan_layers:
            x = scanned(config)(config, self.layout, name="layers")(
                x, jnp.arange(config.num_layers), context
            )[0]
        else:
            x, cache = Layers(config, self.layout, name="layers")(x, context, cache)
        x = RMSNorm(config, self.layout, name="final_norm")(x)
        if self.is_initializing():
            Head(config, name="head")()
        return x, cache


class Embedding(nn.Module):
    """A row of the table for every id."""

    config: TransformerConfig
    layout: Layout | None

    @nn.compact
    def __call__(self, ids: Array) -> Array:
        table = constrain(weight(self, "table", "V D"), "V D", self.layout, role="embedding")
        ids = all_tokens(ids, self.layout)
        # Looked up before the cast, so that the gradient of a frequent row is summed in the parameter dtype.
        columns = jnp.take(table, ids, axis=0).astype(self.config.compute_dtype)
        columns = all_tokens(columns, self.layout)
        return own_tokens(columns, self.layout)


class Head(nn.Module):
    """Declares the untied output table."""

    config: TransformerConfig

    @nn.compact
    def __call__(self) -> Array:
        return weight(self, "table", "V D")


class Layers(nn.Module):
    """All blocks, unrolled: "00", "01", …"""

    config: TransformerConfig
    layout: Layout | None

    @nn.compact
    def __call__(
        self, x: Array, context: Context, cache: Cache | None
    ) -> tuple[Array, Cache | None]:
        make_block = rematerialised(self.config)
        grown = []
        for index in range(self.config.num_layers):
            layer = None if cache is None else LayerCache(cache.keys[index], cache.values[index])
            block = make_block(self.config, self.layout, name=layer_name(index))
            x, layer = block(x, jnp.int32(index), context, layer)
            grown.append(layer)
        if cache is None:
            return x, None
        keys, values = tuple(layer.keys for layer in grown), tuple(layer.values for layer in grown)
        grown_by = 0 if context.scatter is not None else x.shape[1]
        return x, Cache(keys, values, cache.length + grown_by)
