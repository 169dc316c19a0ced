"""POPE: the official reading of answers, and scores of right, wrong, borderline and random ones."""

import json
from pathlib import Path

import numpy as np
import pytest

from lumina_jax.official import pope

ITEMS = [
    pope.PopeItem(str(n), f"{n}.jpg", f"Is there a lamp in the image? {n}", label)
    for n, label in enumerate(["yes", "no"] * 200)
]
TRUTH = [item.label for item in ITEMS]


@pytest.mark.parametrize(
    ("answer", "is_yes"),
    [
        ("yes", True),
        ("Yes, there is.", True),
        ("no", False),
        ("No.", False),
        ("No, there is no lamp.", False),
        ("No, nothing of the kind", False),  # the comma is no part of the word
        ("There is not one", False),
        ("There is one. There is no other.", True),  # the first sentence alone
        ("NO", True),  # none of the three words, as written
        ("None", True),
        ("", True),
        ("I see,no lamp", True),  # without the comma: "seeno"
        ("it is.No", True),
    ],
)
def test_reading_is_the_official_one(answer: str, is_yes: bool) -> None:
    assert pope.says_yes(answer) is is_yes


def test_truth_scores_one_and_its_opposite_zero() -> None:
    found = pope.scores(ITEMS, TRUTH)
    assert [found[k] for k in ("accuracy", "precision", "recall", "f1")] == [1.0] * 4
    assert found["yes_ratio"] == 0.5
    opposite = pope.scores(ITEMS, ["no" if label == "yes" else "yes" for label in TRUTH])
    assert (opposite["accuracy"], opposite["precision"], opposite["recall"]) == (0.0, 0.0, 0.0)
    assert opposite["f1"] is None


def test_counts_give_the_formulas() -> None:
    answers = ["yes"] * 3 + ["no"] * 5  # truth: yes no yes no …
    found = pope.scores(ITEMS[:8], answers)
    assert found["counts"] == {"TP": 2, "FP": 1, "TN": 3, "FN": 2}
    assert found["accuracy"] == 5 / 8 and found["precision"] == pytest.approx(2 / 3)
    assert found["recall"] == 0.5 and found["f1"] == pytest.approx(
        2 * (2 / 3) * 0.5 / (2 / 3 + 0.5)
    )


def test_always_yes_and_always_no() -> None:
    always = pope.scores(ITEMS, ["yes"] * len(ITEMS))
    assert (always["accuracy"], always["recall"], always["yes_ratio"]) == (0.5, 1.0, 1.0)
    never = pope.scores(ITEMS, ["no"] * len(ITEMS))
    assert (never["accuracy"], never["precision"], never["f1"]) == (0.5, None, None)


def test_random_answers_are_at_chance() -> None:
    rng = np.random.default_rng(0)
    found = pope.scores(ITEMS, list(rng.choice(["yes", "no"], len(ITEMS))))
    assert found["accuracy"] == pytest.approx(0.5, abs=0.1)  # 4 standard errors


def test_files_are_read_and_answers_stay_in_order(tmp_path: Path) -> None:
    path = tmp_path / "coco_pope_random.json"
    lines = [
        {"question_id": 1, "image": "a.jpg", "text": "Is there a cup?", "label": "yes"},
        {"question_id": 2, "image": "a.jpg", "text": "Is there a bed?", "label": "no"},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    items = pope.read_pope(path)
    asked = pope.questions(items, tmp_path)
    assert [q.prompt for q in asked] == [
        "Is there a cup? Please answer yes or no.",
        "Is there a bed? Please answer yes or no.",
    ]
    assert asked[0].image == tmp_path / "a.jpg"
    assert pope.answer_lines(items, ["yes", "No"]) == [
        {"question": "Is there a cup?", "answer": "yes"},
        {"question": "Is there a bed?", "answer": "No"},
    ]


BAD = {
    "label": (
        '{"question_id": 7, "image": "a", "text": "b", "label": "maybe"}',
        "question 7: label",
    ),
    "key": ('{"question_id": 7, "image": "a", "label": "yes"}', "line 1: no text"),
    "JSON": ("{", "line 1: no JSON"),
    "empty": ("\n", "is empty"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_file_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    content, message = BAD[case]
    path = tmp_path / "pope.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        pope.read_pope(path)
