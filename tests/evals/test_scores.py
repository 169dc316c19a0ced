"""Scores: counting, intervals, fixed seeds, and the whole way from a checkpoint to the JSON."""

import json
from dataclasses import replace

import numpy as np
import pytest

from lumina_jax.data.scenes.detector import Detection
from lumina_jax.evals import scores
from lumina_jax.evals.__main__ import Options, score_model, score_vqgan
from lumina_jax.evals.prompts import CATEGORIES, eval_prompts
from lumina_jax.lumina import Lumina


@pytest.fixture(scope="module")
def model(tiny_model):
    return Lumina.load(tiny_model.path)


def small_prompts(per_category=1):
    return [replace(p, width_px=64, height_px=48) for p in eval_prompts(per_category)]


def outcomes_with(right_of):
    """Ten outcomes a category, of which `right_of[category]` are right."""
    made = []
    for category in CATEGORIES:
        prompt = next(p for p in eval_prompts(1) if p.category == category)
        for index in range(10):
            right = index < right_of[category]
            made.append(scores.Outcome(prompt, index, (), prompt.background or "fog", right, False))
    return made


def test_summary_is_the_mean_of_the_categories():
    right_of = dict(zip(CATEGORIES, (10, 8, 6, 4, 2, 0), strict=True))
    found = scores.summary(outcomes_with(right_of))
    shares = {name: row["score"] for name, row in found["categories"].items()}
    assert shares == {name: count / 10 for name, count in right_of.items()}
    assert found["overall"]["score"] == pytest.approx(0.5)
    assert found["overall"]["low"] < 0.5 < found["overall"]["high"]
    assert found["named_background"] == 1.0 and found["exactly_as_asked"] == 0.0


@pytest.mark.parametrize("count", [0, 10])
def test_overall_interval_holds_the_score_at_both_ends(count):
    overall = scores.summary(outcomes_with(dict.fromkeys(CATEGORIES, count)))["overall"]
    assert overall["low"] <= count / 10 <= overall["high"]
    assert 0 < overall["high"] - overall["low"] < 0.15


def test_overall_interval_covers_the_truth_95_times_in_100():
    rng, hits, share = np.random.default_rng(0), 0, 0.8
    for _ in range(400):
        rows = [{"score": rng.binomial(50, share) / 50, "prompts": 50} for _ in CATEGORIES]
        low, high = scores._overall_interval(rows)
        hits += low <= share <= high
    assert hits / 400 == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize(
    "successes, low, high", [(0, 0.0, 0.278), (5, 0.237, 0.763), (10, 0.722, 1.0)]
)
def test_wilson_equals_published_values(successes, low, high):
    assert scores.wilson(successes, 10) == pytest.approx((low, high), abs=1e-3)


def test_summary_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no outcomes"):
        scores.summary([])


@pytest.mark.slow
def test_run_paints_each_prompt_once_with_its_seed_and_size(model, monkeypatch):
    painted = []
    monkeypatch.setattr(
        scores, "detect", lambda pixels: painted.append(pixels) or Detection((), "fog")
    )
    prompts = small_prompts()
    found = scores.run(model, prompts, 5, guidance=1.0, progress=False)
    assert [o.seed for o in found] == list(range(5, 5 + len(prompts)))
    assert [o.prompt for o in found] == prompts
    direct = model.generate(prompts[2].text, size=(64, 48), seed=7, guidance=1.0)
    assert np.array_equal(painted[2], direct.pixels)


def test_choose_guidance_takes_the_best_and_never_sees_evaluation_prompts(model, monkeypatch):
    seen = []

    def pretend(_, prompts, first_seed, *, guidance, progress):
        seen.extend((p.text, first_seed) for p in prompts)
        return outcomes_with(dict.fromkeys(CATEGORIES, 6 if guidance in (2.0, 3.0) else 1))

    monkeypatch.setattr(scores, "run", pretend)
    best, tried = scores.choose_guidance(model, 5, (1.0, 2.0, 3.0))
    assert best == 2.0 and tried == pytest.approx({1.0: 0.1, 2.0: 0.6, 3.0: 0.6})
    assert not {text for text, _ in seen} & {p.text for p in eval_prompts(100)}
    assert min(seed for _, seed in seen) >= 600


def test_report_holds_what_repeats_it(model, tmp_path):
    outcomes = outcomes_with(dict.fromkeys(CATEGORIES, 3))
    file = tmp_path / "scores.json"
    found = scores.write_report(file, model, outcomes, {"guidance": 2.0})
    content = json.loads(file.read_text())
    assert content["overall"] == found["overall"]
    assert content["checkpoint"] == model.checkpoint and content["seeds"] == [0, 9]
    assert content["model"]["target_px"] == 96 and len(content["outcomes"]) == 60


def test_command_scores_a_checkpoint(tiny_model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lumina_jax.evals.prompts.SIZES_PX", ((64, 48),))
    out = tmp_path / "scores.json"
    score_model(Options(tiny_model.path, guidance=1.0, prompts_per_category=1, out=out))
    assert "overall" in capsys.readouterr().out
    content = json.loads(out.read_text())
    assert len(content["outcomes"]) == 6 and content["settings"]["guidance"] == 1.0


def test_command_scores_a_vqgan(tiny_model, tmp_path, capsys):
    out = tmp_path / "vqgan.json"
    score_vqgan(Options(tiny_model.path, vqgan=True, num_images=2, out=out))
    content = json.loads(out.read_text())
    assert "read the same" in capsys.readouterr().out
    assert content["psnr_db"]["render"]["score"] > 0
    assert content["read_as_original"]["score"] == 0
