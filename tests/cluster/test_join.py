"""Joining that fails is one line in time; joining that succeeds is said once."""

import os
import subprocess
import sys
import time
from typing import Any

import jax
import pytest

from lumina_jax.cluster.join import join_cluster
from tests.cluster.processes import ROOT, free_port

SCRIPT = """
import sys
from lumina_jax.cli import run_main
from lumina_jax.cluster.join import join_cluster
run_main(lambda: print("joined:", join_cluster(sys.argv[1], 10, int(sys.argv[2]))))
"""
SECONDS = 5


def start(count: int, index: int, port: int, mode: str = "auto") -> subprocess.Popen:
    """A process that joins."""
    given = {
        "COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "NUM_PROCESSES": count,
        "PROCESS_ID": index,
    }
    environment = {**os.environ, **{f"JAX_{name}": str(value) for name, value in given.items()}}
    command = [sys.executable, "-c", SCRIPT, mode, str(SECONDS)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end_of(process: subprocess.Popen) -> tuple[int, str, str]:
    """(exit code, stdout, stderr)."""
    out, said = process.communicate(timeout=60)
    return process.returncode, out, said


INCOMPLETE = {  # (count, index) of every process that is started
    "no coordinator": [(2, 1)],
    "no peer": [(2, 0)],
    "other counts": [(3, 0), (2, 1)],
}


@pytest.mark.multihost
@pytest.mark.parametrize("case", INCOMPLETE)
def test_a_cluster_that_does_not_come_together_is_a_line_and_code_3_in_time(case: str) -> None:
    began, port = time.monotonic(), free_port()
    for process in [start(count, index, port) for count, index in INCOMPLETE[case]]:
        code, _, said = end_of(process)
        assert code == 3, said
        (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
        assert f"not complete within {SECONDS} seconds" in line
        assert ("Connection refused" in line) == (case == "no coordinator")
    assert time.monotonic() - began < SECONDS + 25  # with the imports of two on a slow machine


@pytest.mark.multihost
def test_a_wrong_number_is_a_line_and_code_2() -> None:
    code, _, said = end_of(start(2, 2, free_port()))
    assert code == 2 and said.startswith("error: JAX_COORDINATOR_ADDRESS: cannot join: process_id")


@pytest.mark.multihost
def test_two_join_and_the_first_says_so() -> None:
    port = free_port()
    (first, second) = (end_of(process) for process in [start(2, index, port) for index in range(2)])
    assert first[:2] == second[:2] == (0, "joined: True\n")
    assert f"cluster: 2 processes with 8 cpu devices each; coordinator 127.0.0.1:{port}" in first[2]
    assert "cluster:" not in second[2]


@pytest.mark.parametrize("seconds", [(0, 300), (100, -1)])
def test_seconds_that_are_none(seconds: tuple[int, int], monkeypatch) -> None:
    for name in ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID"):
        monkeypatch.setenv(f"JAX_{name}", "2")
    with pytest.raises(ValueError, match="want 1 or more of both"):
        join_cluster("auto", *seconds)


def test_a_single_process_stays_single_and_says_nothing(monkeypatch, capsys) -> None:
    for name in ("JAX_COORDINATOR_ADDRESS", "SLURM_JOB_ID", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(jax.distributed, "initialize", lambda **_: pytest.fail("it joined"))
    assert join_cluster() is False
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("given", "passed"), [({}, [0, 1, 2, 3]), ({"JAX_LOCAL_DEVICE_IDS": "1"}, None)]
)
def test_one_slurm_task_a_node_gets_all_its_gpus(given, passed, monkeypatch, capsys) -> None:
    variables = {
        **{"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "a[1-2]", "SLURM_STEP_NUM_TASKS": "2"},
        **{"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"},
        **{"SLURM_STEP_TASKS_PER_NODE": "1(x2)", "CUDA_VISIBLE_DEVICES": "0,1,2,3", **given},
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    told: dict[str, Any] = {}
    monkeypatch.setattr(jax.distributed, "initialize", lambda **options: told.update(options))
    assert join_cluster(heartbeat_seconds=20)
    assert told["local_device_ids"] == passed
    assert (told["cluster_detection_method"], told["num_processes"]) == ("slurm", 2)
    assert told["heartbeat_timeout_seconds"] == 20
    assert "found by SLURM" in capsys.readouterr().err
