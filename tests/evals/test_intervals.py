"""Intervals: of shares, of means and of pooled numbers."""

import numpy as np
import pytest

from lumina_jax.evals import intervals


def test_a_share_has_wilsons_interval():
    found = intervals.share([True] * 80 + [False] * 20)
    assert found == pytest.approx({"score": 0.8, "low": 0.711, "high": 0.867, "n": 100}, abs=1e-3)


def test_a_means_interval_is_the_normal_one_for_many():
    values = np.random.default_rng(1).normal(5, 2, 400)
    found = intervals.mean(list(values))
    half = 1.96 * values.std() / 20
    assert found["score"] == pytest.approx(values.mean())
    assert (found["low"], found["high"]) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.03
    )
    assert found == intervals.mean(list(values))  # seeded


def test_a_ratio_weighs_by_its_wholes():
    assert intervals.ratio([1, 0], [1, 3])["score"] == 0.25
    assert intervals.ratio([0], [0])["score"] == 0


@pytest.mark.parametrize("sum_up", [intervals.share, intervals.mean])
def test_nothing_cannot_be_summed_up(sum_up):
    with pytest.raises(ValueError, match="no examples"):
        sum_up([])
