"""Guidance off and on, for one checkpoint or several: what guidance gives each, and whether it gives one more."""

from dataclasses import replace
from functools import partial
from typing import Any

from lumina_jax.evals.intervals import Interval
from lumina_jax.evals.paired import mean_of_categories
from lumina_jax.evals.sweep.points import (
    Point,
    Row,
    Sweep,
    differences,
    gain_of,
    painted,
    row_of,
)
from lumina_jax.lumina import Lumina

OFF = 1.0
SCALES = (OFF, 1.5, 2.5, 4.0)


def sweep_guidance(sweep: Sweep, scales: tuple[float, ...] = SCALES) -> list[Row]:
    """Every checkpoint at every scale against itself unguided; columns hold it against the first checkpoint.

    "against the first": the score at the same scale. "gain against the first's": what guidance gives it, less what it
    gives the first; both prompt by prompt.
    """
    scales = tuple(dict.fromkeys((OFF, *scales)))
    found = {
        index: {scale: _point(sweep, model, index, scale) for scale in scales}
        for index, model in enumerate((sweep.model, *sweep.others))
    }
    rows = []
    for index, points in found.items():
        for scale, point in points.items():
            base = None if scale == OFF else points[OFF]
            more: dict[str, Any] = {}
            if index > 0:
                more["against the first"] = gain_of(sweep, found[0][scale], point)
            if index > 0 and base is not None:
                more["gain against the first's"] = _difference_of_gains(
                    sweep, (found[0][OFF], found[0][scale]), (base, point)
                )
            rows.append(row_of(sweep, _name(index, scale), point, base, **more))
    return rows


def _name(index: int, scale: float) -> str:
    return f"checkpoint {index + 1}, guidance {scale:g}"


def _point(sweep: Sweep, model: Lumina, index: int, scale: float) -> Point:
    """Checkpoints may have other settings of their own: all are painted with the first one's but for the scale."""
    own = replace(sweep.model.settings, guidance=scale, guidance_schedule=(), image_guidance=None)
    model_of = replace(sweep, model=model)
    return sweep.keep(_name(index, scale), partial(painted, model_of, **vars(own)))


def _difference_of_gains(
    sweep: Sweep, first: tuple[Point, Point], other: tuple[Point, Point]
) -> Interval:
    pairs = zip(differences(*first), differences(*other), strict=True)
    return mean_of_categories([b - a for a, b in pairs], sweep.categories)
