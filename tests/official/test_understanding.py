"""Questions asked, resumed and written: from a benchmark's files to its official ones and the scores."""

import json
from pathlib import Path

import pytest
from PIL import Image

from lumina_jax.official import understanding
from lumina_jax.official.answers import Question, ask
from lumina_jax.official.tables import encoded_image, read_table, write_table

MADE_BY = {"benchmark": "pope", "checkpoint": "0123"}


class Oracle:
    """Answers by a function of (question, the first pixel's red), and remembers its batches."""

    def __init__(self, say):
        self.say, self.batches = say, []

    def __call__(self, questions, images):
        self.batches.append(list(questions))
        assert all(len(each) == 1 for each in images)
        reds = [each[0].convert("RGB").getpixel((0, 0))[0] for each in images]
        return [self.say(*pair) for pair in zip(questions, reds, strict=True)]


@pytest.fixture
def pope(tmp_path: Path) -> tuple[Path, Path]:
    """Five questions about pictures whose red tells the truth: (questions, folder of images)."""
    images = tmp_path / "val2014"
    images.mkdir()
    lines = []
    for number in range(5):
        Image.new("RGB", (4, 4), (200 * (number % 2), 0, 0)).save(images / f"{number}.png")
        label = "yes" if number % 2 else "no"
        lines.append({"question_id": number, "image": f"{number}.png", "text": "?", "label": label})
    path = tmp_path / "coco_pope_popular.json"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path, images


def run(pope, answering, out: Path, **options):
    benchmark = understanding.open_pope(*pope)
    given = {"made_by": MADE_BY, "batch": 2, "progress": False, **options}
    return understanding.run_benchmark(benchmark, pope[0], answering, out, **given)


def test_pope_from_files_to_scores(pope, tmp_path: Path) -> None:
    oracle, out = Oracle(lambda _, red: "Yes." if red else "No."), tmp_path / "out"
    found = run(pope, oracle, out)
    assert found["accuracy"] == 1.0 and [len(b) for b in oracle.batches] == [2, 2, 1]
    assert oracle.batches[0][0] == "? Please answer yes or no."
    official = (out / "official" / "coco_pope_popular.json").read_text().splitlines()
    assert [json.loads(line)["answer"] for line in official] == ["No.", "Yes."] * 2 + ["No."]
    scores = json.loads((out / "scores.json").read_text())
    assert scores["checkpoint"] == "0123" and scores["prompt"] == "{text} Please answer yes or no."
    assert len(scores["data"]["sha256"]) == 64 and scores["accuracy"] == 1.0


def test_killed_run_asks_only_what_is_open(pope, tmp_path: Path) -> None:
    def break_off(_, red):
        if len(broken.batches) == 2:
            raise KeyboardInterrupt
        return "yes" if red else "no"

    broken, out = Oracle(break_off), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(pope, broken, out)
    with (out / "answers.jsonl").open("a") as stream:
        stream.write('{"id": "2", "pro')  # what a crash tore
    again = Oracle(lambda _, red: "yes" if red else "no")
    assert run(pope, again, out, resume=True)["accuracy"] == 1.0
    assert [len(batch) for batch in again.batches] == [2, 1]
    assert len((out / "answers.jsonl").read_text().splitlines()) == 5


def test_another_model_cannot_go_on(pope, tmp_path: Path) -> None:
    oracle = Oracle(lambda *_: "yes")
    run(pope, oracle, tmp_path / "out")
    with pytest.raises(ValueError, match="was begun with other checkpoint"):
        run(pope, oracle, tmp_path / "out", made_by={**MADE_BY, "checkpoint": "x"}, resume=True)
    with pytest.raises(ValueError, match="is not empty; name a new folder"):
        run(pope, oracle, tmp_path / "out")


def test_mme_writes_a_file_a_subtask(tmp_path: Path) -> None:
    folder = tmp_path / "MME" / "color"
    folder.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(folder / "1.jpg")
    (folder / "1.txt").write_text("Is it red?\tNo\nIs it black?\tYes\n")
    benchmark = understanding.open_mme(tmp_path / "MME")
    oracle = Oracle(lambda question, _: "Yes" if "black" in question else "No")
    made = {"made_by": MADE_BY, "progress": False}
    found = understanding.run_benchmark(
        benchmark, tmp_path / "MME", oracle, tmp_path / "out", **made
    )
    assert found["perception"] == 200.0
    written = (tmp_path / "out" / "official" / "color.txt").read_text()
    assert written == "1.jpg\tIs it red?\tNo\tNo\n1.jpg\tIs it black?\tYes\tYes\n"


def test_mmbench_circle_is_asked_and_written(tmp_path: Path) -> None:
    picture = encoded_image(Image.new("RGB", (4, 4)))
    row = {"index": "3", "image": picture, "question": "Which?", "A": "cat", "B": "dog"}
    data = write_table(tmp_path / "dev.tsv", [{**row, "answer": "B"}])
    benchmark = understanding.open_mmbench(data, circular=True)
    oracle = Oracle(lambda question, _: "B" if "B. dog" in question else "A")
    made = {"made_by": MADE_BY, "progress": False}
    found = understanding.run_benchmark(benchmark, data, oracle, tmp_path / "out", **made)
    assert (found["protocol"], found["accuracy"]) == ("circular", 1.0)
    rows = read_table(tmp_path / "out" / "official" / "dev.tsv", ("index", "prediction"))
    assert [(r["index"], r["A"], r["prediction"]) for r in rows] == [
        ("3", "cat", "B"),
        ("1000003", "dog", "A"),
    ]


def test_bad_image_and_short_answers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    bad = [Question("1", "?", tmp_path / "bad.png")]
    with pytest.raises(ValueError, match="bad.png: cannot be read as an image"):
        ask(bad, Oracle(lambda *_: "yes"), tmp_path, progress=False)
    good = [Question(str(n), "?", lambda: Image.new("RGB", (4, 4))) for n in (1, 2)]
    with pytest.raises(ValueError, match="1 answers to 2 questions"):
        ask(good, lambda questions, images: ["yes"], tmp_path, progress=False)
    with pytest.raises(ValueError, match="two questions of one id"):
        ask([good[0], good[0]], Oracle(lambda *_: "yes"), tmp_path, progress=False)
