"""The loss of a score between two paintings of the same prompts."""

from dataclasses import replace
from math import sqrt

import pytest

from lumina_jax.evals.paired import line, paired_loss
from lumina_jax.evals.prompts import Prompt
from lumina_jax.evals.scores import Outcome


def outcomes(rights: dict[str, str]) -> list[Outcome]:
    """One outcome a letter, "y" where the image is right: {"colors": "yyn"}."""
    return [
        Outcome(Prompt(name, f"{name} {index}", ()), index, (), "sand", letter == "y", False)
        for name, letters in rights.items()
        for index, letter in enumerate(letters)
    ]


def test_loss_is_the_mean_over_categories_of_paired_differences() -> None:
    """Three of four images lose in one category, one of two is won in the other: (3/4 - 1/2) / 2."""
    before = outcomes({"counting": "yyyn", "colors": "ny"})
    found = paired_loss(before, outcomes({"counting": "nnnn", "colors": "yy"}))
    assert found["loss"] == 0.125
    half = 1.96 * sqrt((3 / 4 * 1 / 4 * 4 / 3) / 4 + (1 / 2 * 1 / 2 * 2) / 2) / 2
    assert found["high"] - found["loss"] == pytest.approx(half)
    assert found["loss"] - found["low"] == pytest.approx(half)
    assert (found["lost"], found["won"], found["pairs"]) == (3, 1, 6)
    assert "6 pairs: 3 no longer right, 1 newly right" in line(found)


def test_equal_paintings_lose_nothing() -> None:
    same = outcomes({"counting": "ynyn"})
    found = paired_loss(same, same)
    assert (found["loss"], found["low"], found["high"]) == (0, 0, 0)


def test_what_is_no_pair_is_refused() -> None:
    two = outcomes({"colors": "yn"})
    with pytest.raises(ValueError, match="other prompts or seeds"):
        paired_loss(two, [two[0], replace(two[1], seed=9)])
    with pytest.raises(ValueError, match="one pair of category colors: want at least 2"):
        paired_loss(two[:1], two[:1])
