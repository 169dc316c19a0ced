"""The arms: equal compute, one difference each, and what a seed changes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lumina_jax.cli import load_run_file
from lumina_jax.config_json import config_from_dict, config_to_dict, differing_fields
from lumina_jax.data_config import ScenesSource
from lumina_jax.evals.ablate.arms import (
    BASE,
    compute,
    find_arms,
    flops_at,
    num_weights,
    runs_of,
    scaled,
    tokens_at,
)
from lumina_jax.experiment import Experiment
from lumina_jax.train.trainees import check_sizes_told

FOLDER = Path(__file__).resolve().parents[3] / "configs" / "ablations"
ARMS = {name: load_run_file(path) for name, path in find_arms((), FOLDER).items()}
FULL = ARMS[BASE]


def total_steps(experiment: Experiment) -> int:
    return sum(stage.steps for stage in experiment.train.stages)


def test_the_arms_of_the_ablation() -> None:
    assert list(ARMS) == [
        "full",
        "top_size_first",
        "without_context_dropout",
        "without_size_tokens",
        "without_z_loss",
    ]


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_spends_what_the_full_recipe_spends(name: str) -> None:
    arm = ARMS[name]
    assert num_weights(arm) == num_weights(FULL)
    assert compute(arm) == pytest.approx(compute(FULL), rel=0.02)
    tokens = sum(s.steps * s.batch_size * s.max_tokens for s in arm.train.stages)
    assert tokens_at(arm, total_steps(arm)) == tokens
    assert f"Compute: {tokens:,} tokens" in (FOLDER / f"{name}.py").read_text()


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("without_z_loss", {"train.loss.z_loss"}),
        ("without_context_dropout", {"train.loss.context_dropout"}),
        ("without_size_tokens", {"model.image_layout", "train.stages", "train.eval_every"}),
        ("top_size_first", {"data.sources", "train.stages", "train.eval_every"}),
    ],
)
def test_an_arm_differs_from_the_full_recipe_in_one_thing(name: str, fields: set[str]) -> None:
    found = differing_fields(config_to_dict(FULL), config_to_dict(ARMS[name]))
    named = {line.split(":")[0].split(" ")[0] for line in found}
    assert {field for field in fields if any(line.startswith(field) for line in named)} == fields
    assert all(line.startswith(tuple(fields)) for line in named)


@pytest.mark.parametrize("name", ARMS)
def test_arm_is_a_run_file(name: str) -> None:
    arm, card = ARMS[name], (FOLDER / f"{name}.py").read_text().split('"""')[1]
    content = json.loads(json.dumps(config_to_dict(arm)))
    assert config_from_dict(Experiment, content) == arm
    assert f"python train.py configs/ablations/{name}.py --workdir" in card
    assert "Hardware:" in card and "Expected" in card
    sources = {source.name: source for source in arm.data.sources}
    assert arm.train.mixed_sources | {arm.train.eval_source} == {*sources}
    for source in sources.values():
        assert isinstance(source, ScenesSource) and not source.reserved and not source.shows
        assert source.tasks == (("text_to_image", 1.0),)
    assert total_steps(arm) % arm.train.eval_every == 0  # the last evaluation is at the end
    check_sizes_told(arm)


def test_rate_falls_over_as_many_steps_and_starts_as_the_full_recipes() -> None:
    full, top = (ARMS[name].train.stages for name in (BASE, "top_size_first"))
    assert (top[-1].steps, top[-1].mixture) == (full[-1].steps, full[-1].mixture)
    assert top[0].warmup_steps == full[0].warmup_steps
    assert top[0].mixture == full[-1].mixture


def test_tokens_and_flops_of_a_step_are_those_before_it() -> None:
    first, second = FULL.train.stages[:2]
    inside = first.steps + 10
    wanted = 32 * (first.steps * first.max_tokens + 10 * second.max_tokens)
    assert (tokens_at(FULL, 0), tokens_at(FULL, inside)) == (0, wanted)
    assert flops_at(FULL, inside) == 6 * num_weights(FULL) * wanted


def test_a_seed_changes_order_and_weights_but_no_record(tmp_path: Path) -> None:
    runs = runs_of({BASE: FOLDER / "full.py"}, (0, 5), tmp_path)
    assert [run.workdir for run in runs] == [tmp_path / "full/seed_0", tmp_path / "full/seed_5"]
    for run in runs:
        assert run.experiment.data.seed == run.experiment.train.seed == run.seed
        assert run.experiment.data.sources == FULL.data.sources
    for wrong in ((), (1, 1), (-1,)):
        with pytest.raises(ValueError, match="want different numbers from 0"):
            runs_of({BASE: FOLDER / "full.py"}, wrong, tmp_path)


@pytest.mark.parametrize("factor", [0.02, 0.37, 2.0])
@pytest.mark.parametrize("name", ARMS)
def test_scaled_runs_end_at_an_evaluation(name: str, factor: float) -> None:
    short = scaled(ARMS[name], factor)
    assert total_steps(short) % short.train.eval_every == 0
    slack = short.train.eval_every + len(short.train.stages)
    assert abs(total_steps(short) - factor * total_steps(ARMS[name])) <= slack


def test_arms_are_found_by_name_or_path_and_full_comes_along(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text((FOLDER / "full.py").read_text())
    assert list(find_arms([str(path), "without_z_loss"], FOLDER)) == [
        BASE,
        "mine",
        "without_z_loss",
    ]
    with pytest.raises(ValueError, match="arm 'without': want a run file, or one of these: full,"):
        find_arms(["without"], FOLDER)
    with pytest.raises(ValueError, match="no arm 'full'"):
        find_arms([], tmp_path)
    with pytest.raises(ValueError, match="steps scale 0: want more than 0"):
        scaled(FULL, 0)
    assert scaled(FULL, 1) == replace(FULL)
