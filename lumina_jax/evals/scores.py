"""Scores of a checkpoint on prompts: one image each, judged, counted by category, with 95 % intervals."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lumina_jax.checkpoint import write_json
from lumina_jax.config_json import config_to_dict
from lumina_jax.data.scenes.detector import Detection, detect
from lumina_jax.evals.intervals import Z95, wilson
from lumina_jax.evals.judge import exactly_as_asked, judge
from lumina_jax.evals.prompts import CATEGORIES, Prompt, eval_prompts
from lumina_jax.lumina import Lumina

GUIDANCES = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0)  # tried by `choose_guidance`
CHOOSING_SEED = 100_000  # first image seed while choosing: none of the scores' seeds


@dataclass(frozen=True)
class Outcome:
    """One prompt, what was seen in its image, and the judgement."""

    prompt: Prompt
    seed: int
    seen: tuple[str, ...]  # "red dome at 40,64"
    background: str
    right: bool
    exactly: bool  # right, and nothing else was seen


def run(
    model: Lumina,
    prompts: Sequence[Prompt],
    first_seed: int = 0,
    *,
    guidance: float | None = None,
    temperature: float | None = None,
    image_top_k: int | None = None,
    progress: bool = True,
) -> list[Outcome]:
    """Paint every prompt once, prompt i with seed `first_seed` + i, and judge it by its pixels alone.

    The painter is given the sentence and the size; settings that are None are the model's own.
    """
    seeds = [first_seed + index for index in range(len(prompts))]
    images = model.generate(
        [prompt.text for prompt in prompts],
        size=[(prompt.width_px, prompt.height_px) for prompt in prompts],
        seed=seeds,
        guidance=guidance,
        temperature=temperature,
        image_top_k=image_top_k,
        progress=progress,
    )
    return [
        outcome(prompt, seed, detect(image.pixels))
        for prompt, seed, image in zip(prompts, seeds, images, strict=True)
    ]


def outcome(prompt: Prompt, seed: int, detection: Detection) -> Outcome:
    """The judgement of one image."""
    seen = tuple(f"{o.colour} {o.shape} at {o.x_px:.0f},{o.y_px:.0f}" for o in detection.objects)
    right, exactly = judge(prompt, detection), exactly_as_asked(prompt, detection)
    return Outcome(prompt, seed, seen, detection.background, right, exactly)


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """{"overall": {score, low, high}, "categories": {name: {score, low, high, prompts}}, and two notes}.

    The overall score is the mean of the categories' scores, as in GenEval. Beside it, not part of it: the share
    of images that hold nothing else, and of the named backgrounds that were painted.
    """
    categories = {}
    for name in CATEGORIES:
        right = [o.right for o in outcomes if o.prompt.category == name]
        if right:
            low, high = wilson(sum(right), len(right))
            score = sum(right) / len(right)
            categories[name] = {"score": score, "low": low, "high": high, "prompts": len(right)}
    if not categories:
        raise ValueError("no outcomes to sum up: want at least one prompt")
    low, high = _overall_interval(list(categories.values()))
    score = sum(c["score"] for c in categories.values()) / len(categories)
    grounds = [o.background == o.prompt.background for o in outcomes if o.prompt.background]
    return {
        "overall": {"score": score, "low": low, "high": high, "prompts": len(outcomes)},
        "categories": categories,
        "exactly_as_asked": float(np.mean([o.exactly for o in outcomes])),
        "named_background": float(np.mean(grounds)) if grounds else None,
    }


def choose_guidance(
    model: Lumina,
    per_category: int = 25,
    guidances: Sequence[float] = GUIDANCES,
    seed: int = 0,
    progress: bool = True,
) -> tuple[float, dict[float, float]]:
    """The guidance with the best overall score on prompts made for this choice, and the score of each.

    Sentences and image seeds are none of the evaluation's.
    """
    prompts = eval_prompts(per_category, seed, purpose="choose")
    scores = {}
    for guidance in guidances:
        found = run(model, prompts, CHOOSING_SEED, guidance=guidance, progress=progress)
        scores[guidance] = summary(found)["overall"]["score"]
    return max(scores, key=lambda guidance: (scores[guidance], -guidance)), scores


def write_report(
    path: Path, model: Lumina, outcomes: Sequence[Outcome], settings: dict[str, Any]
) -> dict[str, Any]:
    """Write everything that is needed to repeat the scores, and each judgement, as JSON; returns the summary."""
    found = summary(outcomes)
    seeds = [o.seed for o in outcomes]
    content = {
        **found,
        "checkpoint": model.checkpoint,
        "settings": settings,
        "seeds": [min(seeds), max(seeds)],
        "machine": f"{jax.device_count()} x {jax.devices()[0].device_kind}, jax {jax.__version__}",
        "commit": commit(),
        "model": config_to_dict(model.config),
        "outcomes": [asdict(o) for o in outcomes],
    }
    write_json(path, json.loads(json.dumps(content)))
    return found


def table(found: dict[str, Any]) -> str:
    """The summary as lines of text."""
    rows = [*found["categories"].items(), ("overall", found["overall"])]
    lines = [
        f"{name:14} {row['score']:.3f}  [{row['low']:.3f}, {row['high']:.3f}]  {row['prompts']} prompts"
        for name, row in rows
    ]
    return "\n".join([*lines, f"{'nothing else':14} {found['exactly_as_asked']:.3f}"])


def commit() -> str | None:
    """The commit of this code, where it runs from a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _overall_interval(categories: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """95 % interval of the mean of independent shares: normal, with Agresti and Coull's estimate of the variance."""
    variance = 0.0
    for row in categories:
        trials = row["prompts"] + 4
        share = (
            row["score"] * row["prompts"] + 2
        ) / trials  # never 0 or 1, so never without variance
        variance += share * (1 - share) / trials / len(categories) ** 2
    score = sum(row["score"] for row in categories) / len(categories)
    half = Z95 * sqrt(variance)
    return max(0.0, score - half), min(1.0, score + half)
