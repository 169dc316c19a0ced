"""GPUs of a process, by pretended launchers."""

from pathlib import Path

import pytest

from lumina_jax.cluster.devices import local_devices

EIGHT = "0,1,2,3,4,5,6,7"


def slurm(tasks: str, node: int, mine: int, seen: str | None = EIGHT, on_node: int | None = 8):
    """Variables of a SLURM task."""
    given = {
        "SLURM_STEP_TASKS_PER_NODE": tasks,
        "SLURM_NODEID": str(node),
        "SLURM_LOCALID": str(mine),
        "CUDA_VISIBLE_DEVICES": seen,
        "SLURM_GPUS_ON_NODE": on_node and str(on_node),
    }
    return {name: value for name, value in given.items() if value is not None}


def mpi(size: int, rank: int, seen: str | None = None):
    """Variables of an Open MPI process."""
    given = {"OMPI_COMM_WORLD_LOCAL_SIZE": str(size), "OMPI_COMM_WORLD_LOCAL_RANK": str(rank)}
    return given if seen is None else {**given, "CUDA_VISIBLE_DEVICES": seen}


CASES = {
    "one task a node": (slurm("1(x4)", 2, 0), [0, 1, 2, 3, 4, 5, 6, 7]),
    "one task a node, which got four": (slurm("1(x4)", 2, 0, "2,3,6,7", 4), [0, 1, 2, 3]),
    "a task a GPU": (slurm("8(x4)", 1, 5), [5]),
    "a task a GPU, each sees its own": (slurm("8(x4)", 1, 5, "5"), [0]),
    "two tasks a node": (slurm("2(x2)", 0, 1), [4, 5, 6, 7]),
    "two tasks a node, each sees its own": (slurm("2(x2)", 0, 1, "0,1,2,3"), [0, 1, 2, 3]),
    "nodes of several sizes": (slurm("8(x2),1", 2, 0), [0, 1, 2, 3, 4, 5, 6, 7]),
    "no GPUs given": (slurm("1(x4)", 0, 0, "", None), None),
    "no GPUs there": (slurm("1(x4)", 0, 0, None, None), None),
    "MPI, one a node": (mpi(1, 0, "0,1,2,3"), [0, 1, 2, 3]),
    "MPI, one a GPU": (mpi(4, 3, "0,1,2,3"), [3]),
    "MPICH": (
        {"MPI_LOCALNRANKS": "2", "MPI_LOCALRANKID": "1", "CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"},
        [1],
    ),
    "a TPU slice on GKE": ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"}, None),
    "no launcher": ({"CUDA_VISIBLE_DEVICES": EIGHT}, None),
}


@pytest.mark.parametrize("case", CASES)
def test_devices_of_a_process(case: str, tmp_path: Path) -> None:
    variables, devices = CASES[case]
    assert local_devices(variables, tmp_path) == devices


def test_without_a_mask_all_devices_of_the_node_are_seen(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert local_devices(mpi(1, 0), tmp_path) == [0, 1]


OF_EIGHT = {  # (processes, which of them, its mask) on a node of eight GPUs -> its own
    "halves, each sees its own": ((2, 1, "4,5,6,7"), [0, 1, 2, 3]),
    "pairs, each sees its own": ((4, 2, "4,5"), [0, 1]),
    "one sees all": ((2, 1, EIGHT), [4, 5, 6, 7]),
    "a part of the node for all": ((4, 3, "0,1,2,3"), [3]),
    "no mask": ((2, 0, None), [0, 1, 2, 3]),
}


@pytest.mark.parametrize("case", OF_EIGHT)
def test_a_mask_of_ones_own_is_told_from_a_nodes(case: str, tmp_path: Path) -> None:
    for index in range(8):
        (tmp_path / f"nvidia{index}").touch()
    given, devices = OF_EIGHT[case]
    assert local_devices(mpi(*given), tmp_path) == devices
    part = slurm("2(x2)", 0, 1, "2,3,6,7", 4)  # SLURM gave the job half of the node
    assert local_devices(part, tmp_path) == [2, 3]


def test_gpus_that_do_not_divide_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="8 GPUs do not divide over 3 processes"):
        local_devices(slurm("3(x2)", 0, 1), tmp_path)
    with pytest.raises(ValueError, match="SLURM_STEP_TASKS_PER_NODE='many'"):
        local_devices(slurm("many", 0, 0), tmp_path)
