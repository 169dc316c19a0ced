"""Answers in words against the true one: exact match, by kind; agreement beyond chance on yes and no."""

import string
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lumina_jax.data.scenes.captions import NUMBERS, RELATION_WORDING
from lumina_jax.evals.intervals import pooled, share
from lumina_jax.evals.tasks.common import Summary, Truth

ARTICLES = ("the", "a", "an")
YES_NO = ("yes", "no")
# Words of the same meaning, after `normalised` has taken spelling away: "3" is "three", "over" is "above".
SAME = {str(number): word for number, word in enumerate(NUMBERS)}
SAME |= dict.fromkeys(("zero", "none"), NUMBERS[0])
SAME |= {wording: name for name, wordings in RELATION_WORDING.items() for wording in wordings}
SAME |= {side: f"{side} of" for side in ("left", "right")}
SAME |= {f"{at} the {side}": f"{side} of" for side in ("left", "right") for at in ("on", "to")}


class AnswerScore(NamedTuple):
    """`score`: whether the answer is the true one."""

    score: bool
    kind: str
    found: str  # the answer, normalised
    wanted: str  # the truth, normalised

    @property
    def yes_no(self) -> bool:
        """Whether the question is answered by yes or no ("no" of counting is a number)."""
        return self.wanted in YES_NO and self.kind != "counting"


def score_question(truth: Truth, answer: str) -> AnswerScore:
    """Exact match after `normalised`."""
    found, wanted = normalised(answer), normalised(truth.answer)
    return AnswerScore(found == wanted, truth.kind, found, wanted)


def normalised(text: str) -> str:
    """An answer without case, outer punctuation, leading article and choice of words (SAME), as a whole.

    Nothing is looked for inside of a sentence: "it is red" is not "red".

    >>> normalised(" The red dome. "), normalised("3"), normalised("On the left")
    ('red dome', 'three', 'left of')
    """
    words = [word.strip(string.punctuation) for word in text.lower().split()]
    words = [word for word in words if word]
    if len(words) > 1 and words[0] in ARTICLES:
        words = words[1:]
    joined = " ".join(words)
    return SAME.get(joined, joined)


def summarise_questions(results: Sequence[AnswerScore]) -> Summary:
    """Accuracy over all, by kind, and of yes/no questions by kind; Cohen's kappa of yes/no."""
    kinds = dict.fromkeys(each.kind for each in results)
    closed = [each for each in results if each.yes_no]
    rest = [each for each in results if not each.yes_no]
    return {
        "metric": "exact match",
        **share([each.score for each in results]),
        "higher_is_better": True,
        "kinds": _by_kind(results, kinds),
        "yes_no": _by_kind(closed, kinds),
        "open": _by_kind(rest, kinds),
        "kappa": kappa(closed) if closed else None,
    }


def kappa(results: Sequence[AnswerScore]) -> dict[str, float]:
    """Cohen's kappa of yes/no answers: 0 for guesses of any bias, 1 for right ones; other words agree with neither."""
    rows = []
    for each in results:
        counts = np.zeros((len(YES_NO), len(YES_NO) + 1))
        column = YES_NO.index(each.found) if each.found in YES_NO else len(YES_NO)
        counts[YES_NO.index(each.wanted), column] = 1
        rows.append(counts.ravel())
    return pooled(np.array(rows), _kappa)


def _kappa(shares: np.ndarray) -> np.ndarray:
    """[..., true * answered] shares of the answers -> [...]."""
    table = shares.reshape(*shares.shape[:-1], len(YES_NO), len(YES_NO) + 1)
    agreed = table[..., 0, 0] + table[..., 1, 1]
    chance = (table.sum(axis=-1) * table.sum(axis=-2)[..., : len(YES_NO)]).sum(axis=-1)
    certain = chance > 1 - 1e-9  # all alike in truth and answers: nothing beyond chance can show
    return np.where(certain, 0.0, (agreed - chance) / np.where(certain, 1.0, 1 - chance))


def _by_kind(results: Sequence[AnswerScore], kinds: dict[str, None]) -> dict[str, dict[str, float]]:
    """Accuracy by kind, of the kinds that occur."""
    found = {kind: [each.score for each in results if each.kind == kind] for kind in kinds}
    return {kind: share(right) for kind, right in found.items() if right}
