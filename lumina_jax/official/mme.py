"""MME (Fu et al. 2023): two yes/no questions about each image, in fourteen subtasks of perception and cognition.

Questions are its release's folders, SUBTASK/IMAGE.txt with "question<tab>answer" a line beside IMAGE.jpg or .png (or in
SUBTASK/images and SUBTASK/questions_answers_YN), or VLMEvalKit's MME.tsv. Answers go to SUBTASK.txt, of
"image<tab>question<tab>truth<tab>answer" a line, two lines an image, as its eval_tool's calculation.py reads them.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lumina_jax.official.answers import Question
from lumina_jax.official.tables import read_table, row_images

PROMPT = "{question}"  # its questions end with "Please answer yes or no." themselves
PERCEPTION = ("existence count position color posters celebrity scene landmark artwork OCR").split()
COGNITION = "commonsense_reasoning numerical_calculation text_translation code_reasoning".split()
GROUPS: Mapping[str, Sequence[str]] = {"perception": PERCEPTION, "cognition": COGNITION}
ENDINGS = (".jpg", ".png", ".jpeg")
READ_LETTERS = 4  # of an answer, by calculation.py


class MMEItem(NamedTuple):
    """One of the two questions about an image."""

    subtask: str
    image: str  # its name
    question: str
    truth: str  # "Yes" or "No", as written
    picture: Any  # what `answers.Question` opens


def read_mme(path: str | Path) -> list[MMEItem]:
    """The questions of a release's folder or of a TSV, two of each image together.

    Raises ValueError of one line for a subtask that is none of MME's, a truth that is not yes or no, or an image that
    has not two questions.
    """
    path = Path(path)
    if path.is_dir():
        folders = sorted(
            folder for folder in path.iterdir() if folder.name in {*PERCEPTION, *COGNITION}
        )
        items = [item for folder in folders for item in _read_folder(folder)]
        if not items:
            raise ValueError(f"{path}: no folder of MME's there, such as {PERCEPTION[0]}/")
    else:
        items = _read_tsv(path)
    _check(path, items)
    return items


def questions(items: Sequence[MMEItem]) -> list[Question]:
    """What the model is asked."""
    return [
        Question(
            f"{item.subtask}/{item.image}/{index % 2}",
            PROMPT.format(question=item.question),
            item.picture,
        )
        for index, item in enumerate(items)
    ]


def answer_files(items: Sequence[MMEItem], answers: Sequence[str]) -> dict[str, str]:
    """Subtask to the content of its file for the official evaluator; tabs and line ends in answers become spaces."""
    files: dict[str, str] = {}
    for item, answer in zip(items, answers, strict=True):
        said = re.sub(r"\s+", " ", answer).strip()
        line = "\t".join((item.image, item.question, item.truth, said)) + "\n"
        files[item.subtask] = files.get(item.subtask, "") + line
    return files


def reading(answer: str) -> str:
    """ "yes", "no" or "other", by the answer's first four letters, as calculation.py reads it.

    >>> reading("Yes, it is."), reading("No"), reading("Nothing"), reading("It is no dog")
    ('yes', 'no', 'no', 'other')
    """
    start = answer.lower()[:READ_LETTERS]
    return next((word for word in ("yes", "no") if word in start), "other")


def scores(items: Sequence[MMEItem], answers: Sequence[str]) -> dict[str, Any]:
    """Per subtask the accuracy over questions and over images (both right, "acc+"), in percent, and their sum.

    "perception" and "cognition" add up the subtasks that are there: at most 2000 and 800.
    """
    if not items:
        raise ValueError("no answers: nothing to score")
    right: dict[str, list[bool]] = {}
    others: dict[str, int] = {}
    for item, answer in zip(items, answers, strict=True):
        said = reading(re.sub(r"\s+", " ", answer).strip())
        right.setdefault(item.subtask, []).append(said == item.truth.lower())
        others[item.subtask] = others.get(item.subtask, 0) + (said == "other")
    subtasks = {}
    for name, marks in right.items():
        pairs = list(zip(marks[::2], marks[1::2], strict=True))
        accuracy = 100 * sum(marks) / len(marks)
        both = 100 * sum(first and second for first, second in pairs) / len(pairs)
        subtasks[name] = {
            "score": accuracy + both,
            "accuracy": accuracy,
            "accuracy_plus": both,
            "images": len(pairs),
            "neither_yes_nor_no": others[name],
        }
    sums = {
        group: sum(subtasks[name]["score"] for name in names if name in subtasks)
        for group, names in GROUPS.items()
    }
    return {**sums, "subtasks": subtasks}


def _read_folder(folder: Path) -> list[MMEItem]:
    apart = folder / "questions_answers_YN"
    texts, pictures = (apart, folder / "images") if apart.is_dir() else (folder, folder)
    items = []
    for file in sorted(texts.glob("*.txt")):
        found = [pictures / f"{file.stem}{ending}" for ending in ENDINGS]
        picture = next((each for each in found if each.is_file()), None)
        if picture is None:
            raise FileNotFoundError(f"{file}: no image {file.stem}.jpg or .png in {pictures}")
        for number, line in enumerate(file.read_text(encoding="utf-8").strip().splitlines(), 1):
            parts = line.strip().split("\t")
            if len(parts) != 2:
                raise ValueError(f"{file} line {number}: want question<tab>answer")
            question, truth = parts
            items.append(MMEItem(folder.name, picture.name, question, truth, picture))
    return items


def _read_tsv(path: Path) -> list[MMEItem]:
    rows = read_table(path, ("index", "image", "question", "answer", "category", "image_path"))
    together: dict[tuple[str, str], list[MMEItem]] = {}
    for row, picture in zip(rows, row_images(path, rows), strict=True):
        name = Path(row["image_path"]).name
        item = MMEItem(row["category"], name, row["question"], row["answer"], picture)
        together.setdefault((item.subtask, item.image), []).append(item)
    return [item for pair in together.values() for item in pair]


def _check(path: Path, items: Sequence[MMEItem]) -> None:
    counts: dict[tuple[str, str], int] = {}
    for item in items:
        place = f"{path}: {item.subtask}/{item.image}"
        if item.subtask not in {*PERCEPTION, *COGNITION}:
            raise ValueError(f"{place}: no subtask of MME's")
        if item.truth.lower() not in ("yes", "no"):
            raise ValueError(f"{place}: truth {item.truth!r}, want Yes or No")
        key = (item.subtask, item.image)
        counts[key] = counts.get(key, 0) + 1
    for (subtask, image), count in counts.items():
        if count != 2:
            raise ValueError(
                f"{path}: {subtask}/{image}: {count} questions, want two of each image"
            )
