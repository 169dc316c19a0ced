"""Writes a model checkpoint group by group: memory for two groups, resumable after a kill, atomic at the end.

Orbax joins groups by renaming, which a bucket cannot do: a checkpoint for a bucket is put together in the cache on this
machine's disk, which needs room for all of it, and then copied, config.json last. A copy that is cut short goes on.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from orbax.checkpoint import v1 as ocp

from lumina_jax.checkpoint import publish, write_config, write_json
from lumina_jax.checksums import digest_of
from lumina_jax.config import ModelConfig
from lumina_jax.orbax_io import (
    DIGESTS,
    CheckpointError,
    nested,
    quiet,
    read_digests,
    return_free_memory,
    short,
    storage,
)
from lumina_jax.paths import absolute, cache_folder, check_writable, copy_folder, is_remote

UNFINISHED_SUFFIX = ".unfinished"
SESSION = "params.partial_save"  # where Orbax keeps the groups of `params` until they are joined
GROUP_METADATA = "_CHECKPOINT_METADATA"  # the file of a complete group that holds what we noted
SOURCE = "source.json"


class ModelWriter:
    """One model checkpoint being written to `path`; until `finish` everything lies in `folder`, on a local disk."""

    def __init__(self, path: str | Path, source: Mapping[str, Any]):
        """Begin, or take up what a killed writer of the same `source` (JSON) left.

        Raises CheckpointError where `path` exists, or holds the unfinished work of another source.
        """
        self.path = absolute(path)
        self.folder = unfinished_folder(self.path)
        self._thread = ThreadPoolExecutor(1)
        self._pending: Any = None
        if is_remote(self.path):
            check_writable(self.path)
        previous = self.path.with_name(self.path.name + ".previous")  # what a killed save left
        for taken in (self.path / "config.json" if is_remote(self.path) else self.path, previous):
            if taken.exists():
                raise CheckpointError(f"{taken} exists: name another destination, or remove it")
        begun = self.folder / SOURCE
        used = self.folder.exists() and any(self.folder.iterdir())
        if used and _read_json(begun) != dict(source):
            raise CheckpointError(
                f"{self.folder} holds an unfinished conversion of something else, or with other options: remove it, "
                "or name another destination"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(begun, dict(source))
        self.digests = self._take_up()  # of every array that is safely on disk

    def write(self, group: Mapping[str, np.ndarray]) -> None:
        """Write arrays by name ("transformer/layers/00/q") while the caller goes on; they must not change any more.

        Raises CheckpointError where the group before could not be written.
        """
        digests = {name: digest_of(array) for name, array in group.items()}

        def save() -> None:
            with storage():
                ocp.partial.save(
                    self.folder / "params", nested(group), custom_metadata={DIGESTS: digests}
                )

        self._wait()
        self._pending = self._thread.submit(save)  # a third of Orbax's own async save blocks
        self.digests |= digests

    def __enter__(self) -> "ModelWriter":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Wait for the group that is being written; after an error only so that nobody meets it half-written."""
        if error is None:
            self._wait()
        self._thread.shutdown(wait=True)

    def finish(
        self, config: ModelConfig, tokenizer: Any = None, extra: Mapping[str, Any] | None = None
    ) -> Path:
        """Join the groups, add config and tokenizer, and put the whole in its place. Returns the checkpoint."""
        self._wait()
        params = self.folder / "params"
        if not params.exists():
            with self._reporting(), storage():
                ocp.partial.finalize(params)
        with self._reporting():
            write_config(self.folder, config, tokenizer, extra)
            if is_remote(self.path):
                copy_folder(self.folder, self.path, last="config.json", without=SOURCE)
                shutil.rmtree(self.folder)
            else:
                publish(self.folder, self.path)
                (self.path / SOURCE).unlink()
        return self.path

    def _take_up(self) -> dict[str, str]:
        """The digests of the arrays that are already written; half-written groups are removed."""
        session, params = self.folder / SESSION, self.folder / "params"
        if params.exists():  # killed after the groups were joined
            return read_digests(params)
        if not session.exists():
            return {}
        digests: dict[str, str] = {}
        for entry in session.iterdir():
            if (
                ".pending_" not in entry.name
            ):  # killed while they were being joined: cannot be taken up
                shutil.rmtree(session)
                return {}
            found = _read_json(entry / GROUP_METADATA) or {}
            if "tmp" in entry.name or not (entry / "commit_success.txt").exists():
                shutil.rmtree(entry)
            else:
                digests |= (found.get("custom_metadata") or {}).get(DIGESTS, {})
        return digests

    def _wait(self) -> None:
        """Return once the last group is on disk."""
        pending, self._pending = self._pending, None
        if pending is not None:
            with self._reporting():
                pending.result()
            return_free_memory()

    def _reporting(self) -> "_Reporting":
        return _Reporting(self.folder)


class _Reporting:
    """Turns what goes wrong while writing into a CheckpointError of one line."""

    def __init__(self, folder: Path):
        self.folder, self._quiet = folder, quiet()

    def __enter__(self) -> None:
        self._quiet.__enter__()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._quiet.__exit__(kind, error, trace)
        if isinstance(error, Exception):
            full = "No space left on device" in str(error)
            why = "the disk is full" if full else short(error)
            raise CheckpointError(
                f"{self.folder}: writing failed ({why}); mend that and run the same command again, it goes on from "
                "what is whole there"
            ) from error


def unfinished_folder(path: Path) -> Path:
    """The local folder in which what goes to `path` is put together."""
    if not is_remote(path):
        return path.with_name(path.name + UNFINISHED_SUFFIX)
    address = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    return cache_folder() / "unfinished" / f"{path.name}-{address}"


def _read_json(file: Path) -> Any:
    """What a JSON file holds, None where it is missing or cut short."""
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return None
