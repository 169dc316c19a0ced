"""MMBench: its table, rolls of options, the official matching of answers, and scores."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lumina_jax.official import mmbench
from lumina_jax.official.tables import encoded_image, read_table, row_images, write_table

OPTIONS = {"A": "cat", "B": "dog", "C": "red fox", "D": "hen"}


def row(index: int, answer: str = "C", **more: str) -> dict[str, str]:
    picture = encoded_image(Image.new("RGB", (8, 8), (index % 256, 0, 0)))
    base = {"index": str(index), "image": picture, "question": "What is it?", "hint": ""}
    category = {"category": "animals" if index % 2 else "things", "l2-category": "seeing"}
    return {**base, **OPTIONS, "answer": answer, **category, **more}


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("C", "C"),
        ("(B)", "B"),
        ("The answer is D.", "D"),
        ("It is a red fox", "C"),
        ("A cat", "A"),
        ("A dog", "A"),  # one letter among the last words goes first
        ("A or B", None),
        ("dog or hen", None),
        ("The answer is **B** because it barks at everything that moves", "B"),
        ("A very long tale of nothing that was ever asked for at all", None),
        ("Cannot determine the answer: B", None),
        ("I can't process this file. A cat", None),
        ("Sorry, I can't help with images of people yet. The answer is C", None),
        ("c", None),
        ("Z", None),
        ("", None),
    ],
)
def test_matching_is_the_official_one(answer: str, letter: str | None) -> None:
    assert mmbench.chosen(answer, OPTIONS) == letter


def test_letter_far_from_the_end_does_not_count() -> None:
    assert mmbench.chosen("B one two three", OPTIONS) == "B"
    assert mmbench.chosen("B one two three four", OPTIONS) is None


def test_rolls_move_the_right_letter_with_its_option() -> None:
    rolled = mmbench.rolls(row(5))
    assert [each["index"] for each in rolled] == ["5", "1000005", "2000005", "3000005"]
    assert [each[each["answer"]] for each in rolled] == ["red fox"] * 4
    assert {each["answer"] for each in rolled} == set("ABCD")
    assert [each["A"] for each in rolled] == ["cat", "dog", "red fox", "hen"]


def test_rolls_of_a_question_on_another_ones_image_keep_the_reference(tmp_path: Path) -> None:
    path = write_table(tmp_path / "shared.tsv", [row(1), row(2, image="1"), row(3)])
    rows = mmbench.read_mmbench(path, circular=True)
    pictures = row_images(path, rows)
    assert len(rows) == 12
    for each, picture in zip(rows, pictures, strict=True):
        shows = {1: 1, 2: 1, 3: 3}[int(each["index"]) % mmbench.ROLL]
        assert picture().getpixel((0, 0)) == (shows, 0, 0)


def test_two_options_roll_twice() -> None:
    rolled = mmbench.rolls(row(5, "A", C="", D=""))
    assert [(each["A"], each["B"], each["answer"]) for each in rolled] == [
        ("cat", "dog", "A"),
        ("dog", "cat", "B"),
    ]


def test_prompt_has_hint_question_options_and_how_to_answer() -> None:
    assert mmbench.prompt(row(1, hint="Look left.", D="")) == (
        "Look left.\nWhat is it?\nA. cat\nB. dog\nC. red fox\n"
        "Answer with the option's letter from the given choices directly."
    )


def test_truth_scores_one_in_both_protocols(tmp_path: Path) -> None:
    path = write_table(tmp_path / "mmbench.tsv", [row(n, "ABCD"[n % 4]) for n in range(8)])
    for circular, name in ((False, "single"), (True, "circular")):
        rows = mmbench.read_mmbench(path, circular)
        found = mmbench.scores(rows, [each["answer"] for each in rows])
        assert (found["accuracy"], found["protocol"], found["questions"]) == (1.0, name, 8)
        assert found["by_category"] == {"animals": 1.0, "things": 1.0}
        assert found["by_l2-category"] == {"seeing": 1.0}


def test_circular_wants_every_roll_right() -> None:
    rows = [roll for n in (1, 2) for roll in mmbench.rolls(row(n))]
    answers = [each["answer"] for each in rows]
    answers[2] = "Z"  # of question 1
    found = mmbench.scores(rows, answers)
    assert (found["accuracy"], found["first_roll"], found["answers"]) == (0.5, 1.0, 8)
    assert found["by_category"] == {"animals": 0.0, "things": 1.0}
    assert found["answers_without_a_letter"] == 1


def test_always_the_same_letter_is_never_right_in_a_circle() -> None:
    rows = [roll for n in range(40) for roll in mmbench.rolls(row(n, "ABCD"[n % 4]))]
    found = mmbench.scores(rows, ["A"] * len(rows))
    assert (found["accuracy"], found["first_roll"]) == (0.0, 0.25)


def test_random_answers_are_at_chance() -> None:
    rng = np.random.default_rng(0)
    rows = [row(n, "ABCD"[n % 4]) for n in range(400)]
    found = mmbench.scores(rows, list(rng.choice(list("ABCD"), 400)))
    assert found["accuracy"] == pytest.approx(0.25, abs=0.09)  # 4 standard errors


def test_table_with_rolls_is_taken_as_it_is_and_shares_its_image(tmp_path: Path) -> None:
    rows = [roll for n in (1, 2) for roll in mmbench.rolls(row(n))]
    path = write_table(tmp_path / "rolled.tsv", rows)
    read = mmbench.read_mmbench(path, circular=True)
    assert [each["index"] for each in read] == [each["index"] for each in rows]
    pictures = row_images(path, read)
    assert pictures[5]().getpixel((0, 0)) == (2, 0, 0)


def test_table_without_answers_has_no_scores_but_a_file(tmp_path: Path) -> None:
    rows = [row(n, "") for n in range(3)]
    assert mmbench.scores(rows, ["A"] * 3) == {}
    written = mmbench.answer_rows(rows, ["A", "it\tis", "=1"])
    path = write_table(tmp_path / "answers.tsv", written)
    with path.open(newline="") as stream:
        read = list(csv.DictReader(stream, delimiter="\t"))
    assert [each["prediction"] for each in read] == ["A", "it\tis", "=1"]
    assert "image" not in read[0] and read[0]["question"] == "What is it?"


def test_xlsx_holds_the_same_cells(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    written = mmbench.answer_rows([row(3, "")], ["=1+1\x07"])
    path = write_table(tmp_path / "answers.xlsx", written)
    sheet = openpyxl.load_workbook(path).active
    names, cells = sheet.iter_rows(values_only=True)
    found = dict(zip(names, cells, strict=True))
    assert (found["index"], found["prediction"], found["A"]) == (3, "=1+1 ", "cat")
    assert sheet.cell(2, names.index("prediction") + 1).data_type == "s"


BAD = {
    "column": ({"question": None}, "no column question"),
    "index": ({"index": "x"}, "index 'x', want a whole number"),
    "options": ({"B": "", "C": "", "D": ""}, "no question with two options"),
    "answer": ({"answer": "E"}, "answer 'E' is none of its options"),
    "image": ({"image": "77"}, "row 1: no image, and none in a row '77'"),
    "base64": ({"image": "ä" * 100}, "row 1: image is no base64"),
    "no picture": ({"image": "QUJD" * 40}, "row 1: cannot be read as an image"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_table_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    change, message = BAD[case]
    content = {name: cell for name, cell in {**row(1), **change}.items() if cell is not None}
    path = write_table(tmp_path / "bad.tsv", [content])
    with pytest.raises(ValueError, match=message):
        rows = mmbench.read_mmbench(path)
        [question] = mmbench.questions(path, rows)
        question.image()


def test_two_rows_of_one_index_are_refused(tmp_path: Path) -> None:
    path = write_table(tmp_path / "bad.tsv", [row(1), row(1)])
    with pytest.raises(ValueError, match="two rows have one index"):
        read_table(path, mmbench.COLUMNS)
