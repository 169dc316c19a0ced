"""The whole command on a miniature: two arms, two seeds, a few steps, the shipped VQGAN."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lumina_jax.evals.ablate.scoring import (
    FILE,
    ScoreOptions,
    at_sizes,
    curves_of,
    sizes_by_group,
    trained_outcomes,
)
from lumina_jax.evals.prompts import eval_prompts
from lumina_jax.train.metrics import read_metrics

ROOT = Path(__file__).resolve().parents[3]

SHARED = """
from dataclasses import replace
from lumina_jax.data_config import DataConfig, ScenesSource
from lumina_jax.experiment import Experiment, Stage, TrainConfig
from lumina_jax.model.presets import PRESETS


def get_config() -> Experiment:
    sources = (
        ScenesSource("some", 64, 16, seed=1, sizes=((64, 64), (80, 48))),
        ScenesSource("rare", 64, 8, seed=2, sizes=((48, 80),)),
        ScenesSource("held_out", 64, 8, seed=3, sizes=((64, 64),)),
    )
    stage = Stage(4, 8, 1e-2, (("some", 0.95), ("rare", 0.05)), max_tokens=64)
    settings = dict(log_every=1, save_every=2, eval_every=2, eval_source="held_out", eval_batches=1)
    base = PRESETS["scenes"]
    small = replace(base.transformer, num_layers=1, width=16, head_size=4, mlp_width=16)
    model = replace(base, transformer=small, target_px=64, max_tokens=128)
    return Experiment("transformer", model, DataConfig(sources), TrainConfig((stage,), **settings))
"""
ARM = """
from dataclasses import replace
from pathlib import Path
from lumina_jax.cli import load_run_file


def get_config():
    full = load_run_file(Path(__file__).with_name("shared.py"))
    return replace(full, model=replace(full.model, image_layout="{layout}"))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run files of two small arms."""
    made = tmp_path_factory.mktemp("arms")
    for name, text in (
        ("shared", SHARED),
        ("full", ARM.format(layout="uni_rep")),
        ("without_size_tokens", ARM.format(layout="plain")),
    ):
        (made / f"{name}.py").write_text(text)
    return made


def ablate(workdir: Path, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lumina_jax.evals.ablate", str(workdir)]
    command += ["--folder", str(folder), "--cpu-devices", "1", "--prompts-per-category", "1"]
    command += ["--guidances", "1.0", *more]
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )


@pytest.mark.slow
def test_miniature_trains_scores_compares_and_goes_on(folder: Path, tmp_path: Path) -> None:
    done = ablate(tmp_path, folder, "--seeds", "0", "1")
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((tmp_path / "report.json").read_text())
    arms, outcomes = report["arms"], report["outcomes"]
    assert list(arms) == ["full", "without_size_tokens"]
    assert all({*arm["seeds"]} == {"0", "1"} for arm in arms.values())
    for name in ("score/overall", "sizes/never", "no grammar/undecodable, rarely", "loss/held-out"):
        assert {*outcomes[name]} == {*arms}
        assert outcomes[name]["without_size_tokens"]["against_full"]["seeds"] == [0, 1]
    first, second = (arms["full"]["seeds"][seed]["outcomes"] for seed in "01")
    assert first["loss/held-out"] != second["loss/held-out"]
    assert first["no grammar/undecodable, often"] > 0.5  # four steps teach no layout
    assert {"score.png", "loss_curve.png", "no_grammar.png"} <= {
        file.name for file in (tmp_path / "plots").iterdir()
    }
    assert "| score | full | without_size_tokens |" in (tmp_path / "report.md").read_text()
    names = [file.name.rpartition("-")[0] for file in (tmp_path / "data").iterdir()]
    assert sorted(names) == sorted(["some", "rare", "held_out"] * 2)  # of a layout, not of a run

    # killed after its second step, one run goes on from there; the others are as they were
    cut, kept = tmp_path / "full" / "seed_1", tmp_path / "full" / "seed_0" / FILE
    before = json.loads((cut / FILE).read_text())
    for path in (cut / "checkpoints" / "4", cut / "model"):
        shutil.rmtree(path)
    (cut / FILE).unlink()
    untouched = kept.stat().st_mtime_ns
    again = ablate(tmp_path, folder, "--seeds", "0", "1")
    assert again.returncode == 0, again.stderr[-3000:]
    assert f"resuming {cut} at step 2" in again.stderr
    assert again.stderr.count("resuming") == 1 and kept.stat().st_mtime_ns == untouched
    after = json.loads((cut / FILE).read_text())
    assert after["checkpoint"] == before["checkpoint"]
    assert after["outcomes"] == pytest.approx(before["outcomes"])

    other = ablate(tmp_path, folder, "--seeds", "0", "--steps-scale", "2")
    assert other.returncode == 2 and "holds another run" in other.stderr.splitlines()[-1]


def test_sizes_are_grouped_by_how_often_the_last_stage_shows_them(folder: Path) -> None:
    from lumina_jax.cli import load_run_file

    found = sizes_by_group(load_run_file(folder / "full.py"))
    assert found["often"] == [(64, 64), (80, 48)] and found["rarely"] == [(48, 80)]
    assert found["never"] == [(64, 48), (48, 64)]  # (80, 32) is longer than any that is shown
    shipped = sizes_by_group(load_run_file(ROOT / "configs" / "ablations" / "full.py"))
    assert {*shipped["rarely"]} == {(192, 80), (80, 192)}
    assert len(shipped["often"]) == 5 and (176, 80) in shipped["never"]


def test_prompts_take_the_sizes_in_turn() -> None:
    sized = at_sizes(eval_prompts(1), [(64, 64), (80, 48)])
    assert [(p.width_px, p.height_px) for p in sized] == [(64, 64), (80, 48)] * 3


def test_curves_stand_over_compute_and_come_to_outcomes(folder: Path, tmp_path: Path) -> None:
    from lumina_jax.cli import load_run_file
    from lumina_jax.evals.ablate.arms import flops_at

    experiment = load_run_file(folder / "full.py")
    lines = [
        {"step": 1, "z": 4.0, "loss": 1.0},
        {"step": 2, "z": 25.0, "loss": 1.0},
        {"step": 2, "eval/ce_image": 3.0, "eval/z": 1.0},
        {"step": 4, "z": 9.0, "eval/ce_image": 2.0},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text)
    curves = curves_of(read_metrics(tmp_path), experiment)
    assert curves["loss"]["values"] == [3.0, 2.0] and curves["logits"]["values"] == [2, 5, 3]
    assert curves["loss"]["flops"] == [flops_at(experiment, 2), flops_at(experiment, 4)]
    assert trained_outcomes(curves) == {
        "loss/held-out": 2.0,
        "logits/normaliser, late": 3.0,
        "logits/normaliser, most": 5.0,
    }


def test_nothing_to_score_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 prompt a category"):
        ScoreOptions(prompts_per_category=0)
