"""A cluster of two real processes of train.py: what they say, and what one does when the other dies."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import jax
import pytest

from lumina_jax.checkpoint import digest
from lumina_jax.cluster import ending
from lumina_jax.cluster.ending import end_of, ending_together
from lumina_jax.cluster.host_log import AGAIN, PEER_DIED
from lumina_jax.experiment import Experiment
from tests.cluster.processes import free_port, screen_of, start_train, write_run_file
from tests.train.processes import kill_at, losses

HEARTBEAT, SLACK = 10, 8  # seconds: JAX looks every few


def start_pair(run_file: Path, workdir: Path, options: Sequence[list[str]] = ([], [])) -> list:
    """Two processes of one run, each with options of its own."""
    port, heartbeat = free_port(), ["--heartbeat-seconds", str(HEARTBEAT)]
    return [
        start_train(run_file, workdir, 2, index, port, [*heartbeat, *more])
        for index, more in enumerate(options)
    ]


def run_to_the_end(run_file: Path, workdir: Path) -> None:
    """A pair that must end well."""
    for index, process in enumerate(start_pair(run_file, workdir)):
        assert process.wait(timeout=300) == 0, screen_of(workdir, index).read_text()


def kill_one(pair: list, dying: int, step: int, workdir: Path) -> None:
    """SIGKILL to one of a pair once `step` is logged: the other ends within the heartbeat, and says why."""
    kill_at(step, pair[dying], workdir)
    died, left = time.monotonic(), 1 - dying
    assert pair[left].wait(timeout=60) not in (0, 2)
    assert time.monotonic() - died < HEARTBEAT + SLACK
    time.sleep(1)  # its log's keeper outlives it a moment
    for words in (log_of(workdir, left), screen_of(workdir, left).read_text()):
        assert PEER_DIED in words and AGAIN in words


def log_of(workdir: Path, index: int) -> str:
    """What a process logged, over all its lives."""
    return (workdir / "logs" / f"host-{index}.log").read_text()


def failed(message: str) -> Exception:
    """What jax raises."""
    return jax.errors.JaxRuntimeError(message)


def caused(error: Exception, cause: Exception) -> Exception:
    """An error that came of another."""
    error.__cause__ = cause
    return error


GLOO = "INTERNAL: Gloo all-reduce failed: Read error [127.0.0.1]:4: Connection reset by peer"
ENDS = {  # error -> what its line has, exit code
    "a sum": (failed(GLOO), f"error: {PEER_DIED} ({GLOO}); it ends with code 3; {AGAIN}", 3),
    "a barrier": (
        caused(ValueError("save"), failed("DEADLINE_EXCEEDED: Barrier timed out")),
        AGAIN,
        3,
    ),
    "memory": (failed("RESOURCE_EXHAUSTED: out of memory"), "JaxRuntimeError: RESOURCE", 1),
    "a setting": (ValueError("no such\n thing"), "error: no such  thing", 2),
    "a disk": (OSError("disk full"), "error: disk full", 2),
    "a bug": (KeyError("x"), "Traceback (most recent call last):\nKeyError: 'x'", 1),
    "Ctrl-C twice": (KeyboardInterrupt(), "interrupted", 130),
}


@pytest.mark.parametrize("case", ENDS)
def test_the_line_and_the_code_of_an_error(case: str) -> None:
    error, words, code = ENDS[case]
    line, found = end_of(error)
    assert found == code and words.removeprefix("Traceback (most recent call last):\n") in line


def test_a_single_process_raises_as_ever(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wrong"), ending_together(tmp_path):
        raise ValueError("wrong")
    assert not list(tmp_path.iterdir())


def test_a_host_that_cannot_make_its_log_ends_at_once(tmp_path: Path, monkeypatch, capsys) -> None:
    class Ended(BaseException):
        """In place of the process."""

    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(ending.os, "_exit", end)
    monkeypatch.setattr(ending.time, "sleep", lambda _: None)
    (tmp_path / "logs").touch()
    with pytest.raises(Ended, match="2"), ending_together(tmp_path):
        pytest.fail("it went on")
    assert f"error: [Errno 17] File exists: '{tmp_path / 'logs'}'" in capsys.readouterr().err


@pytest.mark.multihost
def test_an_error_of_one_ends_both_with_a_line(tiny_run: Callable[..., Experiment], tmp_path: Path):
    run_file, workdir = write_run_file(tmp_path / "run.py", tiny_run()), tmp_path / "run"
    first, second = start_pair(run_file, workdir, [[], ["--init", str(tmp_path / "nothing")]])
    assert second.wait(timeout=120) == 2
    died = time.monotonic()
    assert first.wait(timeout=60) not in (0, 2)
    assert time.monotonic() - died < HEARTBEAT + SLACK
    for words in (log_of(workdir, 1), screen_of(workdir, 1).read_text()):
        assert f"error: {tmp_path / 'nothing'}: no checkpoint there" in words
    time.sleep(1)
    assert PEER_DIED in log_of(workdir, 0) and AGAIN in screen_of(workdir, 0).read_text()


@pytest.mark.multihost
def test_one_killed_ends_both_and_the_pair_goes_on_as_if_nothing_had_been(
    tiny_run: Callable[..., Experiment], tmp_path: Path
):
    stages = tuple(replace(stage, steps=10) for stage in tiny_run().train.stages)
    run_file = write_run_file(tmp_path / "run.py", tiny_run(stages=stages, save_every=5))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_to_the_end(run_file, whole)
    kill_one(start_pair(run_file, killed), 0, 12, killed)  # the one that leads the cluster
    run_to_the_end(run_file, killed)
    assert [step for step, _ in losses(killed)] == list(range(1, 21))
    assert losses(killed) == losses(whole)
    assert digest(killed / "model", "transformer") == digest(whole / "model", "transformer")

    first, second = log_of(killed, 0), log_of(killed, 1)
    assert first.count("===") == second.count("===") == 2  # two lives
    assert "process 1 of 2" in second and "2 of 4 cpu devices" in second
    assert "resuming" in first and "finished at step 20" in first
    shown = [screen_of(whole, index).read_text() for index in range(2)]
    assert "cluster: 2 processes with 2 cpu devices each; coordinator 127.0.0.1:" in shown[0]
    assert "finished at step 20" in shown[0]
    assert "%|" not in shown[1] and "transformer" not in shown[1]  # quiet
