"""Runs as processes: killed without warning, and spread over a cluster, they give the same numbers."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lumina_jax.checkpoint import digest
from lumina_jax.data.records import unpack_record
from lumina_jax.data.shards import finish as write_index
from lumina_jax.data.shards import open_shards
from lumina_jax.data_config import DataConfig, RecordSource
from lumina_jax.experiment import Experiment, OptimizerConfig
from lumina_jax.train.metrics import read_metrics
from lumina_jax.train.signals import STOPPED_CODE
from tests.train.processes import (
    QUICKLY,
    ROOT,
    STOP_AT,
    finish,
    kill,
    kill_at,
    losses,
    rows_of,
    start,
    start_cluster,
)

# scenes_quick in nine steps: every stage, source, checkpoint and evaluation of it, with fewer of each
SHORT = ["--train.log-every", "1", "--train.save-every", "2", "--train.eval-every", "5"]
for part in ("0", "1", "2"):
    SHORT += [f"--data.sources.{part}.num-records", "64"]
    SHORT += [f"--train.stages.{part}.steps", "3", f"--train.stages.{part}.batch-size", "4"]
    SHORT += [f"--train.stages.{part}.warmup-steps", "0"]


def step_to_die_at(workdir: Path, latest: int) -> int:
    """A random step after those that `workdir` has logged, none later than `latest` where one is left."""
    first = len(read_metrics(workdir)) + 1
    step = random.randint(first, max(first, latest))
    print(f"to be killed at step {step}")  # shown by pytest where the test fails
    return step


def until_it_trains(process: subprocess.Popen, workdir: Path) -> None:
    """Wait until a process asks for its third batch: then its first step is done."""
    before = len(rows_of(workdir))
    while process.poll() is None and len(rows_of(workdir)) < before + 3:
        time.sleep(0.005)


def kill_after(
    seconds: float, process: subprocess.Popen, workdir: Path, batches: int | None
) -> None:
    """SIGKILL; sooner where it has asked for `batches` or would soon end: the machine may have become faster."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and newest_checkpoint(workdir) < 280:
        if batches is not None and len(rows_of(workdir)) >= batches:
            break
        time.sleep(0.02)
    kill(process)


def newest_checkpoint(workdir: Path) -> int:
    """Its step, 0 before the first."""
    found = (workdir / "checkpoints").glob("*")
    return max([int(path.name) for path in found if path.name.isdecimal()], default=0)


@pytest.fixture
def whole(tiny_run: Callable[..., Experiment], tmp_path: Path) -> list[tuple[int, float]]:
    """What nothing interrupted."""
    workdir = tmp_path / "whole"
    finish(start(tiny_run(), workdir), workdir)
    return losses(workdir)


def with_everything(tiny_run: Callable[..., Experiment], tmp_path: Path) -> Experiment:
    """300 steps of all that a resumed run could get wrong: bins, dropout, averaged weights, micro-batches."""
    plain = tiny_run()
    (source,), folder = plain.data.sources, tmp_path / "with-lengths"
    assert isinstance(source, RecordSource)
    shutil.copytree(source.path, folder)
    lengths = [len(unpack_record(packed).tokens) for packed in open_shards(folder)]
    write_index(folder, len(lengths), {}, lengths)
    first, second = (replace(stage, steps=150) for stage in plain.train.stages)
    packed = replace(first, layout="packed", max_tokens=2 * max(lengths))
    transformer = replace(plain.model.transformer, dropout=0.1)
    settings = tiny_run(
        stages=(packed, second),
        save_every=10,
        accumulation=2,
        optimizer=OptimizerConfig(ema_decay=0.9),
    )
    return replace(
        settings,
        model=replace(plain.model, transformer=transformer),
        data=DataConfig((RecordSource(source.name, str(folder)),)),
    )


