"""Means over seeds with Student's 95 % intervals, and differences from the base arm, paired by seed."""

from collections.abc import Mapping, Sequence
from typing import Any

from lumina_jax.evals.intervals import student


def mean_interval(values: Sequence[float]) -> dict[str, float | None]:
    """{"mean", "low", "high"} by Student's t over the values; one value has no interval.

    >>> {name: round(bound, 3) for name, bound in mean_interval([0.4, 0.5, 0.6]).items()}
    {'mean': 0.5, 'low': 0.252, 'high': 0.748}
    """
    if len(values) < 2:
        return {"mean": float(values[0]), "low": None, "high": None}
    found = student(values)
    return {"mean": found["score"], "low": found["low"], "high": found["high"]}


def paired_difference(
    values: Mapping[int, float], base: Mapping[int, float]
) -> dict[str, Any] | None:
    """`mean_interval` of value - base over the seeds that both have, their "seeds", and what is told of it.

    "verdict": "within noise" where the interval includes 0, "higher" or "lower" where it does not, "one seed" where
    there is none. None without a common seed.
    """
    seeds = sorted(values.keys() & base.keys())
    if not seeds:
        return None
    found = mean_interval([values[seed] - base[seed] for seed in seeds])
    return {**found, "seeds": seeds, "verdict": _verdict(found)}


def _verdict(found: Mapping[str, float | None]) -> str:
    low, high = found["low"], found["high"]
    if low is None or high is None:
        return "one seed"
    if low <= 0 <= high:
        return "within noise"
    return "higher" if low > 0 else "lower"
