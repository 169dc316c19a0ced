"""What is asked of Orbax: chunks that any sharding can read, metadata, loading; and its errors in one line."""

import ctypes
import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from lumina_jax.checksums import digests_of_leaves, leaf_name

# An array is cut into about NUM_CHUNKS pieces of these sizes, along its longest axes: a process that holds an eighth of
# it reads an eighth. Smaller pieces are slower to write, larger ones to share (docs/benchmarks.md).
NUM_CHUNKS = 64
MIN_CHUNK_BYTES, MAX_CHUNK_BYTES = 2**16, 2**21
DIGESTS = "digests"  # key of the arrays' digests in an Orbax checkpoint's metadata
KEPT_BYTES = 2**26  # read at once, or one leaf, where each leaf is kept in another form
UNFINISHED = "*.orbax-checkpoint-tmp"

Keep = Callable[[str, Any], Any]  # (a leaf's name, its array) to what is kept of it


class CheckpointError(ValueError):
    """A checkpoint that is absent, incomplete or damaged; the message names the path and what to do."""


@contextmanager
def storage() -> Iterator[None]:
    """Within it Orbax writes arrays in chunks that suit any sharding, and loads a part of what a checkpoint holds."""
    context = ocp.Context()
    context.array.saving.scoped_storage_options_creator = _chunked
    context.pytree.loading.partial_load = True
    logging.getLogger("absl").addFilter(
        _is_no_size_warning
    )  # once; saves may go on in the background
    with context:
        yield


def _is_no_size_warning(record: logging.LogRecord) -> bool:
    """False for what Orbax says of every array in chunks below 1 MiB."""
    return "target_byte_size too small" not in record.getMessage()


def _chunked(path: Any, array: Any) -> Any:
    """Orbax's options for one array."""
    nbytes = array.size * array.dtype.itemsize // NUM_CHUNKS
    chunk = min(max(nbytes, MIN_CHUNK_BYTES), MAX_CHUNK_BYTES)
    return ocp.options.ArrayOptions.Saving.StorageOptions(chunk_byte_size=chunk)


def _is_news(record: logging.LogRecord) -> bool:
    """False for what asyncio says of each of Orbax's tasks that failed beside the one whose error is raised."""
    return "exception was never retrieved" not in record.getMessage()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Orbax from logging, over many lines, what is about to be raised in one."""
    logging.getLogger("asyncio").addFilter(
        _is_news
    )  # it speaks later, when the tasks are collected
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def reporting_writes(path: Path) -> Iterator[None]:
    """Within it what goes wrong while Orbax writes is a CheckpointError of one line."""
    try:
        with quiet():
            yield
    except Exception as error:  # Orbax raises what its storage raises
        raise CheckpointError(
            f"{path}: writing failed ({short(error)}); what was there before is still whole"
        ) from error


def short(error: BaseException) -> str:
    """An exception of another library in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160] if lines else ''}"


def read_metadata(path: Path) -> Any:
    """Orbax's metadata of a tree: `.metadata` with shapes and dtypes, `.custom_metadata`."""
    if not path.exists():
        raise CheckpointError(f"{path} is missing: copy the whole checkpoint folder")
    try:
        with quiet():
            found = ocp.metadata(path)
    except Exception as error:  # Orbax raises half a dozen unrelated types for a damaged folder
        raise CheckpointError(f"{path}: unreadable ({short(error)}); fetch it again") from error
    if found.metadata is None:
        raise CheckpointError(f"{path}: unreadable (its list of arrays is damaged); fetch it again")
    return found


def read_digests(path: Path) -> dict[str, str]:
    """The digest of every array of a tree, by its name."""
    found = (read_metadata(path).custom_metadata or {}).get(DIGESTS)
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: no digests in its metadata; convert or save it again")
    return found


def load_arrays(path: Path, abstract: Any, digests: Mapping[str, str]) -> Any:
    """The arrays of `abstract`, a tree of ShapeDtypeStruct with shardings, checked against their digests."""
    try:
        with storage(), quiet():
            arrays = ocp.load(path, abstract)
    except Exception as error:
        raise CheckpointError(f"{path}: unreadable ({short(error)}); fetch it again") from error
    for name, digest in digests_of_leaves(arrays).items():
        if name not in digests:
            raise CheckpointError(f"{path}: {name} has no digest; convert or save it again")
        if digest != digests[name]:
            raise CheckpointError(f"{path}: {name} is damaged (its digest differs); fetch it again")
    return arrays


def load_kept(
    path: Path, abstract: Any, digests: Mapping[str, str], keep: Mapping[str, Keep]
) -> Any:
    """`load_arrays` with what `keep[part]` makes of "part/name" in the place of each array; other parts as they are.

    Takes the memory of the result and of KEPT_BYTES, or of one leaf.
    """
    if not keep:
        return load_arrays(path, abstract, digests)
    kept = {}
    for group in _groups(abstract):
        arrays = load_arrays(path, nested(group), digests)
        for name, array in zip(group, jax.tree.leaves(arrays), strict=True):
            part, leaf = name.split("/", 1)
            kept[name] = keep[part](leaf, array) if part in keep else array
        jax.block_until_ready([kept[name] for name in group])  # then what was read is freed
        del arrays, array
        return_free_memory()
    return nested(kept)


def _groups(abstract: Any) -> Iterator[dict[str, Any]]:
    """The leaves of a tree, by name and in order, in groups of at most KEPT_BYTES or one leaf."""
    group: dict[str, Any] = {}
    room = KEPT_BYTES
    for path, leaf in jax.tree_util.tree_flatten_with_path(abstract)[0]:
        size = math.prod(leaf.shape) * leaf.dtype.itemsize
        if group and size > room:
            yield group
            group, room = {}, KEPT_BYTES
        group[leaf_name(path)] = leaf
        room -= size
    yield group


def return_free_memory() -> None:
    """Give back what Orbax's buffers leave in glibc's heap: a third of a conversion's memory otherwise."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def abstract_arrays(where: Path, stored: Any, shardings: Any = None) -> Any:
    """What to load: the stored shapes and dtypes in the wanted places; without shardings, on the first device."""
    if shardings is None:
        one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shardings = jax.tree.map(lambda _: one, stored)
    has, wants = (set(leaf_names(tree)) for tree in (stored, shardings))
    if has != wants:
        lacks, more = sorted(wants - has)[:1], sorted(has - wants)[:1]
        raise CheckpointError(
            f"{where}: weights of another model; it lacks {lacks or 'nothing'}, it has {more or 'nothing'} more"
        )
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        stored,
        shardings,
    )


def leaf_names(tree: Any) -> list[str]:
    """The names of a tree's leaves, "a/b/c"."""
    return [leaf_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """{"a/b": x} as {"a": {"b": x}}: the inverse of naming leaves."""
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = leaf
    return tree
