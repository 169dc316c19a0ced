"""Which part of the work is this process's, and what it waits for of the others."""

import os
import secrets
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lumina_jax.data.pretokenize.options import RunOptions
from lumina_jax.data.shards import missing_shards, shard_name, temporary_name
from lumina_jax.paths import make_folder

POLL_SECONDS = 1.0
SAY_SECONDS = 60.0
SEEN_SECONDS = 20.0  # within which a disk shows its files to all machines


class Part(NamedTuple):
    """Process `index` of `count`."""

    index: int
    count: int


def which_part(options: RunOptions) -> Part:
    """The part of this process: of JAX's cluster, of a SLURM array, or as --part says."""
    if options.distributed:
        import jax

        return Part(jax.process_index(), jax.process_count())
    given, array = options.part, os.environ.get("SLURM_ARRAY_TASK_ID")
    if not given and array is not None and "SLURM_ARRAY_TASK_COUNT" in os.environ:
        first, step = (
            int(os.environ.get(f"SLURM_ARRAY_TASK_{key}", default))
            for key, default in (("MIN", "0"), ("STEP", "1"))
        )
        index, count = (int(array) - first) // step, int(os.environ["SLURM_ARRAY_TASK_COUNT"])
    else:
        numbers = (given or "1/1").split("/")
        if len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
            raise ValueError(f"--part {given}: want I/N, such as 1/8 for the first of eight")
        index, count = int(numbers[0]) - 1, int(numbers[1])
    if not 0 <= index < count:
        raise ValueError(f"part {index + 1} of {count}: want one from 1 to {count}")
    return Part(index, count)


def check_shared(folder: Path, part: Part) -> None:
    """ValueError on every process of a cluster unless all of them see in `folder` what the first one writes there."""
    from jax.experimental import multihost_utils

    make_folder(folder)
    drawn = np.array(secrets.randbits(31), np.int32)
    token = int(multihost_utils.broadcast_one_to_all(drawn))
    name = f"cluster-{token}"
    file = temporary_name(folder / name)  # removed as a leftover after a kill
    if part.index == 0:
        file.write_bytes(b"")
    end = time.monotonic() + SEEN_SECONDS
    while not _begins(folder, name) and time.monotonic() < end:
        time.sleep(POLL_SECONDS / 10)
    found = np.array(_begins(folder, name), np.int32)
    seen = np.ravel(multihost_utils.process_allgather(found))
    if part.index == 0:
        file.unlink(missing_ok=True)
    if not seen.all():
        raise ValueError(
            f"{folder}: process {int(seen.argmin())} does not see there what process 0 wrote; --distributed wants "
            "a folder on a disk that all processes share"
        )


def wait_for_all(folder: Path, num_shards: int) -> None:
    """Wait until the others have written their shards, and say once a minute what is still missing."""
    said = time.monotonic()
    while missing := missing_shards(folder, num_shards):
        if time.monotonic() - said >= SAY_SECONDS:
            said = time.monotonic()
            first = shard_name(missing[0], num_shards)
            print(
                f"{folder}: waits for {len(missing)} shards of other processes, {first} first",
                file=sys.stderr,
                flush=True,
            )
        time.sleep(POLL_SECONDS)


def _begins(folder: Path, name: str) -> bool:
    return any(file.startswith(f"{name}.") for file in os.listdir(folder))
