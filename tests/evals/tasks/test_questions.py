"""Answers in words: spelling does not count, words do."""

from functools import cache

import numpy as np
import pytest

from lumina_jax.data.scenes.questions import questions
from lumina_jax.data.scenes.scene import Scene, sample_scene
from lumina_jax.evals.tasks.common import Truth
from lumina_jax.evals.tasks.questions import kappa, score_question, summarise_questions

SIZE = (96, 96)


@cache
def scene(seed: int) -> Scene:
    return sample_scene(np.random.default_rng(seed), *SIZE)


def asked(seeds: range) -> list[Truth]:
    return [
        Truth(scene(seed), SIZE, kind=each.kind, answer=each.answer)
        for seed in seeds
        for each in questions(scene(seed), np.random.default_rng(seed))
    ]


def test_true_answers_score_one_of_every_kind():
    found = summarise_questions([score_question(t, t.answer) for t in asked(range(40))])
    assert found["score"] == 1 and len(found["kinds"]) == 7 and found["kappa"]["score"] == 1
    assert all(each["score"] == 1 for each in found["kinds"].values())
    assert set(found["yes_no"]) == {"existence", "position", "comparison", "background"}


def test_answers_to_other_questions_score_little():
    truths = asked(range(40))
    others = [truths[(place * 37 + 11) % len(truths)].answer for place in range(len(truths))]
    found = summarise_questions([score_question(t, o) for t, o in zip(truths, others, strict=True)])
    assert found["score"] < 0.3 and abs(found["kappa"]["score"]) < 0.25


@pytest.mark.parametrize(
    ("truth", "answer", "right"),
    [
        ("red", " Red.", True),
        ("red", "reddish", False),
        ("three", "3", True),
        ("no", "0", True),
        ("no", "zero", True),
        ("no", "None.", True),
        ("left of", "to the left of", True),
        ("left of", "left", True),
        ("left of", "On the left", True),
        ("right of", "the right", True),
        ("right of", "on the left", False),
        ("red", "it is red", False),
        ("above", "over", True),
        ("left of", "right of", False),
        ("the red dome", "red dome", True),
        ("the red dome", "the red domes", False),
        ("dome", "domes", False),
        ("yes", "yes yes", False),
        ("yes", "", False),
    ],
)
def test_exact_match(truth, answer, right):
    result = score_question(Truth(scene(0), SIZE, kind="counting", answer=truth), answer)
    assert result.score is right


@pytest.mark.parametrize("guess", ["yes", "no", "perhaps"])
def test_kappa_of_one_answer_to_all_is_nothing(guess):
    results = [
        score_question(Truth(scene(0), SIZE, kind="existence", answer=answer), guess)
        for answer in ("yes", "no", "no", "no")
    ]
    assert kappa(results)["score"] <= 1e-9


def test_kappa_by_hand():
    """Three of four right, half of the truths and a quarter of the answers "yes": (0.75 - 0.5) / (1 - 0.5)."""
    pairs = [("yes", "yes"), ("yes", "no"), ("no", "no"), ("no", "no")]
    truths = [(Truth(scene(0), SIZE, kind="existence", answer=t), a) for t, a in pairs]
    assert kappa([score_question(t, a) for t, a in truths])["score"] == pytest.approx(0.5)
    assert not score_question(Truth(scene(0), SIZE, kind="counting", answer="no"), "no").yes_no
