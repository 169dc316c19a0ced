"""Scores with 95 % intervals: shares by Wilson, means over seeds and rounds by Student, all else by a bootstrap."""

from collections.abc import Callable, Sequence
from math import sqrt

import numpy as np

Z95 = 1.96  # normal quantile of a 95 % interval
RESAMPLES = 2000  # of a bootstrap
BOOTSTRAP_SEED = 0

Interval = dict[str, float]  # {"score", "low", "high", "n"}


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share.

    >>> [round(bound, 3) for bound in wilson(80, 100)]
    [0.711, 0.867]
    """
    share, spread = successes / trials, Z95**2 / trials
    middle = (share + spread / 2) / (1 + spread)
    half = Z95 / (1 + spread) * sqrt(share * (1 - share) / trials + spread / (4 * trials))
    return max(0.0, middle - half), min(1.0, middle + half)


def share(found: Sequence[bool]) -> Interval:
    """How many of `found` are true, with Wilson's interval; ValueError when there are none."""
    if not found:
        raise ValueError("no examples to sum up: want at least one")
    low, high = wilson(sum(map(bool, found)), len(found))
    return {"score": float(np.mean(found)), "low": low, "high": high, "n": len(found)}


def mean(values: Sequence[float]) -> Interval:
    """The mean of one number an example, with its bootstrap interval."""
    return pooled(np.array(values, np.float64)[:, None], lambda means: means[..., 0])


def student(values: Sequence[float] | np.ndarray) -> Interval:
    """The mean of at least two independent numbers, with Student's interval.

    >>> {name: round(number, 3) for name, number in student([0.4, 0.5, 0.6]).items()}
    {'score': 0.5, 'low': 0.252, 'high': 0.748, 'n': 3}
    """
    from scipy.stats import t

    found = np.asarray(values, np.float64)
    middle, count = float(found.mean()), len(found)
    half = float(t.ppf(0.975, count - 1)) * float(found.std(ddof=1)) / sqrt(count)
    return {"score": middle, "low": middle - half, "high": middle + half, "n": count}


def within_noise(gain: Interval) -> bool:
    """Whether the interval of a difference includes 0."""
    return gain["low"] <= 0 <= gain["high"]


def ratio(parts: Sequence[float], wholes: Sequence[float]) -> Interval:
    """Sum of parts over sum of wholes (objects kept of objects there, say); 0 where the wholes are 0."""
    pairs = np.stack([parts, wholes], axis=-1).astype(np.float64)
    return pooled(pairs, lambda means: means[..., 0] / np.maximum(means[..., 1], 1e-12))


def pooled(examples: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> Interval:
    """A statistic of the examples' mean, [..., K] -> [...], with the percentile bootstrap over `examples` [n, K].

    The interval of equal examples has no width. ValueError when there are none.
    """
    if len(examples) == 0:
        raise ValueError("no examples to sum up: want at least one")
    n = len(examples)
    weights = np.random.default_rng(BOOTSTRAP_SEED).multinomial(n, np.full(n, 1 / n), RESAMPLES) / n
    low, high = np.percentile(statistic(weights @ examples), [2.5, 97.5])
    score = float(statistic(examples.mean(axis=0)))
    return {"score": score, "low": float(low), "high": float(high), "n": n}
