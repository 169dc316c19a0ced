"""Where the weights and the training state of a model lie on a mesh, leaf by leaf."""

from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from lumina_jax.sharding.arrays import replicated, spec_of
from lumina_jax.sharding.strategies import Layout

MAX_REPLICATED = (
    4096  # elements of an optimiser leaf that mirrors no weight (counters, coefficients)
)


def param_shardings(abstract_tree: Any, letters: Any, layout: Layout) -> Any:
    """One NamedSharding per weight.

    `letters` is a tree like `abstract_tree` with strings such as "D N H" (see `model.params.param_letters`).
    Raises ValueError naming the weight, its size and what would fit.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf, names: _weight_sharding(_keys(path), leaf.shape, names, layout),
        abstract_tree,
        letters,
    )


def state_shardings(abstract_state: Any, letters: Any, layout: Layout) -> Any:
    """Shardings for a training state: leaves whose path ends like a weight's are placed like that weight.

    Counters and coefficients of at most MAX_REPLICATED elements are replicated; any other leaf is an error.
    """
    by_path = {_keys(path): names for path, names in jax.tree_util.tree_leaves_with_path(letters)}

    def place(path: Any, leaf: Any) -> NamedSharding:
        keys = _keys(path)
        for start in range(len(keys)):
            if keys[start:] in by_path:
                return _weight_sharding(keys[start:], leaf.shape, by_path[keys[start:]], layout)
        if int(np.prod(leaf.shape)) > MAX_REPLICATED:
            raise ValueError(
                f"state leaf {'/'.join(keys)} {leaf.shape} mirrors no weight: give it letters, "
                f"or at most {MAX_REPLICATED} elements to replicate it"
            )
        return replicated(layout)

    return jax.tree_util.tree_map_with_path(place, abstract_state)


def describe(abstract_tree: Any, letters: Any, layout: Layout) -> str:
    """A table of every weight: shape, partition and MiB on one device, with the total."""
    shardings = param_shardings(abstract_tree, letters, layout)
    lines, total = [], 0.0
    leaves = jax.tree_util.tree_leaves_with_path(abstract_tree)
    for (path, leaf), sharding in zip(leaves, jax.tree.leaves(shardings), strict=True):
        local = sharding.shard_shape(leaf.shape)
        mebibytes = float(np.prod(local)) * leaf.dtype.itemsize / 2**20
        total += mebibytes
        spec = ", ".join(str(axis) for axis in sharding.spec)
        lines.append(f"{'/'.join(_keys(path)):40s} {leaf.shape!s:24s} ({spec}) {mebibytes:.2f} MiB")
    return "\n".join([*lines, f"{total:.2f} MiB per device"])


def _weight_sharding(
    keys: tuple[str, ...], shape: tuple[int, ...], letters: str, layout: Layout
) -> NamedSharding:
    """Placement of the weight at `keys`; the embedding table has its own row."""
    role = "embedding" if keys[0] == "embed" else "weights"
    return NamedSharding(layout.mesh, spec_of(role, letters, shape, layout, "/".join(keys)))


def _keys(path: Any) -> tuple[str, ...]:
    """The dictionary keys of a tree path; positions and attribute names of optimiser states drop out."""
    return tuple(str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey))
