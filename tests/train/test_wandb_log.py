"""Weights & Biases, by a module that stands in for its library."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lumina_jax.train.loop import train
from lumina_jax.train.metrics import read_metrics


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What a stand-in for the library was asked: one entry a run."""
    runs: list[dict[str, Any]] = []

    def init(**options: Any) -> SimpleNamespace:
        run = {"options": options, "rows": [], "exit_codes": []}
        runs.append(run)

        def log(numbers: dict[str, float], step: int) -> None:
            run["rows"].append({"step": step, **numbers})

        def finish(exit_code: int) -> None:
            run["exit_codes"].append(exit_code)

        return SimpleNamespace(log=log, finish=finish)

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    return runs


@pytest.mark.slow
def test_project_gets_the_log_s_numbers_and_a_resumed_run_its_id(tiny_run, wandb, tmp_path: Path):
    class Crash(Exception):
        pass

    def crash(state: Any, step: int, workdir: Path) -> dict[str, float]:
        raise Crash

    experiment = tiny_run(wandb="pictures", eval_every=4)
    with pytest.raises(Crash):
        train(experiment, tmp_path, on_eval=crash)
    train(experiment, tmp_path, on_eval=lambda state, step, workdir: {"eval_score": 0.5})
    first, second = wandb
    assert first["options"]["project"] == "pictures" and first["options"]["resume"] == "allow"
    assert first["options"]["config"]["train"]["save_every"] == 3
    assert second["options"]["id"] == first["options"]["id"]
    assert "mode" not in first["options"]  # WANDB_MODE decides
    assert (first["exit_codes"], second["exit_codes"]) == ([1], [0])
    rows = [row for row in first["rows"] if row["step"] <= 3] + second["rows"]
    assert rows == read_metrics(tmp_path)
    assert {"step": 8, "eval_score": 0.5} in rows


def test_missing_library_is_one_clear_error(tiny_run, monkeypatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="train.wandb wants the library wandb: pip install wandb"):
        train(tiny_run(wandb="pictures"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
