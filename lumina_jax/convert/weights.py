"""A model somewhere on disk in our terms: its config, and every array by our name, shaped but not yet read."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lumina_jax.checkpoint import params_folder, read_config, read_tokenizer, resolve
from lumina_jax.checksums import leaf_name
from lumina_jax.config import ModelConfig
from lumina_jax.orbax_io import load_arrays, nested, read_digests, read_metadata
from lumina_jax.paths import bucket_files, is_remote
from lumina_jax.unirep.text import TextTokenizer

CHECKPOINT = "lumina_jax"  # the layout of our own checkpoints
SMALL_BYTES = 32 * 2**20  # of arrays that are loaded together
NUM_CACHED = 2  # groups of them kept, for layouts that ask in another order


@dataclass(frozen=True)
class Leaf:
    """One of our arrays, not read yet."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray] = field(repr=False, compare=False)

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


@dataclass(frozen=True)
class Weights:
    """A model on disk; only headers have been read."""

    layout: str  # "meta", "lumina", "transformers", "anole" or CHECKPOINT
    config: ModelConfig
    leaves: Mapping[str, Leaf]  # "transformer/layers/00/q", "vqgan/encoder/conv_in/kernel", …
    tokenizer: TextTokenizer | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)  # of a checkpoint's `extra`
    findings: tuple[str, ...] = ()  # what a person wants to know about the source
    stamp: str = ""  # names the files as they are: another size or time of change gives another

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(leaf.nbytes for leaf in self.leaves.values())

    def part(self, name: str) -> dict[str, Leaf]:
        """The leaves under "transformer" or "vqgan", by the rest of their names."""
        prefix = f"{name}/"
        return {
            key.removeprefix(prefix): leaf
            for key, leaf in self.leaves.items()
            if key.startswith(prefix)
        }

    def tree(self, part: str) -> dict[str, Any]:
        """The arrays under "transformer" or "vqgan" in memory, as the model takes them."""
        return nested({name: leaf.read() for name, leaf in self.part(part).items()})


def open_checkpoint(path: str | Path) -> Weights:
    """One of our checkpoints; arrays are read, and checked against their digests, when they are asked for."""
    folder = resolve(path)
    config, notes = read_config(folder)
    params = params_folder(folder)
    stored, digests = dict(named(read_metadata(params).metadata)), read_digests(params)
    place = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    group_of = {name: group for group in _groups(stored) for name in group}

    @lru_cache(maxsize=NUM_CACHED)
    def load(group: tuple[str, ...]) -> dict[str, np.ndarray]:
        abstract = {
            name: jax.ShapeDtypeStruct(stored[name].shape, stored[name].dtype, sharding=place)
            for name in group
        }
        tree = load_arrays(params, nested(abstract), digests)
        return {name: np.asarray(array) for name, array in named(tree)}

    def leaf(name: str) -> Leaf:
        found = stored[name]
        return Leaf(tuple(found.shape), np.dtype(found.dtype), lambda: load(group_of[name])[name])

    leaves = {name: leaf(name) for name in stored}
    tokenizer, stamp = read_tokenizer(folder), stamp_of([params])
    return Weights(CHECKPOINT, config, leaves, tokenizer, notes, stamp=stamp)


def _groups(stored: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Arrays that are loaded at once: Orbax takes 30 ms a call, so small ones go together."""
    small, size = [], 0
    for name, found in stored.items():
        nbytes = int(np.prod(found.shape, dtype=np.int64)) * np.dtype(found.dtype).itemsize
        if nbytes > SMALL_BYTES:
            yield (name,)
            continue
        if size + nbytes > SMALL_BYTES:
            yield tuple(small)
            small, size = [], 0
        small.append(name)
        size += nbytes
    if small:
        yield tuple(small)


def stamp_of(paths: Iterable[Path]) -> str:
    """12 hex digits of the names, sizes and times of change of files, and of all files in folders."""
    stats: list[Any] = []
    for path in paths:
        if is_remote(path):
            found = bucket_files().find(str(path), detail=True)
            stats += [(name, one["size"], one.get("generation")) for name, one in found.items()]
        else:
            files = [path] if path.is_file() else [x for x in path.rglob("*") if x.is_file()]
            stats += [(str(x), x.stat().st_size, x.stat().st_mtime) for x in files]
    return hashlib.sha256(json.dumps(sorted(stats)).encode()).hexdigest()[:12]


def named(tree: Any) -> Iterable[tuple[str, Any]]:
    """("a/b/c", leaf) of every leaf."""
    return [(leaf_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
