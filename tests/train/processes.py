"""Training runs as processes, and what they leave."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from lumina_jax.config_json import config_to_dict
from lumina_jax.experiment import Experiment
from lumina_jax.train.metrics import read_metrics

CLOCK = ("steps_per_s", "tokens_per_s", "data_wait", "mfu")  # what a log's lines say of it
ROOT = Path(__file__).resolve().parents[2]
# Beside the run it writes which rows it trained on: one line a step, a checksum of every row that this process loaded.
SCRIPT = """
import json, sys, zlib
import jax
workdir, config, address, count, index = sys.argv[1:]
if int(count) > 1:
    jax.distributed.initialize(address, int(count), int(index))
from lumina_jax.experiment import Experiment
from lumina_jax.config_json import config_from_dict
from lumina_jax.train.loop import train
from lumina_jax.train.reporting import Report
from lumina_jax.train.signals import STOPPED_CODE

following = Report.next

def noted(self, batches):
    batch = following(self, batches)
    with open(f"{workdir}-{index}.rows", "a") as file:
        file.write(json.dumps([zlib.crc32(row.tobytes()) for row in batch["tokens"]]) + "\\n")
    return batch

Report.next = noted
# first
outcome = train(config_from_dict(Experiment, json.loads(config)), workdir)
sys.exit(0 if outcome.finished else STOPPED_CODE)
"""
# Code for `start`: the first process sends itself a signal once it has begun its `batch`-th batch.
STOP_AT = """
import os
counted, begun = Report.next, []

def stopping(self, batches):
    begun.append(1)
    if len(begun) == {batch} and index == "0":
        os.kill(os.getpid(), {number})
    return counted(self, batches)

Report.next = stopping
"""
QUICKLY = "--xla_backend_optimization_level=0"  # compile more than compute


def start(
    experiment: Experiment,
    workdir: Path,
    count: int = 1,
    index: int = 0,
    port: int = 0,
    devices: int = 4,
    first: str = "",
) -> subprocess.Popen:
    """A training process, one of `count` that share `devices`; `first`: code that it runs before it trains."""
    shared = f"--xla_force_host_platform_device_count={devices // count}"
    environment = {**os.environ, "XLA_FLAGS": f"{shared} {QUICKLY}", "PYTHONPATH": str(ROOT)}
    config = json.dumps(config_to_dict(experiment))
    arguments = [str(workdir), config, f"127.0.0.1:{port}", str(count), str(index)]
    with log_of(workdir, index).open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT.replace("# first", first), *arguments],
            env=environment,
            stdout=log,
            stderr=log,
        )


def start_cluster(
    experiment: Experiment, workdir: Path, count: int, devices: int = 4, first: str = ""
) -> list[subprocess.Popen]:
    """`count` processes of one run; `first` as of `start`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        start(experiment, workdir, count, index, port, devices, first) for index in range(count)
    ]


def finish(process: subprocess.Popen, workdir: Path, code: int = 0) -> None:
    """It must end well: with 0, or with the code of one that was stopped."""
    assert process.wait(timeout=600) == code, log_of(workdir).read_text()


def kill(process: subprocess.Popen) -> None:
    """SIGKILL, before it has ended by itself."""
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def kill_at(step: int, process: subprocess.Popen, workdir: Path) -> None:
    """SIGKILL once `step` is logged."""
    while process.poll() is None and not any(at >= step for at, _ in losses(workdir)):
        time.sleep(0.01)
    kill(process)


def log_of(workdir: Path, index: int = 0) -> Path:
    """What a process printed, over all its lives."""
    return workdir.parent / f"{workdir.name}-{index}.log"


def rows_of(workdir: Path, count: int = 1) -> list[list[int]]:
    """The rows of every step that the `count` processes of a run have begun, over all their lives."""
    files = [workdir.parent / f"{workdir.name}-{index}.rows" for index in range(count)]
    texts = [file.read_text() if file.exists() else "" for file in files]
    lines = [text.split("\n")[:-1] for text in texts]  # a kill may have cut the last one
    return [[row for line in step for row in json.loads(line)] for step in zip(*lines, strict=True)]


def losses(workdir: Path) -> list[tuple[int, float]]:
    """(step, loss) of a run."""
    return [(int(row["step"]), row["loss"]) for row in read_metrics(workdir) if "loss" in row]
