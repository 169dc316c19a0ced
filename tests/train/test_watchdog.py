"""The watchdog, in processes that really hang."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.train.processes import finish, log_of, losses, start

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import ctypes, sys, time
from lumina_jax.train import watchdog
watchdog.GRACE_SECONDS = 0.5

def stuck_in_a_queue():
    time.sleep(60)

def stuck_with_the_lock():
    ctypes.PyDLL(None).sleep(60)  # a call that keeps Python's interpreter lock

with watchdog.Watchdog(0.4, sys.argv[1], process=1) as dog:
    dog.beat()
    {body}
print("done")
"""


def run(body: str, workdir: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT.replace("{body}", body), str(workdir)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)


def test_a_hang_ends_with_code_3_and_the_stacks(tmp_path: Path):
    result = run("stuck_in_a_queue()", tmp_path)
    stacks = (tmp_path / "hang-1.txt").read_text()
    assert result.returncode == 3
    assert "error: process 1 has finished no step" in result.stderr
    for text in (result.stderr, stacks):
        assert "in stuck_in_a_queue" in text and "most recent call first" in text


def test_a_hang_that_keeps_the_interpreter_lock_ends_too(tmp_path: Path):
    result = run("stuck_with_the_lock()", tmp_path)
    assert result.returncode == 1
    assert "in stuck_with_the_lock" in result.stderr


def test_beats_in_time_and_pauses_go_on(tmp_path: Path):
    beats = """
    for _ in range(5):
        time.sleep(0.2)
        dog.beat()
    with dog.paused():
        time.sleep(1.0)
    time.sleep(0.2)"""
    result = run(beats.strip("\n ").replace("\n    ", "\n    "), tmp_path)
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr
    assert not list(tmp_path.iterdir())


def test_nothing_is_watched_once_it_is_left(tmp_path: Path):
    began = time.monotonic()
    result = run("pass\ntime.sleep(1.5)", tmp_path)
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr
    assert time.monotonic() - began > 1.5


HANG = """
def stuck(self, batches, seen=[]):
    seen.append(0)
    if len(seen) == NUMBER:
        import time
        time.sleep(600)
    return noted(self, batches)

Report.next = stuck
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 5])
def test_a_run_that_hangs_ends_and_goes_on_where_it_was(tiny_run, tmp_path: Path, number: int):
    """Waiting for its first batch, and for a later one."""
    whole, hung = tmp_path / "whole", tmp_path / "hung"
    finish(start(tiny_run(), whole, devices=1), whole)
    assert not list(whole.glob("hang-*"))
    experiment = tiny_run(hang_minutes=0.2)
    first = HANG.replace("NUMBER", str(number))
    assert start(experiment, hung, devices=1, first=first).wait(timeout=300) == 3
    assert "in stuck" in (hung / "hang-0.txt").read_text()
    assert "process 0 has finished no step for 1" in log_of(hung).read_text()  # 12 seconds or more
    finish(start(experiment, hung, devices=1), hung)
    assert losses(hung) == losses(whole)


LONG = """
import time
from functools import partial
from lumina_jax.train import loop
from lumina_jax.train.checkpoints import TrainCheckpoints

def slowly(function, seconds, *arguments):
    time.sleep(seconds)
    return function(*arguments)

def on_eval(state, step, workdir, seconds=[20]):
    time.sleep(seconds.pop() if seconds else 0)
    return {}

loop.save_model = partial(slowly, loop.save_model, 8)
TrainCheckpoints.wait = lambda self: slowly(self._orbax.wait, 8)
TrainCheckpoints.save = lambda self, *rest, save=TrainCheckpoints.save: slowly(save, 8, self, *rest)
train = partial(train, on_eval=on_eval)
"""


@pytest.mark.slow
def test_a_first_evaluation_and_the_parts_of_a_save_have_their_time(tiny_run, tmp_path: Path):
    """The sampler is compiled; checkpoint, model and the end of the save take as long as a step may, each."""
    workdir = tmp_path / "run"
    experiment = tiny_run(hang_minutes=0.2, eval_every=4, save_every=100)
    finish(start(experiment, workdir, devices=1, first=LONG), workdir)
    assert len(losses(workdir)) == 8
