"""The original's known defects by name."""

from collections.abc import Callable, Mapping
from functools import partial

from lumina_jax.evals.sweep.defects.crop import random_crop
from lumina_jax.evals.sweep.defects.sizes import free_sizes
from lumina_jax.evals.sweep.defects.truncation import silent_truncation
from lumina_jax.evals.sweep.defects.z_mask import unshifted_z_mask
from lumina_jax.evals.sweep.points import Point, Row, Sweep

DEFECTS: Mapping[str, Callable[[Sweep], Point]] = {
    "random crop": random_crop,
    "free size tokens": free_sizes,
    "unshifted z-loss mask": unshifted_z_mask,
    "silent truncation": silent_truncation,
}


def sweep_defects(sweep: Sweep) -> list[Row]:
    """One number of each, and what it costs in a sentence."""
    rows = []
    for name, find in DEFECTS.items():
        point = sweep.keep(name, partial(find, sweep))
        score = {key: point[key] for key in ("score", "low", "high", "n")}
        more = {"number": point["metric"], "what it costs": point["sentence"]}
        rows.append(Row(name, score, None, more))
    return rows
