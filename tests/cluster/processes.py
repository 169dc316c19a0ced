"""Processes of train.py that find each other by what the environment says."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lumina_jax.config_json import config_to_dict
from lumina_jax.experiment import Experiment

ROOT = Path(__file__).resolve().parents[2]
FLAGS = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
RUN_FILE = """
import json
from lumina_jax.config_json import config_from_dict
from lumina_jax.experiment import Experiment

def get_config():
    return config_from_dict(Experiment, json.loads({text!r}))
"""


def write_run_file(file: Path, experiment: Experiment) -> Path:
    """A run file of an experiment."""
    file.write_text(RUN_FILE.format(text=json.dumps(config_to_dict(experiment))))
    return file


def free_port() -> int:
    """Of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start_train(
    run_file: Path, workdir: Path, count: int, index: int, port: int, options: Sequence[str] = ()
) -> subprocess.Popen:
    """`train.py` as process `index` of `count`; its screen is `screen_of(workdir, index)`."""
    environment = {
        **os.environ,
        "XLA_FLAGS": FLAGS,
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": str(count),
        "JAX_PROCESS_ID": str(index),
    }
    command = [sys.executable, "train.py", str(run_file), "--workdir", str(workdir), *options]
    with screen_of(workdir, index).open("ab") as screen:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=screen, stderr=screen)


def screen_of(workdir: Path, index: int) -> Path:
    """What a process showed, over all its lives."""
    return workdir.parent / f"{workdir.name}-{index}.screen"
