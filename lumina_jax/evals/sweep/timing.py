"""Times of several ways to do one thing, side by side: warm, interleaved, as ratios within each round."""

from collections.abc import Callable, Mapping
from math import exp
from time import perf_counter

import numpy as np

from lumina_jax.evals.intervals import Interval, student


def interleaved(
    calls: Mapping[str, Callable[[], object]], base: str, rounds: int
) -> dict[str, dict[str, float | Interval]]:
    """{name: {"seconds": the median, "ratio": to `base` in the same round, with its interval}}.

    All are called once before, to compile. A round calls each once, so what slows the machine for longer than a round
    slows all alike. The ratio is the geometric mean over rounds, with Student's interval of its logarithm.
    Raises ValueError for fewer than 2 rounds.
    """
    if rounds < 2:
        raise ValueError(f"{rounds} rounds of timing: want at least 2 to tell an interval")
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = perf_counter()
            call()
            seconds[name].append(perf_counter() - start)
    return {
        name: {
            "seconds": float(np.median(found)),
            "ratio": geometric_mean(np.array(found) / np.array(seconds[base])),
        }
        for name, found in seconds.items()
    }


def geometric_mean(ratios: np.ndarray) -> Interval:
    """The geometric mean of ratios, with Student's 95 % interval of the mean logarithm."""
    found = student(np.log(ratios))
    return {**found, **{name: exp(found[name]) for name in ("score", "low", "high")}}
