"""MMBench (Liu et al. 2023): multiple choice about images, each question asked again with its options rolled.

Questions are its TSV: index, question, hint, A to D, answer, category, image (base64) and, in most, l2-category and
split. Answers go to the same table without images, with a column "prediction", as .xlsx for the official server and
VLMEvalKit. In tables that hold the rolls already, roll k of question i has the index i + 1000000 k.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lumina_jax.official.answers import Question
from lumina_jax.official.tables import REFERENCE_LETTERS, Row, read_table, row_images

PROMPT = (
    "{hint}{question}\n{options}\nAnswer with the option's letter from the given choices directly."
)
LETTERS = "ABCDEFGH"
ROLL = 1_000_000  # between the indices of two rolls
COLUMNS = ("index", "image", "question", "A", "B")
NOT_LETTERS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
LAST_WORDS = 4  # among which a letter counts as the answer
SAYS_ANSWER = re.compile(r"answer\s+is\s+\**([A-D])\**", re.IGNORECASE)

REFUSALS = (  # sentences by which the official evaluation knows that a model declines, whatever else it says
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)


def read_mmbench(path: str | Path, circular: bool = False) -> list[Row]:
    """The rows of a TSV; with `circular` every question of a table without rolls is asked once for each option.

    Raises ValueError of one line for a row that is no question, or an answer that is none of its options.
    """
    rows = read_table(path, COLUMNS)
    for row in rows:
        place = f"{path}: row {row['index']}"
        if not row["index"].isdigit():
            raise ValueError(f"{place}: index {row['index']!r}, want a whole number")
        if not row["question"].strip() or len(options(row)) < 2:
            raise ValueError(f"{place}: no question with two options or more")
        if row.get("answer") and row["answer"] not in options(row):
            raise ValueError(f"{place}: answer {row['answer']!r} is none of its options")
    if circular and not has_rolls(rows):
        rows = [roll for row in rows for roll in rolls(row)]
    return rows


def questions(path: str | Path, rows: Sequence[Row]) -> list[Question]:
    """What the model is asked."""
    pictures = row_images(path, rows)
    return [
        Question(row["index"], prompt(row), picture)
        for row, picture in zip(rows, pictures, strict=True)
    ]


def prompt(row: Row) -> str:
    """PROMPT of a row: its hint where it has one, the question, "A. first option" a line, and how to answer."""
    hint = row.get("hint", "").strip()
    listed = "\n".join(f"{letter}. {text}" for letter, text in options(row).items())
    return PROMPT.format(hint=f"{hint}\n" if hint else "", question=row["question"], options=listed)


def options(row: Row) -> dict[str, str]:
    """The options by letter; a question has two to eight."""
    return {letter: row[letter] for letter in LETTERS if row.get(letter, "").strip()}


def rolls(row: Row) -> list[Row]:
    """A question once for each option, roll k with the options moved up by k and the right letter moved with them."""
    have = options(row)
    letters, texts = list(have), list(have.values())
    found = []
    for shift in range(len(letters)):
        moved = texts[shift:] + texts[:shift]
        rolled = {**row, **dict(zip(letters, moved, strict=True))}
        rolled["index"] = str(int(row["index"]) + shift * ROLL)
        if row.get("answer"):
            place = (letters.index(row["answer"]) - shift) % len(letters)
            rolled["answer"] = letters[place]
        if shift and len(row["image"]) > REFERENCE_LETTERS:
            rolled["image"] = row["index"]  # where the image is; a reference stays as it is
        found.append(rolled)
    return found


def has_rolls(rows: Sequence[Row]) -> bool:
    """Whether a table holds rolls of one question."""
    return len({_question_of(row) for row in rows}) < len(rows)


def answer_rows(rows: Sequence[Row], answers: Sequence[str]) -> list[Row]:
    """The table for the official evaluation: every column but the image, and "prediction"."""
    return [
        {**{name: cell for name, cell in row.items() if name != "image"}, "prediction": answer}
        for row, answer in zip(rows, answers, strict=True)
    ]


def chosen(answer: str, have: Mapping[str, str]) -> str | None:
    """The letter that an answer names, by the exact matching of the official evaluation; None where none is told.

    A letter alone among the answer's last four words, or after "answer is", or else the one option whose text is in the
    answer, unless the answer is more than twice as long as all options. None of it counts beside one of REFUSALS.

    >>> chosen("B.", {"A": "cat", "B": "dog"}), chosen("It is a cat", {"A": "cat", "B": "dog"})
    ('B', 'A')
    """
    if any(refusal in answer for refusal in REFUSALS):
        return None
    words = answer.translate(NOT_LETTERS).split()
    named = [letter for letter in have if letter in words]
    if len(named) == 1 and words.index(named[0]) >= len(words) - LAST_WORDS:
        return named[0]
    if not named and "Z" in words:
        return None
    said = SAYS_ANSWER.search(answer)
    if said and said[1].upper() in have:
        return said[1].upper()
    if len(answer) > 2 * sum(map(len, have.values())):
        return None
    told = [letter for letter, text in have.items() if text.lower() in answer.lower()]
    return told[0] if len(told) == 1 else None


def scores(rows: Sequence[Row], answers: Sequence[str]) -> dict[str, Any]:
    """Accuracy over all questions, by l2-category and by category, of the rows that hold an answer.

    With rolls a question is right where every roll is; "first_roll" is the accuracy without that. None are scored, and
    {} returned, where the table tells no answers (the test split, which the official server scores).
    """
    right: dict[int, list[bool]] = {}
    first: dict[int, Row] = {}
    unread = 0
    for row, answer in sorted(
        zip(rows, answers, strict=True), key=lambda pair: int(pair[0]["index"])
    ):
        if not row.get("answer"):
            continue
        letter = chosen(answer, options(row))
        unread += letter is None
        right.setdefault(_question_of(row), []).append(letter == row["answer"])
        first.setdefault(_question_of(row), row)
    if not right:
        return {}
    marks = {question: all(each) for question, each in right.items()}
    return {
        "protocol": "circular" if max(map(len, right.values())) > 1 else "single",
        "accuracy": _mean(marks.values()),
        "first_roll": _mean(each[0] for each in right.values()),
        "questions": len(marks),
        "answers": sum(map(len, right.values())),
        "answers_without_a_letter": unread,
        **{
            f"by_{column}": _by(column, marks, first)
            for column in ("l2-category", "category", "split")
            if any(row.get(column) for row in first.values())
        },
    }


def _by(column: str, marks: Mapping[int, bool], first: Mapping[int, Row]) -> dict[str, float]:
    names = sorted({row.get(column, "") for row in first.values()})
    return {
        name: _mean(mark for key, mark in marks.items() if first[key].get(column, "") == name)
        for name in names
    }


def _question_of(row: Row) -> int:
    return int(row["index"]) % ROLL


def _mean(marks: Any) -> float:
    marks = list(marks)
    return sum(marks) / len(marks)
