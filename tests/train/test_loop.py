"""The loop: whatever interrupts a run, its resumption gives the same numbers, bit for bit."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from lumina_jax.checkpoint import load_model
from lumina_jax.config_json import config_to_dict
from lumina_jax.experiment import Experiment
from lumina_jax.train.loop import train
from lumina_jax.train.metrics import read_metrics
from tests.train.processes import CLOCK


class Crash(Exception):
    """Stands in for a kill: the loop has no chance to save."""


def with_fields(experiment: Experiment, **fields: Any) -> Experiment:
    return replace(experiment, train=replace(experiment.train, **fields))


def crash_at(step: int) -> Callable[[Any, int, Path], dict[str, float]]:
    def on_eval(state: Any, now: int, workdir: Path) -> dict[str, float]:
        if now == step:
            raise Crash
        return {}

    return on_eval


def signal_at(step: int) -> Callable[[Any, int, Path], dict[str, float]]:
    def on_eval(state: Any, now: int, workdir: Path) -> dict[str, float]:
        if now == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"eval_score": float(now)}

    return on_eval


def numbers(workdir: Path) -> list[dict[str, float]]:
    """Logged metrics of the steps, without what the clock or an evaluation says."""
    rows = [row for row in read_metrics(workdir) if "loss" in row]
    return [{name: row[name] for name in row if name not in CLOCK} for row in rows]


def assert_same_model(first: Path, second: Path) -> None:
    one, other = load_model(first / "model").params, load_model(second / "model").params
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Experiment], Path]:
    """The workdir of a run that nothing interrupted; run once for each config."""
    workdirs: dict[Experiment, Path] = {}

    def workdir_of(experiment: Experiment) -> Path:
        if experiment not in workdirs:
            workdirs[experiment] = tmp_path_factory.mktemp("finished")
            train(experiment, workdirs[experiment])
        return workdirs[experiment]

    return workdir_of


@pytest.mark.slow
def test_run_interrupted_twice_equals_uninterrupted(tiny_run, finished, tmp_path: Path):
    whole = finished(tiny_run())
    experiment = tiny_run(eval_every=1)
    with pytest.raises(Crash):
        train(experiment, tmp_path, on_eval=crash_at(5))
    assert [row["step"] for row in numbers(tmp_path)] == [1, 2, 3, 4, 5]
    assert not train(experiment, tmp_path, on_eval=signal_at(6)).finished
    assert numbers(tmp_path) == numbers(whole)[:6]
    assert train(experiment, tmp_path).finished
    assert numbers(tmp_path) == numbers(whole)
    assert_same_model(tmp_path, whole)
    assert (tmp_path / "loss.png").stat().st_size > 1000


def test_finished_run_learned_and_released_its_model(tiny_run, finished):
    workdir = finished(tiny_run())
    rows = numbers(workdir)
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.2
    assert [row["lr"] for row in rows[:3]] == pytest.approx([0.0, 0.01, 0.01])
    model = load_model(workdir / "model")
    assert set(model.params) == {"transformer", "vqgan"} and model.tokenizer is not None
    notes = json.loads((workdir / "model" / "config.json").read_text())["extra"]
    settings = config_to_dict(tiny_run().sample)
    assert notes == {"step": 8, "trainee": "transformer", "sample": settings}


@pytest.mark.slow
def test_steps_to_keep_are_saved_though_no_save_is_due(tiny_run, tmp_path: Path):
    train(tiny_run(save_every=100, keep_last=1, keep_every=3), tmp_path)
    found = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert found == {"3", "6", "8"}


def test_finished_run_started_again_does_nothing(tiny_run, finished):
    workdir = finished(tiny_run())
    before = (workdir / "metrics.jsonl").read_text()
    train(tiny_run(), workdir)
    assert (workdir / "metrics.jsonl").read_text() == before


def test_other_config_in_a_workdir_is_refused(tiny_run, finished):
    with pytest.raises(ValueError, match="train.seed: 0 -> 5"):
        train(tiny_run(seed=5), finished(tiny_run()))


def test_init_takes_the_weights_only(tiny_run, finished, tmp_path: Path, small_tokenizer):
    whole = finished(tiny_run())
    stage = replace(tiny_run().train.stages[0], steps=1, learning_rate=0.0, warmup_steps=0)
    run = tiny_run(stages=(stage,), seed=9, zero_code_logits=True)
    train(run, tmp_path, init=whole / "model")
    before, after = (load_model(folder / "model").params for folder in (whole, tmp_path))
    tables = [np.array(params["transformer"]["head"].pop("table")) for params in (before, after)]
    first = small_tokenizer.vocab.first_code_id
    codes = slice(first, first + small_tokenizer.vocab.num_codes)
    assert tables[0][codes].any() and not tables[1][codes].any()
    tables[0][codes] = 0
    for a, b in zip(
        jax.tree.leaves([before, tables[0]]), jax.tree.leaves([after, tables[1]]), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    assert [row["step"] for row in numbers(tmp_path)] == [1]


@pytest.mark.slow
def test_a_model_lost_after_the_last_checkpoint_is_written_again(
    tiny_run, finished, tmp_path: Path
):
    whole = finished(tiny_run())
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    shutil.rmtree(workdir / "model")
    train(tiny_run(), workdir)
    assert_same_model(workdir, whole)


def test_a_wrong_setting_claims_no_workdir(tiny_run, tmp_path: Path):
    with pytest.raises(ValueError, match="no checkpoint there"):
        train(replace(tiny_run(), assets="nowhere"), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_batch_that_does_not_divide_is_one_clear_error(tiny_run, tmp_path: Path):
    stage = replace(tiny_run().train.stages[0], batch_size=6)
    with pytest.raises(ValueError, match="stages.0.batch_size 6 does not divide"):
        train(tiny_run(stages=(stage,)), tmp_path)


@pytest.mark.slow
def test_vqgan_interrupted_equals_uninterrupted(tiny_vqgan_run, finished, tmp_path: Path):
    whole = finished(tiny_vqgan_run)
    with pytest.raises(Crash):
        train(with_fields(tiny_vqgan_run, eval_every=1), tmp_path, on_eval=crash_at(3))
    train(with_fields(tiny_vqgan_run, eval_every=1), tmp_path)
    assert numbers(tmp_path) == numbers(whole)
    assert len(numbers(whole)) == 4
    assert_same_model(tmp_path, whole)
    assert load_model(whole / "model").tokenizer is None  # the shipped one names more codes
