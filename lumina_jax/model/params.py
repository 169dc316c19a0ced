"""The transformer's weights as a tree: initialising, counting, letters, and stacking layers for scan."""

import math
import re
from dataclasses import replace
from functools import lru_cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lumina_jax.checksums import leaf_name
from lumina_jax.config import TransformerConfig
from lumina_jax.dims import Array
from lumina_jax.model.block import Block, Context
from lumina_jax.model.chameleon import Chameleon
from lumina_jax.model.weights import EMBEDDING_STD, layer_name
from lumina_jax.ops.rope import rotation

Params = dict[str, Any]
CODE_LOGIT_STD = 0.05  # of the head's rows of image codes that start from a codebook


def init_params(config: TransformerConfig, key: Array) -> Params:
    """Fresh weights, stacked where `config.scan_layers`; the same numbers in both layouts."""
    outer_key, layers_key = jax.random.split(key)
    keys = jax.random.split(layers_key, config.num_layers)
    layers = jax.vmap(lambda key: nn.unbox(_init_block(config, key)))(keys)
    params = {**nn.unbox(_init_outer(config, outer_key)), "layers": layers}
    return params if config.scan_layers else unstack_layers(params)


def with_codebook_tables(params: Params, codebook: Array, first_code_id: int, key: Array) -> Params:
    """Fresh weights whose rows of image codes are one random projection of `codebook` [M, E], in both tables.

    Codes that look alike start alike. The embedding's rows have unit scale here, so that a token is not drowned by
    the first layer's output; the head's have CODE_LOGIT_STD.
    """
    embedding, head = params["embed"]["table"], params["head"]["table"]
    vectors = codebook.astype(jnp.float32)
    vectors = (vectors - vectors.mean(0)) / vectors.std()
    shape = (vectors.shape[1], embedding.shape[1])
    rows = vectors @ jax.random.normal(key, shape) / math.sqrt(shape[0])
    codes = slice(first_code_id, first_code_id + len(rows))
    embedding = (embedding / EMBEDDING_STD).at[codes].set(rows.astype(embedding.dtype))
    head = head.at[codes].set((CODE_LOGIT_STD * rows).astype(head.dtype))
    return {**params, "embed": {"table": embedding}, "head": {"table": head}}


def abstract_params(config: TransformerConfig) -> Params:
    """Shapes and dtypes of `init_params`, computed without memory."""
    return jax.tree.map(lambda leaf: leaf, _abstract_params(config))  # the caller's own


def param_letters(config: TransformerConfig) -> Params:
    """The letters of every weight: {"layers": {"00": {"q": "D N H", …}}}, "L D N H" where stacked."""
    outer = _letters(jax.eval_shape(lambda: _init_outer(config, jax.random.key(0))))
    layer = _letters(jax.eval_shape(lambda: _init_block(config, jax.random.key(0))))
    if config.scan_layers:
        return {**outer, "layers": jax.tree.map(lambda letters: f"L {letters}", layer)}
    return {**outer, "layers": {layer_name(index): layer for index in range(config.num_layers)}}


def count_params(params: Params) -> int:
    """How many numbers a tree of arrays or abstract arrays holds."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def stack_layers(params: Params) -> Params:
    """{"layers": {"00": …, "01": …}} to one tree with a leading layer axis; exact."""
    layers = [params["layers"][name] for name in sorted(params["layers"])]
    return {**params, "layers": jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)}


def unstack_layers(params: Params) -> Params:
    """The inverse of `stack_layers`: the layout on disk, and the one generation uses."""
    stacked = params["layers"]
    num_layers = jax.tree.leaves(stacked)[0].shape[0]
    layers = {
        layer_name(index): jax.tree.map(lambda leaf, i=index: leaf[i], stacked)
        for index in range(num_layers)
    }
    return {**params, "layers": layers}


def find_weights(params: Params, patterns: tuple[str, ...], setting: str) -> set[str]:
    """The names of the leaves of `params` in whose names a regex is found: {"layers/00/gate", …}.

    Regexes read the names that layers have apart, so they mean the same with and without `scan_layers`: a stacked
    leaf, "layers/gate", is all of its layers', and a regex has to find all or none of them. Raises ValueError in the
    name of `setting` for one that finds some of them, or nothing, listing what there is.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    names = {leaf_name(path): _names_apart(leaf_name(path), leaf) for path, leaf in leaves}
    found: set[str] = set()
    for pattern in patterns:
        here = set()
        for name, apart in names.items():
            hits = [bool(re.search(pattern, part)) for part in apart]
            if all(hits):
                here.add(name)
            elif any(hits):
                raise ValueError(
                    f"{setting} {pattern!r} finds {sum(hits)} of {len(hits)} layers of {name}: with scan_layers they "
                    "are one array; find all, or set model.transformer.scan_layers False"
                )
        if not here:
            kinds = {re.sub(r"layers/\d+/", "layers/*/", apart[0]) for apart in names.values()}
            raise ValueError(
                f"{setting} {pattern!r} is in no weight's name; there are {', '.join(sorted(kinds))}"
            )
        found |= here
    return found


def _names_apart(name: str, leaf: Any) -> list[str]:
    """What a weight is called where layers are apart: ["layers/00/q", …] for the stacked "layers/q"."""
    if re.match(r"layers/\D", name) is None:
        return [name]
    inner = name.removeprefix("layers/")
    return [f"layers/{layer_name(index)}/{inner}" for index in range(leaf.shape[0])]


def _init_outer(config: TransformerConfig, key: Array) -> Params:
    """Everything but the layers, in boxes that carry the letters."""
    shallow = replace(config, num_layers=0, scan_layers=False)
    return dict(Chameleon(shallow).init(key, jnp.zeros((1, 1), jnp.int32))["params"])


def _init_block(config: TransformerConfig, key: Array) -> Params:
    """One layer, in boxes that carry the letters."""
    positions = jnp.zeros((1, 1), jnp.int32)
    angles = rotation(positions, config.head_size, config.rope_theta, config.compute_dtype)
    x = jnp.zeros((1, 1, config.width), config.compute_dtype)
    context = Context(angles, start=None, segment_ids=None, dropout_key=None)
    return dict(Block(config).init(key, x, jnp.int32(0), context)["params"])


def _letters(boxed: Params) -> Params:
    """The letters on the boxes, as strings."""
    return jax.tree.map(
        lambda box: " ".join(box.names),
        boxed,
        is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned),
    )


@lru_cache
def _abstract_params(config: TransformerConfig) -> Params:
    return jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
