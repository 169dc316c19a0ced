"""What a change of a model costs: the same prompts with the same seeds painted by two, compared pair by pair."""

from collections.abc import Sequence
from math import sqrt
from typing import Any

import numpy as np

from lumina_jax.evals.intervals import Z95, Interval
from lumina_jax.evals.prompts import CATEGORIES
from lumina_jax.evals.scores import Outcome


def paired_loss(before: Sequence[Outcome], after: Sequence[Outcome]) -> dict[str, Any]:
    """{"loss", "low", "high"} of the overall score, normal 95 % interval, and {"won", "lost", "pairs"} images.

    The overall score is the mean of the categories', so its loss is the mean of their mean differences; the variance
    is that of the differences within each category. Raises ValueError for outcomes that are not pairs.
    """
    if [(o.prompt, o.seed) for o in before] != [(o.prompt, o.seed) for o in after] or not before:
        raise ValueError("outcomes of other prompts or seeds: want the same of both models")
    losses = [int(a.right) - int(b.right) for a, b in zip(before, after, strict=True)]
    found = mean_of_categories(losses, [outcome.prompt.category for outcome in before])
    interval = {"loss": found["score"], "low": found["low"], "high": found["high"]}
    counts = {"lost": losses.count(1), "won": losses.count(-1)}
    return {**interval, **counts, "pairs": len(before)}


def mean_of_categories(values: Sequence[float], categories: Sequence[str]) -> Interval:
    """The mean of the categories' means of one number a prompt, such as a difference; normal 95 % interval.

    Raises ValueError for a category with a single number, which has no variance.
    """
    means, variances = [], []
    for name in CATEGORIES:
        pairs = zip(values, categories, strict=True)
        found = np.array([value for value, category in pairs if category == name], np.float64)
        if len(found) == 1:
            raise ValueError(f"one pair of category {name}: want at least 2 to tell their variance")
        if len(found):
            means.append(float(found.mean()))
            variances.append(float(found.var(ddof=1)) / len(found))
    score, half = float(np.mean(means)), Z95 * sqrt(sum(variances)) / len(variances)
    return {"score": score, "low": score - half, "high": score + half, "n": len(values)}


def line(found: dict[str, Any]) -> str:
    """The comparison as a line of text."""
    return (
        f"loss {found['loss']:+.4f}  [{found['low']:+.4f}, {found['high']:+.4f}]  {found['pairs']} pairs: "
        f"{found['lost']} no longer right, {found['won']} newly right"
    )
