"""MME: both forms of its questions, its answer files, and scores of right, wrong, borderline and random answers."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lumina_jax.official import mme
from lumina_jax.official.tables import encoded_image, write_table

SUBTASKS = (*mme.PERCEPTION, *mme.COGNITION)


def item(subtask: str, image: int, truth: str) -> mme.MMEItem:
    return mme.MMEItem(subtask, f"{image}.jpg", f"Is it {truth}?", truth, None)


ITEMS = [item(name, n, truth) for name in SUBTASKS for n in range(50) for truth in ("Yes", "No")]
TRUTH = [each.truth for each in ITEMS]


@pytest.mark.parametrize(
    ("answer", "reading"),
    [
        ("Yes", "yes"),
        ("no.", "no"),
        ("NO", "no"),
        ("yes and no", "yes"),
        (" yes", "yes"),
        ("Not at all", "no"),
        ("I know", "other"),  # "i kn"
        ("A no", "no"),
        ("Sure", "other"),
        ("", "other"),
    ],
)
def test_reading_is_by_the_first_four_letters(answer: str, reading: str) -> None:
    assert mme.reading(answer) == reading


def test_truth_scores_all_and_its_opposite_nothing() -> None:
    found = mme.scores(ITEMS, TRUTH)
    assert (found["perception"], found["cognition"]) == (2000.0, 800.0)
    opposite = mme.scores(ITEMS, ["no" if truth == "Yes" else "yes" for truth in TRUTH])
    assert (opposite["perception"], opposite["cognition"]) == (0.0, 0.0)


def test_always_yes_scores_half_of_the_questions_and_no_image() -> None:
    found = mme.scores(ITEMS, ["Yes"] * len(ITEMS))
    assert found["perception"] == 500.0 and found["subtasks"]["count"]["accuracy_plus"] == 0


def test_random_answers_are_at_chance() -> None:
    rng = np.random.default_rng(0)
    found = mme.scores(ITEMS, list(rng.choice(["Yes", "No"], len(ITEMS))))
    assert found["perception"] == pytest.approx(750, abs=80)  # 50 + 25 a subtask


def test_one_image_of_two_and_an_answer_that_is_neither() -> None:
    items = [item("color", n, truth) for n in (0, 1) for truth in ("Yes", "No")]
    found = mme.scores(items, ["Yes", "No", "Perhaps", "No"])
    assert found["subtasks"]["color"] == {
        "score": 125.0,
        "accuracy": 75.0,
        "accuracy_plus": 50.0,
        "images": 2,
        "neither_yes_nor_no": 1,
    }
    assert (found["perception"], found["cognition"]) == (125.0, 0)


def test_answer_files_are_as_the_evaluator_splits_them() -> None:
    items = [item("color", 0, "Yes"), item("color", 0, "No"), item("OCR", 3, "Yes")]
    files = mme.answer_files(items, ["Yes,\tit\nis", "No", "yes"])
    assert sorted(files) == ["OCR", "color"]
    rows = [line.split("\t") for line in files["color"].splitlines(keepends=True)]
    assert rows == [
        ["0.jpg", "Is it Yes?", "Yes", "Yes, it is\n"],
        ["0.jpg", "Is it No?", "No", "No\n"],
    ]


def release(root: Path, subtask: str, apart: bool = False) -> Path:
    """One image with its two questions, as MME's release lies on a disk."""
    texts, pictures = root / subtask, root / subtask
    if apart:
        texts, pictures = texts / "questions_answers_YN", pictures / "images"
    for folder in (texts, pictures):
        folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(pictures / "0007.png")
    lines = [
        "Is it a cup? Please answer yes or no.\tYes",
        "Is it a bed? Please answer yes or no.\tNo",
    ]
    (texts / "0007.txt").write_text("\n".join(lines) + "\n")
    return texts / "0007.txt"


def test_release_folders_are_read_in_both_forms(tmp_path: Path) -> None:
    release(tmp_path, "color")
    release(tmp_path, "artwork", apart=True)
    (tmp_path / "eval_tool").mkdir()
    items = mme.read_mme(tmp_path)
    assert [(i.subtask, i.image, i.truth) for i in items] == [
        ("artwork", "0007.png", "Yes"),
        ("artwork", "0007.png", "No"),
        ("color", "0007.png", "Yes"),
        ("color", "0007.png", "No"),
    ]
    asked = mme.questions(items)
    assert asked[0].id != asked[1].id
    assert asked[1].prompt == "Is it a bed? Please answer yes or no."
    assert asked[0].image.is_file()


def test_tsv_brings_the_questions_of_an_image_together(tmp_path: Path) -> None:
    picture = encoded_image(Image.new("RGB", (8, 8), (9, 8, 7)))
    rows = [
        {"index": str(n), "category": "count", "image_path": f"count/{name}.png", "image": picture}
        | {"question": f"q{n}", "answer": truth}
        for n, (name, truth) in enumerate([("a", "Yes"), ("b", "No"), ("a", "No"), ("b", "Yes")])
    ]
    items = mme.read_mme(write_table(tmp_path / "MME.tsv", rows))
    assert [(i.image, i.question) for i in items] == [
        ("a.png", "q0"),
        ("a.png", "q2"),
        ("b.png", "q1"),
        ("b.png", "q3"),
    ]
    assert items[0].picture().getpixel((0, 0)) == (9, 8, 7)


BAD = {
    "three questions": ("a?\tYes\nb?\tNo\nc?\tNo\n", "color/0007.png: 3 questions, want two"),
    "truth": ("a?\tYes\nb?\tMaybe\n", "truth 'Maybe', want Yes or No"),
    "no tab": ("a? Yes\n", "line 1: want question<tab>answer"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_release_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    content, message = BAD[case]
    release(tmp_path, "color").write_text(content)
    with pytest.raises(ValueError, match=message):
        mme.read_mme(tmp_path)


def test_missing_image_and_wrong_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no folder of MME's there, such as existence/"):
        mme.read_mme(tmp_path)
    release(tmp_path, "color")
    (tmp_path / "color" / "0007.png").unlink()
    with pytest.raises(FileNotFoundError, match="no image 0007.jpg or .png"):
        mme.read_mme(tmp_path)