@pytest.mark.slow
def test_killed_twenty_times_at_random_moments_equals_uninterrupted(tiny_run, tmp_path: Path):
    """Moments of training, spread over its 300 steps; a save takes longer than ten steps, so most lie within one.

    Every fifth is a moment of starting again.
    """
    seed = random.randrange(10**6)
    print(f"seed {seed}")  # shown by pytest where the test fails
    rng = random.Random(seed)
    experiment = with_everything(tiny_run, tmp_path)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    began = time.monotonic()
    process = start(experiment, whole, devices=1)
    until_it_trains(process, whole)
    starting = time.monotonic() - began
    finish(process, whole)
    training = time.monotonic() - began - starting
    for life in range(20):
        process, batches = start(experiment, killed, devices=1), len(rows_of(killed))
        if life % 5 == 4:
            seconds = rng.uniform(0.5, 1.0) * starting
        else:
            left = training * (1 - newest_checkpoint(killed) / 300)
            until_it_trains(process, killed)
            seconds = rng.uniform(0.0, 1.5 * left / (21 - life))
        kill_after(seconds, process, killed, batches + 3 if life % 5 == 4 else None)
        print(f"life {life}: to step {losses(killed)[-1:]}, saved {newest_checkpoint(killed)}")
    assert 50 < newest_checkpoint(killed) < 300
    finish(start(experiment, killed, devices=1), killed)
    assert [step for step, _ in losses(killed)] == list(range(1, 301))
    assert losses(killed) == losses(whole)
    assert digest(killed / "model", "transformer") == digest(whole / "model", "transformer")


@pytest.mark.slow
def test_quick_run_killed_at_a_random_step_equals_uninterrupted(tmp_path: Path):
    def start_quick(workdir: Path) -> subprocess.Popen:
        with (tmp_path / f"{workdir.name}-0.log").open("a") as log:
            command = [sys.executable, "train.py", "configs/scenes_quick.py", *SHORT]
            places = ["--workdir", str(workdir), "--data-dir", str(tmp_path / "data")]
            environment = {**os.environ, "XLA_FLAGS": QUICKLY}
            return subprocess.Popen(
                [*command, *places], cwd=ROOT, env=environment, stdout=log, stderr=log
            )

    plain, killed = tmp_path / "plain", tmp_path / "killed"
    finish(start_quick(plain), plain)
    kill_at(step_to_die_at(killed, 8), start_quick(killed), killed)
    finish(start_quick(killed), killed)
    assert [step for step, _ in losses(killed)] == list(range(1, 10))
    assert losses(killed) == losses(plain)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_exits_with_75(tiny_run, whole, tmp_path: Path, number):
    workdir = tmp_path / "stopped"
    stop = STOP_AT.format(batch=3, number=int(number))
    finish(start(tiny_run(save_every=100), workdir, first=stop), workdir, STOPPED_CODE)
    assert (workdir / "model" / "config.json").is_file()
    finish(start(tiny_run(save_every=100), workdir), workdir)
    assert losses(workdir) == whole


@pytest.mark.multihost
def test_two_processes_equal_one(tiny_run, whole, tmp_path: Path):
    workdir = tmp_path / "two"
    processes = start_cluster(tiny_run(), workdir, 2)
    for process in processes:
        finish(process, workdir)
    found = losses(workdir)
    assert [step for step, _ in found] == [step for step, _ in whole]
    assert [loss for _, loss in found] == pytest.approx([loss for _, loss in whole], abs=1e-5)
    assert (workdir / "model" / "config.json").is_file()


@pytest.mark.multihost
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_of_two_stops_both_with_75(tiny_run, tmp_path: Path, number):
    workdir = tmp_path / "stopped"
    stages = tuple(replace(stage, steps=1500) for stage in tiny_run().train.stages)
    first, second = start_cluster(tiny_run(stages=stages, save_every=10_000), workdir, 2)
    while second.poll() is None and not read_metrics(workdir):
        time.sleep(0.02)
    second.send_signal(number)
    for process in (first, second):
        finish(process, workdir, STOPPED_CODE)
    assert 0 < newest_checkpoint(workdir) < 3000
    assert (workdir / "model" / "config.json").is_file()
