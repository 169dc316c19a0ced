"""In how many bits a model runs: one row of PRECISIONS a choice, and the tree of weights that it makes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from lumina_jax.checksums import leaf_name
from lumina_jax.config import TransformerConfig
from lumina_jax.dims import Array, pick
from lumina_jax.model.params import Params, param_letters
from lumina_jax.model.weights import CONTRACTED
from lumina_jax.ops.products import as_array, fits, is_stored
from lumina_jax.ops.quantize import Integers, quantize_weight

Keep = Callable[[str, Any], Any]  # (a leaf's name, its array) to what is kept of it


@dataclass(frozen=True)
class Precision:
    """What a model keeps its weights and its cache in; None: as its config says."""

    compute: str | None = None  # activations, norms, the embedding; weights and cache without more
    weights: Integers | None = None  # the matrices and the head, with scales
    cache: str | None = None  # one of config.CACHE_DTYPES


PRECISIONS: Mapping[str, Precision] = {
    "float32": Precision(compute="float32"),
    "bfloat16": Precision(compute="bfloat16"),
    "int8": Precision(weights="int8", cache="int8"),
    "int8_weights": Precision(weights="int8"),
    "int4": Precision(weights="int4", cache="int8"),
}


def with_precision(config: TransformerConfig, name: str | None) -> TransformerConfig:
    """The config that computes and caches as the row `name` says; None: as it is. ValueError for no such row."""
    row = Precision() if name is None else pick(PRECISIONS, name, "precision")
    compute = row.compute or config.compute_dtype
    cache = row.cache or (None if row.compute else config.cache_dtype)
    return replace(config, compute_dtype=compute, cache_dtype=cache)


def keeper(config: TransformerConfig, name: str | None) -> Keep:
    """How each weight of an unstacked tree is kept: whole numbers by the row `name`, or the compute dtype.

    ("layers/00/q", array) gives a QuantizedWeight at "int8", ("final_norm/scale", array) the array cast. What is in
    whole numbers already stays as it is.
    """
    dtype = with_precision(config, name).compute_dtype
    integers = None if name is None else PRECISIONS[name].weights
    letters = product_letters(config) if integers else {}

    def keep(leaf: str, array: Any) -> Any:
        if fits(array, dtype if integers is None else integers):
            return array
        array = as_array(array)
        contracted = CONTRACTED.get(letters.get(leaf, ""))
        if integers is None or contracted is None or array.ndim != len(letters[leaf].split()):
            return jnp.asarray(array, dtype)
        return quantize_weight(jnp.asarray(array), contracted, integers)

    return keep


def product_letters(config: TransformerConfig) -> dict[str, str]:
    """The letters of every unstacked weight by name; the embedding is left out, its rows are only looked up."""
    unstacked = replace(config, scan_layers=False)
    found = jax.tree_util.tree_leaves_with_path(param_letters(unstacked))
    names = {leaf_name(path): letters for path, letters in found}
    return {leaf: letters for leaf, letters in names.items() if not leaf.startswith("embed/")}


def keep_params(params: Params, keep: Keep) -> Params:
    """A tree of weights with each leaf as `keep` wants it."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: keep(leaf_name(path), leaf), params, is_leaf=is_stored
    )


def quantize_params(params: Params, config: TransformerConfig, name: str) -> Params:
    """Unstacked weights in the form of the row `name`; pure, so it may be jitted, and shards stay where they are."""
    return keep_params(params, keeper(config, name))


def weight_bytes(params: Params) -> int:
    """The bytes of a tree on the device, where two int4 share a byte."""
    return sum(_leaf_bytes(leaf) for leaf in jax.tree.leaves(params))


def _leaf_bytes(leaf: Array) -> int:
    return -(-leaf.size // 2) if leaf.dtype == jnp.int4 else leaf.size * leaf.dtype.itemsize
