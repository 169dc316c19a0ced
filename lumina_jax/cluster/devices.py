"""Which GPUs of its node are a process's own, told by the environment of its launcher."""

import re
from collections.abc import Mapping
from pathlib import Path

# variables of launchers that name (processes on this node, which of them this one is)
_PLACES = (
    ("OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),  # Open MPI
    ("MPI_LOCALNRANKS", "MPI_LOCALRANKID"),  # MPICH, Intel MPI
)


def local_devices(variables: Mapping[str, str], files: Path = Path("/dev")) -> list[int] | None:
    """The ordinals, among the GPUs that this process sees, of those that are its own; None: no launcher or no GPUs.

    All of them where it is alone on its node, or where the node has as many again for each of its other processes:
    then its launcher shows each its own. Else an equal share. Raises ValueError where GPUs do not divide over the
    processes of the node. `files`: where devices are listed.
    """
    place, seen = _place(variables), _visible(variables, files)
    if place is None or seen == 0:
        return None
    processes, mine = place
    # SLURM's job may have a part of the node; a mask of a part that is meant for all can't be told from one's own
    # where it would do for each, and devices taken twice are an error of NCCL's, where idle ones are silent
    on_node = int(variables.get("SLURM_GPUS_ON_NODE") or _listed(files))
    if processes == 1 or seen == 1 or seen * processes <= on_node:
        return list(range(seen))
    if seen % processes:
        raise ValueError(
            f"{seen} GPUs do not divide over {processes} processes of this node: start one process a node, or one a "
            "GPU, or name each one's own by JAX_LOCAL_DEVICE_IDS"
        )
    share = seen // processes
    return list(range(mine * share, (mine + 1) * share))


def _place(variables: Mapping[str, str]) -> tuple[int, int] | None:
    """(processes on this node, which of them this one is)."""
    for names in _PLACES:
        if all(name in variables for name in names):
            return int(variables[names[0]]), int(variables[names[1]])
    slurm = ("SLURM_STEP_TASKS_PER_NODE", "SLURM_NODEID", "SLURM_LOCALID")
    if not all(name in variables for name in slurm):
        return None
    tasks, node, mine = (variables[name] for name in slurm)
    return _tasks_per_node(tasks)[int(node)], int(mine)


def _tasks_per_node(text: str) -> list[int]:
    """SLURM's "2(x3),1" as [2, 2, 2, 1]; ValueError for anything else."""
    counts = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match is None:
            raise ValueError(f"SLURM_STEP_TASKS_PER_NODE={text!r}: want counts such as 2(x3),1")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def _visible(variables: Mapping[str, str], files: Path) -> int:
    """How many NVIDIA GPUs this process sees."""
    masked = variables.get("CUDA_VISIBLE_DEVICES")
    if masked is None:
        return _listed(files)
    names = [name.strip() for name in masked.split(",")]
    return len([name for name in names if name not in ("", "-1", "NoDevFiles")])


def _listed(files: Path) -> int:
    """How many NVIDIA GPUs this node has."""
    return sum(re.fullmatch(r"nvidia\d+", file.name) is not None for file in files.iterdir())
