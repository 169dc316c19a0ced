"""The protocol's command: every task answered by a tiny random model, and what it refuses."""

import copy
import json
import sys
from functools import partial

import numpy as np
import pytest

from lumina_jax.cli import run_main
from lumina_jax.config import SampleConfig
from lumina_jax.evals import painted, prompts, protocol, report
from lumina_jax.evals.__main__ import Options, check, main, score_protocol, score_vqgan
from lumina_jax.evals.answering import Answer, encoded, settings_of
from lumina_jax.evals.curves.figure import figure_png, labels, places, table
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
    content = json.loads(out.read_text())
    assert list(content["tasks"]) == [*EXAMPLES, "reconstruction"]
    assert content["tasks"].pop("reconstruction")["scores"]["psnr_db"]["render"]["n"] == 2
    assert {"protocol", "scenes_seed", "checkpoint", "machine", "commit", "num"} <= set(content)
    for task, found in content["tasks"].items():
        assert {"scores", "chance", "ceiling", "settings", "seeds", "results"} == set(found), task
        assert len(found["results"]) == 2 * KINDS.get(task, 1)
        assert all("score" in row and row["said"] for row in found["results"])
        assert (pages / f"{task}.png").is_file()
    assert len(content["tasks"]["chat"]["settings"]) == 3


@pytest.fixture
def counted(monkeypatch, small):
    """The true answers in the place of a model's, and which tasks were asked."""
    asked = []

    def answers(model, examples, progress, **named):
        asked.append(examples[0].task)
        return [Answer(tuple(turn.answer for turn in example.turns)) for example in examples]

    monkeypatch.setattr(report, "answers", answers)
    return asked


def test_a_run_that_was_cut_off_goes_on(counted, small_lumina, tmp_path, capsys):
    out, tasks = tmp_path / "report.json", ["depth", "question"]
    save = partial(report.write_report, out)

    def stops(content):
        save(content)
        raise KeyboardInterrupt

    def run(save, **more):
        earlier = report.read_report(out)
        return report.score_tasks(
            small_lumina, tasks, 1, with_levels=False, earlier=earlier, save=save, **more
        )

    with pytest.raises(KeyboardInterrupt):
        run(stops)
    assert list(json.loads(out.read_text())["tasks"]) == ["depth"]
    found = run(save)
    assert counted == tasks and list(found["tasks"]) == tasks == [*report.read_report(out)["tasks"]]
    told = capsys.readouterr().out.splitlines()
    assert ["report that was there" in told[0], told[1].startswith("question")] == [True, True]
    with pytest.raises(ValueError, match=r"another run \(other named\): name another file"):
        run(save, image_top_k=1)
    assert run(save, pictures=tmp_path)["tasks"] and (tmp_path / "depth.png").is_file()
    assert counted == tasks * 2  # the pages were missing


def test_another_file_is_no_report(tmp_path):
    (tmp_path / "scores.json").write_text('{"overall": 1}')
    with pytest.raises(ValueError, match=r"scores.json: holds no report of tasks"):
        report.read_report(tmp_path / "scores.json")
    assert report.read_report(tmp_path / "none.json") is None


def test_lines_of_kinds_have_their_chance_beside():
    level = {"score": 0.25, "low": 0.2, "high": 0.3, "n": 4}
    found = {
        "scores": {**level, "kinds": {"pose": {**level, "score": 0.75}, "depth": level}},
        "chance": {"other": {**level, "kinds": {"pose": level}}, "same_kind": None},
        "ceiling": {**level, "kinds": {"pose": {**level, "score": 0.875}}},
    }
    first, second = report.kind_lines(found)
    assert first.split() == [*"pose 0.750 [0.200, 0.300] 4; other 0.250; ceiling 0.875".split()]
    assert "other" not in second
    assert report.kind_lines({"scores": level}) == []


def test_the_report_of_a_vqgan_tells_its_run(tiny_model, small, tmp_path):
    out = tmp_path / "vqgan.json"
    score_vqgan(Options(tiny_model.path, vqgan=True, num_images=2, out=out))
    found = json.loads(out.read_text())
    assert {"protocol", "scenes_seed", "checkpoint", "machine", "commit"} < set(found)
    assert {"score", "low", "high", "n"} == set(found["ssim"]["render"])


def test_settings_are_the_rows_but_for_painting_from_words(small_lumina):
    own = copy.copy(small_lumina)
    own.settings = SampleConfig(guidance=2.0, image_top_k=50)
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
    codes = [parse_image(ids, vocab, grid) for ids in encoded(small_lumina, pictures)]
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
    assert chosen_tasks(["all"]) == [*EXAMPLES, "reconstruction"]
    assert chosen_tasks(["question", "depth"]) == ["depth", "question"]
    with pytest.raises(ValueError, match="task 'paint'"):
        chosen_tasks(["depth", "paint"])


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"tasks": ("depth",), "num": 0}, "nothing to score"),
        ({"tasks": ("depth",), "against": "int8"}, "--against has no meaning for --tasks"),
        ({"num": 5}, "--num has no meaning for the six categories"),
        ({"text_top_k": 1}, "--text-top-k has no meaning for the six categories"),
        ({"num_images": 5}, "--num-images has no meaning for the six categories"),
        ({"tasks": ("depth",), "num_images": 5}, "--num-images has no meaning for --tasks"),
        ({"vqgan": True, "tasks": ("depth",)}, "--tasks has no meaning for --vqgan"),
        ({"vqgan": True, "guidance": 2.0}, "--guidance has no meaning for --vqgan"),
        ({"vqgan": True, "temperature": 2.0}, "--temperature has no meaning for --vqgan"),
        ({"vqgan": True, "image_top_k": 2}, "--image-top-k has no meaning for --vqgan"),
        ({"vqgan": True, "text_top_k": 2}, "--text-top-k has no meaning for --vqgan"),
        ({"vqgan": True, "precision": "int8"}, "--precision has no meaning for --vqgan"),
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


def test_checkpoints_of_several_runs_are_told_apart():
    paths = ["runs/a/checkpoints/500", "runs/b/checkpoints/500", "runs/b/model"]
    assert labels(paths) == ["a/500", "b/500", "model"]
    assert labels(paths[1:]) == ["500", "model"] and places(labels(paths)) == [0, 1, 2]
