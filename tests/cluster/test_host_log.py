"""The log of a host holds all that its process prints, however that ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lumina_jax.cluster.host_log import AGAIN, PEER_DIED
from tests.cluster.processes import ROOT

SCRIPT = """
import ctypes, faulthandler, os, subprocess, sys
from lumina_jax.cluster.host_log import HostLog

log = HostLog(sys.argv[1], 3, "=== header", on_screen=sys.argv[2] == "screen")
print("by Python")
print("\\r 1%\\r 2%", end="", file=sys.stderr, flush=True)
print("\\r 3% of a bar", file=sys.stderr)
subprocess.run(["sh", "-c", "echo by a child"])
{end}
"""
ENDS = {  # code that ends the process -> exit codes, what is the last of its log
    "log.close(); print('after')": (0, "by a child"),
    "sys.stdout.flush(); os._exit(3)": (3, "was killed, or ended without cleaning up"),
    "os.write(2, b'JAX distributed service detected fatal errors'); os.abort()": (-6, PEER_DIED),
    "faulthandler.enable(); ctypes.string_at(0)": (-11, "was killed"),
}


def run(
    workdir: Path | str, end: str, screen: str, **environment: str
) -> subprocess.CompletedProcess:
    """A process that ends so; its output is that of the keeper, too, so all is written once it is read."""
    return subprocess.run(
        [sys.executable, "-c", SCRIPT.format(end=end), str(workdir), screen],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("screen", ["screen", "quiet"])
@pytest.mark.parametrize("end", ENDS)
def test_all_that_is_printed_is_in_the_log(end: str, screen: str, tmp_path: Path) -> None:
    code, last = ENDS[end]
    done = run(tmp_path, end, screen)
    assert done.returncode == code, done.stderr
    lines = (tmp_path / "logs" / "host-3.log").read_text().splitlines()
    assert lines[:4] == ["=== header", "by Python", " 3% of a bar", "by a child"]
    assert last in lines[-1] and ("after" in done.stdout) == (code == 0)
    assert "after" not in lines
    assert (AGAIN in lines[-1]) == (AGAIN in done.stderr) == (code != 0)
    assert ("by a child" in done.stderr) == (screen == "screen")
    if "faulthandler" in end:
        assert any("Segmentation fault" in line for line in lines)


def test_a_later_life_is_appended(tmp_path: Path) -> None:
    for _ in range(2):
        run(tmp_path, "log.close()", "quiet")
    assert (tmp_path / "logs" / "host-3.log").read_text().count("=== header") == 2


def test_a_log_that_cannot_be_written_does_not_end_the_run(tmp_path: Path) -> None:
    (tmp_path / "logs" / "host-3.log").mkdir(parents=True)
    done = run(tmp_path, "log.close(); print('after')", "screen")
    assert (done.returncode, done.stdout) == (0, "after\n")
    assert done.stderr.count("warning: ") == 1 and "by a child" in done.stderr


@pytest.mark.slow
def test_a_log_in_a_bucket_is_whole_after_the_end(fake_gcs) -> None:
    for _ in range(2):
        run(f"{fake_gcs.url}/run", "sys.stdout.flush(); os._exit(3)", "quiet")
    (name,) = fake_gcs.names()
    text = fake_gcs.get(name).decode()
    assert name.endswith("run/logs/host-3.log")
    assert text.count("=== header") == text.count("by a child") == text.count(AGAIN) == 2


def test_signals_are_not_meant_for_the_keeper(tmp_path: Path) -> None:
    end = "os.kill(log._keeper.pid, 15); os.kill(log._keeper.pid, 2); print('still'); log.close()"
    wait = "import time; time.sleep(1); "  # until it has begun
    run(tmp_path, wait + end, "quiet")
    assert "still" in (tmp_path / "logs" / "host-3.log").read_text()
