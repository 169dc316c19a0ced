"""Scores of the protocol's tasks: the truth is best, chance is below it, and nobody is given their own answer."""

import json

import numpy as np
import pytest

from lumina_jax.evals import protocol
from lumina_jax.evals.grading import (
    ceiling,
    chance,
    evaluator_of,
    grade,
    most_frequent,
    others_answers,
    plain,
    score,
)
from lumina_jax.evals.protocol import EXAMPLES, KINDS
from lumina_jax.evals.scores import Outcome
from lumina_jax.unirep.tasks import TASKS

MOST_CHANCE = {  # that the true answers of other examples may score
    "describe": 0.35,
    "question": 0.45,
    "chat": 0.5,
    "segmentation": 0.35,
    "depth": 0.5,
    "pose": 0.35,
    "detection": 0.3,
    "image_condition": 0.45,
    "edit": 0.2,
    "next_edit": 0.2,
    "text_to_image": 0.35,
    "text_to_image_any_size": 0.35,
    "multi_view": 0.5,  # of two examples; 0.08 of a hundred
}
LEAST_ANGLE_DEG = 20.0  # of the normals' chance
NUM = {"multi_view": 2}  # examples, of the others 8


@pytest.fixture
def one_size(monkeypatch):
    """All pictures of one size, so that few of them have others to be compared with."""
    monkeypatch.setattr(protocol, "SIZES_PX", ((96, 96),))


def of(task, num):
    return [EXAMPLES[task](task, index) for index in range(num)]


@pytest.mark.parametrize("task", TASKS)
def test_the_truth_is_best_and_chance_bounded(task, one_size):
    found = of(task, NUM.get(task, 8))
    if found[0].prompt is not None:  # whatever the size: what is seen is looked at
        answers = [found[(place + 1) % len(found)].true_answer for place in range(len(found))]
        other = plain(grade(found, answers).summary)
    else:
        other = chance(found)["other"]
    truth = grade(found, [example.true_answer for example in found]).summary
    assert truth is not None and {"metric", "score", "low", "high", "n"} <= set(truth)
    assert truth["low"] <= truth["score"] <= truth["high"]
    if task == "normals":
        assert not truth["higher_is_better"]
        assert truth["score"] < 0.5 and other["score"] > LEAST_ANGLE_DEG
    else:
        assert truth["score"] > 0.99 and truth["higher_is_better"]
        assert other["score"] <= MOST_CHANCE[task]
    json.dumps(plain(truth))


@pytest.mark.parametrize(
    ("task", "most"),
    [
        ("text_to_image", 0),
        ("edit", 0),
        ("next_edit", 0),
        ("image_condition", 0.5),
        ("detection", 0),
        ("pose", 0),
        ("segmentation", 0.5),
        ("depth", 0.5),
    ],
)
@pytest.mark.parametrize("level", [0, 255])
def test_a_blank_picture_is_not_right_of_any_kind(task, most, level, one_size):
    for example in of(task, KINDS.get(task, 1)):
        blank = np.full((*reversed(example.truth.size), 3), level, np.uint8)
        assert score(example, (blank,)).score <= most, example.kind


def test_nobody_gets_their_own_answer(one_size):
    found = of("question", 21)
    for key in (lambda example: "", lambda example: example.kind):
        for draw, given in enumerate(others_answers(found, key, 2)):
            for example, answer in zip(found, given, strict=True):
                givers = [e for e in found if e.true_answer == answer and e is not example]
                assert any(key(giver) == key(example) for giver in givers), draw


def test_one_alone_has_no_chance_level():
    found = of("depth", 2)  # of two sizes
    assert others_answers(found, lambda example: example.truth.size, 1) == [[None, None]]
    assert chance(found) == {"other": None}


def test_a_random_pose_where_the_figure_is_scores_most_joints(one_size):
    level = chance(of("pose", 6))["another_pose"]
    assert level is not None and level["score"] > 0.6 and level["limbs"]["score"] < 0.6


def test_the_most_frequent_answer_of_a_kind_is_a_level(one_size):
    found = of("question", 56)
    given = most_frequent(found)
    for kind in {example.kind for example in found}:
        answers = [e.true_answer for e in found if e.kind == kind]
        assert {g for e, g in zip(found, given, strict=True) if e.kind == kind} == {
            max(answers, key=answers.count)
        }
    level = chance(found)["constant"]
    assert level is not None and level["kinds"]["existence"]["score"] == 0.5


def test_an_unchanged_picture_is_no_edit(one_size):
    unchanged = chance(of("edit", 2))["unchanged"]
    assert unchanged is not None and unchanged["score"] == 0


def test_the_ceiling_sees_what_the_round_trip_leaves(one_size):
    found = of("segmentation", 2)
    perfect = ceiling(found, lambda picture: picture).summary
    nothing = ceiling(found, lambda picture: np.zeros_like(picture)).summary
    assert perfect is not None and nothing is not None
    assert perfect["score"] == 1 > nothing["score"]
    assert ceiling(of("question", 2), lambda picture: picture[:0]).summary["score"] == 1


def test_results_become_json():
    outcome = Outcome(of("text_to_image_any_size", 1)[0].prompt, 0, ("a",), "fog", True, True)
    found = plain({"outcome": outcome, "array": np.eye(2), "number": np.float32(0.5), "list": (1,)})
    assert found["array"] == [[1, 0], [0, 1]] and found["number"] == 0.5 and found["list"] == [1]
    assert found["outcome"]["prompt"]["category"] == "single_object"


def test_every_task_has_an_evaluator():
    assert all(evaluator_of(task).metric for task in EXAMPLES)


def test_still_views_score_as_the_truth_does_but_are_not_all_right(one_size):
    still = chance(of("multi_view", 2))["still"]
    assert still is not None
    assert (still["score"], still["all_right"]["score"]) == (1, 0)
