"""What a change of a model costs: the same prompts with the same seeds painted by two, compared pair by pair."""

from collections.abc import Sequence
from math import sqrt
from typing import Any

import numpy as np

from lumina_jax.evals.prompts import CATEGORIES
from lumina_jax.evals.scores import Z95, Outcome


def paired_loss(before: Sequence[Outcome], after: Sequence[Outcome]) -> dict[str, Any]:
    """{"loss", "low", "high"} of the overall score, normal 95 % interval, and {"won", "lost", "pairs"} images.

    The overall score is the mean of the categories', so its loss is the mean of their mean differences; the variance
    is that of the differences within each category. Raises ValueError for outcomes that are not pairs.
    """
    if [(o.prompt, o.seed) for o in before] != [(o.prompt, o.seed) for o in after] or not before:
        raise ValueError("outcomes of other prompts or seeds: want the same of both models")
    losses, variances, lost, won = [], [], 0, 0
    for name in CATEGORIES:
        pairs = [
            (a.right, b.right)
            for a, b in zip(before, after, strict=True)
            if a.prompt.category == name
        ]
        if len(pairs) == 1:
            raise ValueError(f"one pair of category {name}: want at least 2 to tell their variance")
        if pairs:
            differences = np.array([int(a) - int(b) for a, b in pairs])
            losses.append(float(differences.mean()))
            variances.append(float(differences.var(ddof=1)) / len(pairs))
            lost, won = lost + int((differences > 0).sum()), won + int((differences < 0).sum())
    loss, half = float(np.mean(losses)), Z95 * sqrt(sum(variances)) / len(variances)
    interval = {"loss": loss, "low": loss - half, "high": loss + half}
    return {**interval, "lost": lost, "won": won, "pairs": len(before)}


def line(found: dict[str, Any]) -> str:
    """The comparison as a line of text."""
    return (
        f"loss {found['loss']:+.4f}  [{found['low']:+.4f}, {found['high']:+.4f}]  {found['pairs']} pairs: "
        f"{found['lost']} no longer right, {found['won']} newly right"
    )
