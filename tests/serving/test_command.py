"""sample.py with a file of prompts: what it writes and answers, killed, interrupted and on a disk that is full."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sample
from lumina_jax.checkpoint import save_model
from lumina_jax.cli import run_main

ROOT = Path(__file__).resolve().parents[2]
NUM_IMAGES = 12


@pytest.fixture(scope="module")
def checkpoint(small_lumina, tmp_path_factory) -> str:
    """The small model on disk."""
    path = tmp_path_factory.mktemp("checkpoint") / "model"
    model = small_lumina
    return str(save_model(path, model.loaded.params, model.config, model.tokenizer))


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    lines = [{"prompt": "a red star", "size": "64x32", "seed": n} for n in range(NUM_IMAGES)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.fixture
def arguments(checkpoint: str, prompts: str) -> list[str]:
    few = ["--checkpoint", checkpoint, "--top-k", "30", "--guidance", "2", "--batch", "2"]
    return [*few, "--prompts", prompts]


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def test_folder_is_filled_and_resumed(arguments, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    whole = [*arguments, "--out", str(out), "--decoder", "jacobi", "--window", "4", "--batch", "12"]
    run_main(lambda: sample.main(whole))
    assert capsys.readouterr().out == f"{out}: {NUM_IMAGES} of {NUM_IMAGES} images\n"
    before = pictures(out)
    assert len(before) == NUM_IMAGES
    [gone, *_] = before
    (out / gone).unlink()
    run_main(lambda: sample.main([*whole, "--resume"]))
    assert pictures(out) == before


BAD = {
    "both": (["--prompt", "a"], "--prompts names a file: leave out --prompt and --contact-sheet"),
    "one file": (["--out", "x.png"], "--out x.png: images of a file fill a folder"),
    "no file": (["--prompts", "nowhere.jsonl", "--out", "o"], "nowhere.jsonl: no such prompt file"),
    "default": (["--size", "big", "--out", "o"], "size 'big': want WIDTHxHEIGHT"),
    "size": (["--size", "256x256", "--out", "o"], "needs 1060 tokens, this model has room for 387"),
    "batch": (["--batch", "0", "--out", "o"], "--batch 0: want 1 or more"),
    "decoder": (["--decoder", "jakobi", "--out", "o"], "unknown decoder 'jakobi'"),
    "grammar": (
        ["--grammar", "original", "--out", "o"],
        "--grammar original: files are painted by",
    ),
    "full folder": (["--out", "."], ".: is not empty; name a new folder"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_answered_in_one_line(
    arguments, tmp_path, monkeypatch, capsys, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "something").touch()
    given, message = BAD[case]
    sizeless = tmp_path / "p.jsonl"
    sizeless.write_text('{"prompt": "a star"}\n')
    with pytest.raises(SystemExit) as caught:
        run_main(lambda: sample.main([*arguments, "--prompts", str(sizeless), *given]))
    assert caught.value.code == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and message in line


def test_resume_without_a_file_is_refused(capsys) -> None:
    with pytest.raises(SystemExit):
        run_main(lambda: sample.main(["--prompt", "a", "--resume"]))
    assert "--resume, --batch and --distributed go with a file" in capsys.readouterr().err


def start(arguments: list[str], out: Path, devices: int = 1) -> subprocess.Popen:
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    command = [sys.executable, "sample.py", *arguments, "--out", str(out), "--resume"]
    environment = {**os.environ, "XLA_FLAGS": flags}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for_lines(log: Path, count: int, process: subprocess.Popen) -> None:
    while process.poll() is None and (
        not log.exists() or len(log.read_bytes().splitlines()) < count
    ):
        time.sleep(0.005)


@pytest.fixture(scope="module")
def whole(checkpoint: str, prompts: str, tmp_path_factory) -> dict[str, bytes]:
    """The pictures of a run that nothing disturbs."""
    out = tmp_path_factory.mktemp("whole")
    few = ["--checkpoint", checkpoint, "--top-k", "30", "--guidance", "2", "--batch", "2"]
    process = start([*few, "--prompts", prompts], out)
    assert process.wait(300) == 0, process.communicate()[1]
    return pictures(out)


@pytest.mark.slow
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_run_that_is_stopped_is_resumed_to_the_same_bytes(
    arguments, whole, tmp_path: Path, kill: signal.Signals
) -> None:
    process = start(arguments, tmp_path)
    wait_for_lines(tmp_path / "images.jsonl", 3, process)
    process.send_signal(kill)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == (-9 if kill == signal.SIGKILL else 128 + kill)
    if kill != signal.SIGKILL:
        assert said.strip().splitlines()[-1] == ("stopped: the same command with --resume goes on")
    left = pictures(tmp_path)
    assert 3 <= len(left) < NUM_IMAGES
    assert left.items() <= whole.items()
    process = start(arguments, tmp_path)
    assert process.wait(300) == 0
    assert pictures(tmp_path) == whole


def _can_mount() -> bool:
    tool = shutil.which("unshare")
    return tool is not None and subprocess.run([tool, "-rm", "true"]).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not _can_mount(), reason="wants a mount namespace of its own")
def test_disk_that_is_full_ends_the_run_in_one_line(arguments, whole, tmp_path: Path) -> None:
    """A real file system of 36 KiB; what was finished is copied out of it, and the run goes on there."""
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    command = [sys.executable, "sample.py", *arguments, "--out", str(disk)]
    script = 'mount -t tmpfs -o size=36k none "$1" && shift 2 && "$@"; code=$?; cp -r DISK KEPT; exit $code'
    script = script.replace("DISK", f"'{disk}'").replace("KEPT", f"'{kept}'")
    run = ["unshare", "-rm", "sh", "-c", script, "sh", str(disk), "--", *command]
    flags = "--xla_backend_optimization_level=0"
    environment = {**os.environ, "XLA_FLAGS": flags}
    ended = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True)
    left = pictures(kept)
    message = f"No space left on device; {len(left)} of {NUM_IMAGES} images are finished and stay"
    assert ended.returncode == 2 and message in ended.stderr.splitlines()[-1], ended.stderr
    assert 0 < len(left) < NUM_IMAGES and left.items() <= whole.items()
    assert {path.suffix for path in kept.iterdir()} == {".png", ".jsonl"}
    assert start(arguments, kept).wait(300) == 0
    assert pictures(kept) == whole


CLUSTER = """
import sys
import jax
address, index, *arguments = sys.argv[1:]
jax.distributed.initialize(address, 2, int(index))
import sample
sample.main(arguments)
"""


@pytest.mark.multihost
def test_two_processes_write_what_one_does(arguments, whole: dict, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CLUSTER, address]
    processes = [
        subprocess.Popen(
            [*command, str(index), *arguments, "--out", str(tmp_path / "out"), "--resume"],
            env=environment,
        )
        for index in range(2)
    ]
    assert [process.wait(300) for process in processes] == [0, 0]
    assert pictures(tmp_path / "out") == whole
    logs = sorted(path.name for path in (tmp_path / "out").glob("*.jsonl"))
    assert logs == ["images-00000-of-00002.jsonl", "images-00001-of-00002.jsonl"]
