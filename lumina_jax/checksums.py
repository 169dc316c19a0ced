"""CRC-32 of the arrays of a tree: what tells a damaged or another weight from the one that was saved."""

import zlib
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def crc32_of_leaves(tree: Any) -> dict[str, str]:
    """{"transformer/layers/00/q": "9ae0daaf", …}: CRC-32 of every leaf's bytes in row-major order."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {leaf_name(path): crc32_of(leaf) for path, leaf in leaves}


def crc32_of(leaf: Any) -> str:
    """CRC-32 of one array's bytes in row-major order, 8 hex digits; every process of a cluster calls it."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    array = np.ascontiguousarray(jax.device_get(leaf))
    return f"{zlib.crc32(array.reshape(-1).view(np.uint8).data):08x}"


def leaf_name(path: tuple) -> str:
    """A leaf's path as "a/b/c"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
