"""Training checkpoints: the whole state of a run, saved while it goes on and restored at the exact next step.

A save is committed by a rename, in a bucket by an object that Orbax writes last, so a kill leaves only complete
checkpoints and a leftover that the next start removes. Each carries a digest per array, computed on the devices; a
damaged newest one is set aside and the one before it is used.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from lumina_jax.checksums import device_digest, leaf_name
from lumina_jax.orbax_io import UNFINISHED, CheckpointError, quiet, short, storage
from lumina_jax.paths import absolute, check_bucket, is_remote, make_folder, remove_folder

COMMITTED = "commit_success.txt"  # Orbax writes it last into a checkpoint in a bucket
FOLDER = "checkpoints"
DIGESTS = "digests-2"  # the number changes with what a digest is


DigestOf = Callable[[Mapping[str, Any]], dict[str, int]]


class TrainCheckpoints:
    """The checkpoints of one run, at `workdir/checkpoints/<step>`."""

    def __init__(self, workdir: str | Path, keep_last: int = 2, keep_every: int = 0):
        """`keep_every`: the steps whose multiples are kept beside the last ones; 0: none."""
        self.folder = absolute(workdir) / FOLDER
        make_folder(self.folder)
        if jax.process_index() == 0:
            for leftover in _leftovers(self.folder):
                remove_folder(leftover)
        self._digests = digests_on_devices()
        self._keep_last, self._keep_every = keep_last, keep_every
        self._orbax = self._open()

    def _open(self) -> Any:
        policies = ocp.training.preservation_policies
        kept = [policies.LatestN(self._keep_last)]
        if self._keep_every:
            kept.append(policies.EveryNSteps(self._keep_every))
        return ocp.training.Checkpointer(
            self.folder,
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.AnyPreservationPolicy(kept),
        )

    def save(self, step: int, state: Any, meta: Mapping[str, Any]) -> None:
        """Write `state` in the background; it may be donated as soon as this returns."""
        flat = flatten(state)
        notes = {"meta": dict(meta), DIGESTS: self._digest_of(flat)}
        with storage():
            self._orbax.save_checkpointables_async(step, {"state": flat}, custom_metadata=notes)

    def steps(self) -> list[int]:
        """The complete checkpoints, newest first."""
        return sorted((entry.step for entry in self._orbax.checkpoints), reverse=True)

    def latest(self) -> int | None:
        """The newest complete checkpoint's step, None in a fresh run."""
        return next(iter(self.steps()), None)

    def restore(self, abstract_state: Any) -> tuple[Any, dict[str, Any]] | None:
        """(state, meta) of the newest intact checkpoint, None where there is none.

        `abstract_state`: the tree of ShapeDtypeStruct with shardings; its mesh may differ from the saved one's.
        Damaged checkpoints are renamed to `damaged-<step>`; CheckpointError when all of them are.
        """
        self.wait()
        steps = self.steps()
        for step in steps:
            try:
                return self._restore(step, abstract_state)
            except CheckpointError as error:
                # where the bucket does not answer, nothing is known of the checkpoint
                check_bucket(self.folder)
                print(f"warning: {error}; falling back to the one before", file=sys.stderr)
                self._set_aside(step)
        if steps or any(self.folder.glob("damaged-*")):
            raise CheckpointError(
                f"{self.folder}: every checkpoint is damaged; start again in another workdir, "
                f"with --init {self.folder.parent / 'model'} to keep the weights"
            )
        return None

    def wait(self) -> None:
        """Return once the last save is on disk."""
        self._orbax.wait()

    def close(self) -> None:
        """Finish the last save and let go of the folder."""
        self._orbax.close()

    def _restore(self, step: int, abstract_state: Any) -> tuple[Any, dict[str, Any]]:
        return read_checkpoint(self.folder / str(step), abstract_state, self._digest_of)

    def _digest_of(self, flat: Mapping[str, Any]) -> dict[str, int]:
        return self._digests(flat)

    def _set_aside(self, step: int) -> None:
        self._orbax.close()
        if jax.process_index() == 0:
            damaged = self.folder / f"damaged-{step}"
            remove_folder(damaged)
            (self.folder / str(step)).rename(damaged)
        self._orbax = self._open()


def read_checkpoint(
    folder: Path, abstract_state: Any, digest_of: DigestOf | None = None
) -> tuple[Any, dict[str, Any]]:
    """(state, meta) of one checkpoint; nothing is written, so its run may go on meanwhile.

    `abstract_state` as for `TrainCheckpoints.restore`. Raises CheckpointError where it is damaged, ValueError where
    another version wrote it.
    """
    abstract = flatten(abstract_state)
    try:
        with quiet():
            flat = ocp.load_checkpointables(folder, {"state": abstract})["state"]
            notes = ocp.checkpointables_metadata(folder).custom_metadata or {}
    except Exception as error:  # Orbax raises half a dozen unrelated types for a damaged folder
        raise CheckpointError(f"{folder}: unreadable ({short(error)})") from error
    if not any(name.startswith("digests") for name in notes):
        raise CheckpointError(f"{folder}: its digests are missing")
    if DIGESTS not in notes:
        raise ValueError(
            f"{folder}: written by another version, whose digests this one cannot check: go on with that one, "
            "or start in another workdir"
        )
    expected = notes[DIGESTS]
    for name, value in (digest_of or digests_on_devices())(flat).items():
        if value != expected.get(name):
            raise CheckpointError(f"{folder}: {name} is damaged (its digest differs)")
    leaves = [flat[name] for name in abstract]  # Orbax returns them sorted
    return jax.tree.unflatten(jax.tree.structure(abstract_state), leaves), notes["meta"]


def digests_on_devices() -> DigestOf:
    """A function of a flat state: the digest of every array, computed where it lies."""
    compiled = jax.jit(lambda flat: {name: device_digest(leaf) for name, leaf in flat.items()})
    return lambda flat: {name: int(value) for name, value in compiled(flat).items()}


def _leftovers(folder: Path) -> list[Path]:
    """What killed saves left."""
    if not is_remote(folder):
        return list(folder.glob(UNFINISHED))
    begun = [path for path in folder.glob("*") if path.name.isdecimal()]
    return [path for path in begun if not (path / COMMITTED).exists()]


def flatten(state: Any) -> dict[str, Any]:
    """{"params.embed.table": leaf, …} in the tree's own order: no empty node, nothing but arrays."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {leaf_name(path).replace("/", "."): leaf for path, leaf in leaves}
