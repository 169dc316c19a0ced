"""How a module declares a weight: a name and one letter an axis."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lumina_jax.config import TransformerConfig
from lumina_jax.dims import Array
from lumina_jax.ops.products import StoredWeight

# Which axes of a matrix the forward pass sums over, by its letters; a table of a row a token ("V D") is the head.
CONTRACTED: Mapping[str, tuple[int, ...]] = {
    "D N H": (0,),
    "D K H": (0,),
    "N H D": (0, 1),
    "D F": (0,),
    "F D": (0,),
    "V D": (1,),
}
EMBEDDING_STD = 0.02  # of both tables, as in Chameleon's configuration (initializer_range)


@partial(jax.tree_util.register_dataclass, data_fields=["copies"], meta_fields=[])
@dataclass(frozen=True)
class ByRow:
    """A scale or bias with a copy for every row of the batch, in the place of its array (`chameleon.by_row`)."""

    copies: Array  # [B, 1, …], of stacked layers [L, B, 1, …]


def letter_sizes(config: TransformerConfig) -> dict[str, int]:
    """The length of every axis a weight can have; R counts the release's model-parallel shards."""
    return {
        "D": config.width,
        "N": config.num_heads,
        "K": config.num_kv_heads,
        "H": config.head_size,
        "F": config.mlp_width,
        "V": config.vocab_size,
        "R": config.qk_norm_shards,
    }


def weight(module: nn.Module, name: str, letters: str) -> Any:
    """The weight `name` of `module` (which has a `config`), one axis a letter, in the parameter dtype.

    The letters stay with the weight, decide its sharding and tell what a product sums over (CONTRACTED). Scales start
    at one, biases at zero, tables at EMBEDDING_STD, matrices at 1/sqrt(inputs). A stored form in the place of the
    array (`ops.products.StoredWeight`) is returned as it is.
    """
    stored = module.get_variable("params", name)
    if isinstance(stored, StoredWeight):
        return stored
    if isinstance(stored, ByRow):
        return stored.copies
    config: TransformerConfig = module.config  # pyright: ignore[reportAttributeAccessIssue]
    names = tuple(letters.split())
    shape = tuple(letter_sizes(config)[letter] for letter in names)
    init = nn.with_logical_partitioning(_initializer(name, names, shape), names)
    return jnp.asarray(module.param(name, init, shape, jnp.dtype(config.param_dtype)))


def layer_name(index: int) -> str:
    """The key of a layer: two digits, so names sort like numbers."""
    return f"{index:02d}"


def _initializer(
    name: str, names: tuple[str, ...], shape: tuple[int, ...]
) -> nn.initializers.Initializer:
    """How a weight starts, from its name and letters."""
    if name == "bias":
        return nn.initializers.zeros
    if name == "scale":
        return nn.initializers.ones
    if name == "table":
        return nn.initializers.normal(EMBEDDING_STD)
    num_inputs = math.prod(shape[axis] for axis in CONTRACTED[" ".join(names)])
    return nn.initializers.normal(1 / math.sqrt(num_inputs))
