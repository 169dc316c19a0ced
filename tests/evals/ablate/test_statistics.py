"""Student's intervals over seeds, and differences paired by seed."""

import numpy as np
import pytest
from scipy import stats

from lumina_jax.evals.ablate.statistics import mean_interval, paired_difference


def test_interval_is_students() -> None:
    values = [0.41, 0.52, 0.47, 0.44]
    found = mean_interval(values)
    wanted = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found["low"], found["high"]) == pytest.approx(wanted)
    assert found["mean"] == pytest.approx(0.46)


def test_one_seed_has_no_interval() -> None:
    assert mean_interval([0.5]) == {"mean": 0.5, "low": None, "high": None}
    found = paired_difference({0: 0.5}, {0: 0.75})
    assert found is not None
    assert (found["mean"], found["verdict"]) == (-0.25, "one seed")


def test_seeds_are_paired() -> None:
    """The arms differ by less than seeds do: pair by pair the difference is plain all the same."""
    base = {0: 0.2, 1: 0.5, 2: 0.8}
    higher = {seed: value + 0.1 + 0.01 * seed for seed, value in base.items()}
    found = paired_difference(higher, base)
    assert found is not None and found["verdict"] == "higher"
    assert found["mean"] == pytest.approx(0.11)
    reverse = paired_difference(base, higher)
    assert reverse is not None and reverse["verdict"] == "lower"
    noise = paired_difference({0: 0.3, 1: 0.4, 2: 0.85}, base)
    assert noise is not None and noise["verdict"] == "within noise"
    assert noise["low"] < 0 < noise["high"]


def test_only_common_seeds_count() -> None:
    found = paired_difference({0: 1.0, 7: 9.0}, {0: 0.5, 3: 4.0})
    assert found is not None and (found["seeds"], found["mean"]) == ([0], 0.5)
    assert paired_difference({1: 1.0}, {2: 1.0}) is None
