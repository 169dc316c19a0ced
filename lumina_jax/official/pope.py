"""POPE (Li et al. 2023): does a model see objects that are not there? Yes/no questions about COCO's images.

Questions are its output/coco/coco_pope_{random,popular,adversarial}.json: {"question_id", "image", "text", "label"} a
line. Answers go to a file of {"question", "answer"} a line in the same order, which its evaluate.py reads.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lumina_jax.official.answers import Question, read_json_lines

PROMPT = "{text} Please answer yes or no."  # the words behind the question are MME's; POPE prescribes none
NO_WORDS = ("No", "not", "no")  # of evaluate.py: what holds none of them counts as yes


class PopeItem(NamedTuple):
    """One line of the questions."""

    question_id: str
    image: str  # the file's name
    text: str
    label: str  # "yes" or "no"


def read_pope(path: str | Path) -> list[PopeItem]:
    """The questions of one setting. Raises ValueError of one line for a label that is not yes or no."""
    items = []
    for record in read_json_lines(path, ("question_id", "image", "text", "label")):
        if record["label"] not in ("yes", "no"):
            raise ValueError(
                f"{path}: question {record['question_id']}: label {record['label']!r}, want yes or no"
            )
        values = (str(record[name]) for name in PopeItem._fields)
        items.append(PopeItem(*values))
    return items


def questions(items: Sequence[PopeItem], images: str | Path) -> list[Question]:
    """What the model is asked; image files lie in the folder `images`."""
    return [
        Question(item.question_id, PROMPT.format(text=item.text), Path(images) / item.image)
        for item in items
    ]


def answer_lines(items: Sequence[PopeItem], answers: Sequence[str]) -> list[dict[str, str]]:
    """The lines of the file that the official evaluator reads."""
    return [
        {"question": item.text, "answer": answer}
        for item, answer in zip(items, answers, strict=True)
    ]


def says_yes(answer: str) -> bool:
    """The official reading: no where the first sentence has one of NO_WORDS, else yes, whatever it says.

    >>> says_yes("No, there is none."), says_yes("I cannot tell."), says_yes("nothing there")
    (False, True, True)
    """
    words = answer.partition(".")[0].replace(",", "").split(" ")
    return not any(word in words for word in NO_WORDS)


def scores(items: Sequence[PopeItem], answers: Sequence[str]) -> dict[str, Any]:
    """Accuracy, precision, recall, F1 and the share of yes, each in [0, 1], with "yes" as the positive class.

    Precision, recall and F1 are None where they divide by nothing (the official script fails there).
    """
    pairs = [
        (says_yes(answer), item.label == "yes") for item, answer in zip(items, answers, strict=True)
    ]
    if not pairs:
        raise ValueError("no answers: nothing to score")
    true_yes, false_yes, false_no, true_no = (
        pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))
    )
    precision = _ratio(true_yes, true_yes + false_yes)
    recall = _ratio(true_yes, true_yes + false_no)
    return {
        "accuracy": (true_yes + true_no) / len(pairs),
        "precision": precision,
        "recall": recall,
        "f1": _ratio(2 * true_yes, 2 * true_yes + false_yes + false_no) if true_yes else None,
        "yes_ratio": (true_yes + false_yes) / len(pairs),
        "questions": len(pairs),
        "counts": {"TP": true_yes, "FP": false_yes, "TN": true_no, "FN": false_no},
    }


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
