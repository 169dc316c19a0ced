"""Runs side by side: numbers, tables, pictures."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lumina_jax.evals.ablate.figure import figures
from lumina_jax.evals.ablate.report import build_report, families, markdown, table

SCORES = {
    "full": {0: 0.5, 1: 0.6, 2: 0.4},
    "worse": {0: 0.31, 1: 0.4, 2: 0.2},
    "alike": {0: 0.6, 1: 0.5, 2: 0.42},
}


def scored(seeds: tuple[int, ...] = (0, 1, 2)) -> list[tuple[Any, dict[str, Any]]]:
    curve = {"flops": [1e9, 2e9], "values": [3.0, 2.0]}
    content = {"weights": 10, "tokens": 1_000, "flops": 6e4, "checkpoint": "0"}
    return [
        (
            SimpleNamespace(arm=arm, seed=seed),
            {
                **content,
                "outcomes": {"score/overall": values[seed], "no grammar/undecodable, often": 0.1},
                "curves": {"loss": curve, "logits": curve},
            },
        )
        for seed in seeds
        for arm, values in SCORES.items()
    ]


def test_each_outcome_has_every_seed_and_its_difference_from_full() -> None:
    report = build_report(scored(), {"steps_scale": 1.0})
    rows = report["outcomes"]["score/overall"]
    assert rows["full"]["mean"] == pytest.approx(0.5) and rows["full"]["against_full"] is None
    assert rows["worse"]["values"] == {"0": 0.31, "1": 0.4, "2": 0.2}
    assert rows["worse"]["against_full"]["verdict"] == "lower"
    assert rows["alike"]["against_full"]["verdict"] == "within noise"
    equal = report["outcomes"]["no grammar/undecodable, often"]["worse"]["against_full"]
    assert (equal["mean"], equal["verdict"]) == (0.0, "within noise")
    assert report["arms"]["worse"]["seeds"]["1"]["outcomes"]["score/overall"] == 0.4
    assert report["settings"] == {"steps_scale": 1.0}


def test_a_report_of_the_first_run_alone_is_whole() -> None:
    report = build_report(scored((0,))[:1], {})
    assert "score/overall\n  full  0.500 (0.500)" in table(report)


def test_tables_tell_mean_interval_seeds_and_noise() -> None:
    report = build_report(scored(), {})
    lines = table(report).splitlines()
    assert (
        "  worse  0.303 [0.055, 0.552] (0.310 0.400 0.200)  -0.197 [-0.211, -0.182] lower" in lines
    )
    text = markdown(report)
    assert "| arm | weights | tokens | FLOPs | seeds |" in text and "| full | 10 | 1,000 |" in text
    assert "| score | full | worse | alike |" in text
    cells = next(line for line in text.splitlines() if line.startswith("| overall |")).split(" | ")
    assert cells[1] == "0.500 [0.252, 0.748] (0.500 0.600 0.400)"
    assert cells[3].endswith("within noise |")


@pytest.mark.slow
def test_pictures_are_drawn_a_family_each(tmp_path: Path) -> None:
    report = build_report(scored(), {})
    found = figures(report)
    assert {*found} == {
        *(name.replace(" ", "_") for name in families(report)),
        "loss_curve",
        "logits_curve",
    }
    assert all(picture.startswith(b"\x89PNG") for picture in found.values())
    assert {*figures(build_report(scored((0,))[:1], {}))} == {*found}  # after the first run too
