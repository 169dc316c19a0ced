"""Runs as processes: killed without warning, and spread over a cluster, they give the same numbers."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lumina_jax.config import Experiment
from lumina_jax.config_json import config_to_dict
from lumina_jax.train.metrics import read_metrics

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import json, sys
import jax
workdir, config, address, count, index = sys.argv[1:]
if int(count) > 1:
    jax.distributed.initialize(address, int(count), int(index))
from lumina_jax.config import Experiment
from lumina_jax.config_json import config_from_dict
from lumina_jax.train.loop import train
train(config_from_dict(Experiment, json.loads(config)), workdir)
"""


def start(
    experiment: Experiment, workdir: Path, count: int = 1, index: int = 0, port: int = 0
) -> subprocess.Popen:
    """A training process with four devices over `count` processes."""
    devices = f"--xla_force_host_platform_device_count={4 // count}"
    environment = {**os.environ, "XLA_FLAGS": devices, "PYTHONPATH": str(ROOT)}
    config = json.dumps(config_to_dict(experiment))
    arguments = [str(workdir), config, f"127.0.0.1:{port}", str(count), str(index)]
    with (workdir.parent / f"{workdir.name}-{index}.log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *arguments], env=environment, stdout=log, stderr=log
        )


def finish(process: subprocess.Popen, workdir: Path) -> None:
    assert process.wait(timeout=600) == 0, (workdir.parent / f"{workdir.name}-0.log").read_text()


def losses(workdir: Path) -> list[tuple[int, float]]:
    return [(int(row["step"]), row["loss"]) for row in read_metrics(workdir)]


@pytest.fixture
def whole(tiny_run: Callable[..., Experiment], tmp_path: Path) -> list[tuple[int, float]]:
    """What nothing interrupted."""
    workdir = tmp_path / "whole"
    finish(start(tiny_run(), workdir), workdir)
    return losses(workdir)


@pytest.mark.slow
def test_killed_at_random_steps_equals_uninterrupted(tiny_run, whole, tmp_path: Path):
    workdir, rng = tmp_path / "killed", random.Random()
    for _ in range(3):
        process, step = start(tiny_run(save_every=2), workdir), rng.randint(1, 7)
        while process.poll() is None and len(read_metrics(workdir)) < step:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    finish(start(tiny_run(save_every=2), workdir), workdir)
    assert losses(workdir) == whole


@pytest.mark.slow
def test_sigterm_saves_and_exits_with_0(tiny_run, whole, tmp_path: Path):
    workdir = tmp_path / "stopped"
    process = start(tiny_run(save_every=100), workdir)
    while process.poll() is None and not read_metrics(workdir):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    finish(process, workdir)
    assert (workdir / "model" / "config.json").is_file()
    finish(start(tiny_run(save_every=100), workdir), workdir)
    assert losses(workdir) == whole


@pytest.mark.multihost
def test_two_processes_equal_one(tiny_run, whole, tmp_path: Path):
    workdir = tmp_path / "two"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [start(tiny_run(), workdir, 2, index, port) for index in range(2)]
    for process in processes:
        finish(process, workdir)
    found = losses(workdir)
    assert [step for step, _ in found] == [step for step, _ in whole]
    assert [loss for _, loss in found] == pytest.approx([loss for _, loss in whole], abs=1e-5)
    assert (workdir / "model" / "config.json").is_file()
