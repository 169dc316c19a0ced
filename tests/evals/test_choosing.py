"""Settings by task: the best that is tried, on other examples than the scored ones."""

import copy
import json
from functools import partial

import numpy as np
import pytest

from lumina_jax.chat import task_settings
from lumina_jax.config import SampleConfig, TaskSampling
from lumina_jax.evals import choosing, protocol
from lumina_jax.evals.__main__ import Options, check, choose_for_tasks
from lumina_jax.evals.answering import Answer
from lumina_jax.evals.protocol import examples
from lumina_jax.evals.report import read_report, write_report
from lumina_jax.unirep.tasks import TASKS

BEST = {  # what the model below answers best with
    "depth": {"guidance": 1.5, "image_top_k": 4},
    "normals": {"guidance": 1.0, "image_top_k": 200},
    "question": {"text_top_k": 2},
    "edit": {"guidance": 2.0, "image_top_k": 1},
}
NUM = 2


def wrong(answer):
    return "" if isinstance(answer, str) else tuple(np.zeros_like(each) for each in answer)


@pytest.fixture
def asked(monkeypatch):
    """Answers that are true of the more examples the more settings are those of BEST; the tasks and places asked."""
    calls = []

    def answers(model, found, progress):
        task = found[0].task
        calls.append((task, [example.index for example in found]))
        settings, best = task_settings(TASKS[task], model.settings, model.by_task), BEST[task]
        share = np.mean([getattr(settings, name) == value for name, value in best.items()])
        true = [example.index % NUM < share * NUM for example in found]
        told = [
            e.true_answer if t else wrong(e.true_answer) for e, t in zip(found, true, strict=True)
        ]
        return [Answer((each,)) for each in told]

    monkeypatch.setattr(choosing, "answers", answers)
    for module in (protocol, choosing):
        monkeypatch.setattr(module, "KINDS", {})
    monkeypatch.setattr(protocol, "SIZES_PX", ((64, 64),))
    return calls


def test_the_best_of_what_is_tried_is_chosen(asked, small_lumina):
    model = copy.copy(small_lumina)
    model.settings = SampleConfig(guidance=2.5)
    report = choosing.choose_settings(model, list(BEST), NUM, progress=False)
    best = {task: row["best"] for task, row in report["tasks"].items()}
    assert best == {**BEST, "normals": {}}  # nothing is better than its own row
    rows = (
        TaskSampling("depth", 1.5, image_top_k=4),
        TaskSampling("question", text_top_k=2),
        TaskSampling("edit", 2.0, image_top_k=1),
    )
    assert (model.settings, model.by_task) == (SampleConfig(guidance=2.5), rows)
    assert choosing.chosen(json.loads(json.dumps(report))) == rows
    tried = report["tasks"]["depth"]["tried"]
    assert [row["score"] for row in tried] == [0, 0, 0, 0.5, 0, 0.5, 1, 0.5]
    assert {index for _, places in asked for index in places} == {1000, 1001}


def test_examples_to_choose_on_are_none_of_those_that_are_scored():
    chosen = {example.index for example in examples("edit", 1, "choose")}
    assert chosen == set(range(6000, 6006))  # kinds in turn
    with pytest.raises(ValueError, match="1001 examples of edit: want 1 to 1000"):
        examples("edit", 1001)


def test_a_choice_that_was_cut_off_goes_on(asked, small_lumina, tmp_path):
    out, model = tmp_path / "settings.json", copy.copy(small_lumina)
    save = partial(write_report, out)
    choosing.choose_settings(model, ["depth"], NUM, progress=False, save=save)
    again, calls = copy.copy(small_lumina), len(asked)
    earlier = read_report(out)
    report = choosing.choose_settings(
        again, ["depth", "question"], NUM, progress=False, earlier=earlier, save=save
    )
    assert {task for task, _ in asked[calls:]} == {"question"}
    assert report["tasks"]["depth"]["best"] == BEST["depth"]
    assert [row.task for row in again.by_task] == ["depth", "question"]
    with pytest.raises(ValueError, match="another run"):
        choosing.choose_settings(again, ["depth"], 1, progress=False, earlier=read_report(out))


def test_earlier_choices_are_there_for_later_tasks(asked, small_lumina):
    model = copy.copy(small_lumina)
    report = choosing.choose_settings(model, ["depth"], NUM, progress=False)
    again = copy.copy(small_lumina)
    choosing.choose_settings(again, ["question"], NUM, progress=False, earlier=report)
    assert [row.task for row in again.by_task] == ["depth", "question"]


@pytest.mark.parametrize(
    "task, words",
    [
        ("text_to_image", "text_to_image is drawn by the checkpoint's own settings"),
        ("reconstruction", "unknown task with settings 'reconstruction'"),
    ],
)
def test_what_has_nothing_to_choose_is_refused_before_anything_is_loaded(task, words, tmp_path):
    options = Options("no such model", tasks=("depth", task), choose_settings=tmp_path / "s.json")
    with pytest.raises(ValueError, match=words):
        choose_for_tasks(options, tmp_path / "s.json")


@pytest.mark.parametrize(
    "tasks",
    [{"depth": {"scores": {}}}, {"depth": 3}, {"depth": {"best": {"top_k": 4}}}],
)
def test_a_report_of_something_else_is_no_choice(tasks):
    with pytest.raises(ValueError, match="holds no choice of settings"):
        choosing.chosen({"tasks": tasks})
    with pytest.raises(ValueError, match="unknown task of the settings 'depths'"):
        choosing.chosen({"tasks": {"depths": {"best": {"image_top_k": 4}}}})


def test_command_writes_what_release_reads(asked, tiny_model, tmp_path):
    out = tmp_path / "settings.json"
    options = Options(tiny_model.path, tasks=("depth", "question"), num=NUM, choose_settings=out)
    check(options)
    choose_for_tasks(options, out)
    assert [row.task for row in choosing.chosen(read_report(out))] == ["depth", "question"]


@pytest.mark.parametrize("field", [{"guidance": 2.0}, {"out": "a.json"}, {"pictures": "pages"}])
def test_what_a_choice_would_ignore_is_refused(field, tmp_path):
    options = Options("scenes", tasks=("depth",), choose_settings=tmp_path / "s.json", **field)
    with pytest.raises(ValueError, match="has no meaning for --choose-settings"):
        check(options)
