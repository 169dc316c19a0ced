"""What is asked of Orbax: chunks that any sharding can read, metadata, loading; and its errors in one line."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from lumina_jax.checksums import digests_of_leaves, leaf_name

# What is read and written at once. A process that wants a 64th of a weight reads little more than that, and Orbax
# compresses chunks in parallel: twice as fast as whole arrays (docs/benchmarks.md).
CHUNK_BYTES = 2**20
DIGESTS = "digests"  # key of the arrays' digests in an Orbax checkpoint's metadata
UNFINISHED = "*.orbax-checkpoint-tmp"


class CheckpointError(ValueError):
    """A checkpoint that is absent, incomplete or damaged; the message names the path and what to do."""


@contextmanager
def storage() -> Iterator[None]:
    """Within it Orbax writes arrays in chunks of CHUNK_BYTES, and loads a part of what a checkpoint holds."""
    context = ocp.Context()
    context.array.saving.storage_options.chunk_byte_size = CHUNK_BYTES
    context.pytree.loading.partial_load = True
    with context:
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Orbax from logging, over many lines, what is about to be raised in one."""
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
