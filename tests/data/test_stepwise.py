"""Loader processes end with the run, however it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import multiprocessing
import numpy as np
from lumina_jax.data.stepwise import by_stage
from lumina_jax.experiment import Stage
from lumina_jax.train.curriculum import Curriculum

stage = Stage(1000, 1, 0.1, (("a", 1.0),))
batches = by_stage(Curriculum([stage]), 0, lambda *_: lambda step: {"step": np.array([step])}, 2)
assert next(batches)["step"] == 0 and next(batches)["step"] == 1
print(*[process.pid for process in multiprocessing.active_children()], flush=True)
input()
assert [int(next(batches)["step"][0]) for _ in range(60)] == list(range(2, 62))
batches.close()
assert not multiprocessing.active_children()
"""


def is_running(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{process_id}/status").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("end", ["close", "kill"])
def test_loader_processes_end_with_their_parent(end):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], env=environment, **pipes)
    assert process.stdin and process.stdout
    children = [int(number) for number in process.stdout.readline().split()]
    assert len(children) >= 2 and all(map(is_running, children))
    for child in children:
        os.kill(child, signal.SIGINT)  # as Ctrl-C in a terminal does
    if end == "kill":
        process.send_signal(signal.SIGKILL)
    process.communicate("\n", timeout=60)
    assert process.returncode == (0 if end == "close" else -signal.SIGKILL)
    until = time.monotonic() + 20
    while any(map(is_running, children)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(is_running, children))
