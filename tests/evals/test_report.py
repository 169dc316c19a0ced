"""The protocol's command: every task answered by a tiny random model, and what it refuses."""

import json
import sys

import numpy as np
import pytest

from lumina_jax.cli import run_main
from lumina_jax.config import SampleConfig
from lumina_jax.evals import painted, prompts, protocol
from lumina_jax.evals.__main__ import Options, check, main, score_protocol
from lumina_jax.evals.answering import Answer, _encoded, settings_of
from lumina_jax.evals.curves.figure import figure_png, places, table
from lumina_jax.evals.grading import grade, score
from lumina_jax.evals.pages import page
from lumina_jax.evals.protocol import EXAMPLES, KINDS, examples
from lumina_jax.evals.report import chosen_tasks, example_report, line
from lumina_jax.unirep.image_tokens import parse_image


@pytest.fixture
def small(monkeypatch):
    """The protocol's pictures at 64x64 px, which a tiny model has room for."""
    monkeypatch.setattr(protocol, "SIZES_PX", ((64, 64),))
    monkeypatch.setattr(prompts, "SIZES_PX", ((64, 64),))
    painted.prompts_of.cache_clear()
    yield
    painted.prompts_of.cache_clear()


@pytest.mark.slow
def test_command_scores_every_task(tiny_model, small, tmp_path):
    out, pages = tmp_path / "report.json", tmp_path / "pages"
    score_protocol(Options(tiny_model.path, tasks=("all",), num=2, out=out, pictures=pages))
    report = json.loads(out.read_text())
    assert list(report["tasks"]) == list(EXAMPLES)
    assert {"protocol", "scenes_seed", "checkpoint", "machine", "commit", "num"} <= set(report)
    for task, found in report["tasks"].items():
        assert {"scores", "chance", "ceiling", "settings", "seeds", "results"} == set(found), task
        assert len(found["results"]) == 2 * KINDS.get(task, 1)
        assert all("score" in row and row["said"] for row in found["results"])
        assert (pages / f"{task}.png").is_file()
    assert len(report["tasks"]["chat"]["settings"]) == 3


def test_settings_are_the_rows_but_for_painting_from_words():
    own = SampleConfig(guidance=2.0, image_top_k=50)
    assert settings_of("text_to_image", own, {}).guidance == 2.0
    assert settings_of("text_to_image", own, {}).image_top_k == 50
    dense = settings_of("depth", own, {})
    assert (dense.guidance, dense.image_top_k) == (1.0, 200)
    assert settings_of("question", own, {"text_top_k": 1}).text_top_k == 1


def test_images_are_encoded_in_order_at_their_own_size(small_lumina):
    rng = np.random.default_rng(0)
    shapes = [(16, 32, 3), (32, 16, 3), (16, 32, 3)]
    pictures = [rng.integers(0, 255, shape).astype(np.uint8) for shape in shapes]
    vocab, grid = small_lumina.tokenizer.vocab, small_lumina.config.grid
    codes = [parse_image(ids, vocab, grid) for ids in _encoded(small_lumina, pictures)]
    assert [each.shape for each in codes] == [(2, 4), (4, 2), (2, 4)]
    for picture, each in zip(pictures, codes, strict=True):
        assert np.array_equal(small_lumina._codes(picture), each)


def test_the_words_of_a_model_are_kept_beside_what_is_read_in_them():
    (example,) = examples("question", 1)[:1]
    row = example_report(example, Answer((" The Answer: 3! ",)), score(example, "The 3!"))
    assert row["answer"] == " The Answer: 3! " and row["truth"] == example.true_answer
    assert (row["found"], row["score"]) == ("three", example.true_answer == "three")
    assert row["wanted"] == example.true_answer


def test_the_line_of_an_edit_tells_what_was_kept():
    found = examples("edit", 1)
    summary = grade(found, [example.true_answer for example in found]).summary
    told = line("edit", {"scores": summary})
    assert "edit success; preserved 1.000; all_right 1.000" in told


def test_tasks_are_chosen_by_name():
    assert chosen_tasks(["all"]) == list(EXAMPLES)
    assert chosen_tasks(["question", "depth"]) == ["depth", "question"]
    with pytest.raises(ValueError, match="task 'paint'"):
        chosen_tasks(["depth", "paint"])


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"tasks": ("depth",), "num": 0}, "nothing to score"),
        ({"tasks": ("depth",), "against": "int8"}, "--against has no meaning for --tasks"),
        ({"num": 5}, "--num has no meaning for the six categories"),
        ({"vqgan": True, "tasks": ("depth",)}, "--tasks has no meaning for --vqgan"),
        ({"against": "int8", "against_checkpoint": "scenes"}, "one comparison at a time"),
    ],
)
def test_options_that_exclude_each_other_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        check(Options("scenes", **fields))


def test_command_ends_with_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evals", "scenes", "--tasks", "paint"])
    with pytest.raises(SystemExit) as stop:
        run_main(main)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1


def test_a_page_shows_every_kind_first():
    found = examples("edit", 2)
    given = [Answer(tuple(turn.answer for turn in example.turns)) for example in found]
    sheet = page("edit", found, given, [1.0] * 12)
    words = examples("question", 1)[:2]
    texts = page("question", words, [Answer(("",)), Answer(("no " * 60,))], [0.0, 0.5])
    assert sheet.height > 8 * 2 * 96 and texts.width > 500
    assert np.asarray(sheet).std() > 10


def test_curves_tell_scores_chance_and_ceiling():
    level = {"score": 0.25}
    row = {"scores": {"metric": "m", "score": 0.5, "low": 0.4, "high": 0.6}}
    reports = {
        "run/checkpoints/500": {"tasks": {"depth": row}},
        "run/checkpoints/1000": {
            "tasks": {"depth": {**row, "chance": {"other": level}, "ceiling": None}}
        },
    }
    assert table(reports).splitlines()[1].split() == ["depth", *["0.500"] * 2, "0.250", "-", "m"]
    assert figure_png(reports).startswith(b"\x89PNG")
    assert places(["500", "1000"]) == [500, 1000] and places(["500", "model"]) == [0, 1]
