"""The protocol: the same examples always, held out from training, balanced."""

import importlib.util
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lumina_jax.data.images import record_rng
from lumina_jax.data.recipes import RECIPES
from lumina_jax.data.scenes.scene import RESERVED_COLOURS, RESERVED_SHAPES
from lumina_jax.data_config import HELD_OUT_SEED, ScenesSource
from lumina_jax.evals import protocol
from lumina_jax.evals.prompts import CATEGORIES, SIZES_PX, eval_prompts
from lumina_jax.evals.protocol import EXAMPLES, KINDS, example_rng, examples
from lumina_jax.unirep.conversation import IMAGE_PLACEHOLDER
from lumina_jax.unirep.tasks import TASKS

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.py"))


def of(task, num):
    """The first examples, whatever their kinds; few views, which take longest to render."""
    return [EXAMPLES[task](task, index) for index in range(min(num, 2) if "view" in task else num)]


def test_every_task_and_recipe_has_examples():
    assert set(EXAMPLES) == set(TASKS) >= set(RECIPES)


@pytest.mark.parametrize("task", EXAMPLES)
def test_examples_are_a_pure_function_of_task_and_place(task):
    first, again = examples(task, 1), examples(task, 2)
    assert len(again) == 2 * len(first) == 2 * KINDS.get(task, 1)
    for one, other in zip(first, again, strict=False):
        assert (one.truth, one.seed, one.prompt) == (other.truth, other.seed, other.prompt)
        for turn, same in zip(one.turns, other.turns, strict=True):
            assert (turn.task, turn.said) == (same.task, same.said)
            assert all(map(np.array_equal, turn.shown, same.shown))


@pytest.mark.parametrize("task", EXAMPLES)
def test_turns_are_well_formed(task):
    for example in of(task, 3):
        assert example.task == task and example.turns[-1].answer is example.true_answer
        for turn in example.turns:
            assert turn.said.count(IMAGE_PLACEHOLDER) == len(turn.shown)
            assert TASKS[turn.task].matches(turn.said)
            assert isinstance(turn.answer, str) == (TASKS[turn.task].answer == "text")
            for picture in (*turn.shown, *(() if isinstance(turn.answer, str) else turn.answer)):
                assert picture.shape == (*reversed(example.truth.size), 3)


@pytest.mark.parametrize("task", EXAMPLES)
def test_no_reserved_name_is_shown_or_asked(task):
    for example in of(task, 7):
        things = example.truth.scene.objects
        assert not {t.shape for t in things} & {*RESERVED_SHAPES}
        assert not {t.colour for t in things} & {*RESERVED_COLOURS}
        words = {word.strip(".?,") for turn in example.turns for word in turn.said.split()}
        assert not words & {*RESERVED_SHAPES, *RESERVED_COLOURS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_no_run_file_draws_scenes_from_the_seed_of_the_protocol(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sources = module.get_config().data.sources
    assert HELD_OUT_SEED not in {s.seed for s in sources if isinstance(s, ScenesSource)}


def test_a_source_with_the_seed_of_the_protocol_is_refused():
    with pytest.raises(ValueError, match="source mine: seed 2147483647 is that of the scenes"):
        ScenesSource("mine", 128, 10, seed=HELD_OUT_SEED)


def test_generators_differ_from_those_of_training():
    drawn = {
        float(example_rng(task, index).random()) for task in ("depth", "edit") for index in (0, 1)
    }
    source = ScenesSource("mine", 128, 10, seed=31)
    trained = {
        float(record_rng(source, index, what).random())
        for what in ("scene", "text")
        for index in range(100)
    }
    assert len(drawn) == 4 and not drawn & trained


def test_painted_prompts_are_those_of_the_categories():
    found, in_turn = examples("text_to_image", 2), of("text_to_image_any_size", 12)
    for category in CATEGORIES:
        wanted = [prompt.text for prompt in eval_prompts(2) if prompt.category == category]
        assert [e.prompt.text for e in found if e.prompt and e.kind == category] == wanted
    assert [example.prompt for example in found] == [example.prompt for example in in_turn]
    for example in (*found, *in_turn):
        assert example.prompt is not None and example.prompt.text in example.turns[0].said
        assert example.truth.size == (example.prompt.width_px, example.prompt.height_px)


def test_no_sentence_comes_twice_at_one_size(monkeypatch):
    found = [protocol.prompt_in_turn(index) for index in range(600)]
    asked = {(prompt.text, prompt.width_px, prompt.height_px) for prompt in found}
    assert len(asked) == 600 > len({prompt.text for prompt in found})
    monkeypatch.setattr(protocol, "NUM_EXAMPLES", 70)  # prompts of a category in one list
    assert [protocol.prompt_in_turn(index) for index in range(0, 600, 20)] == found[::20]


def test_sizes_come_in_turn():
    assert [example.truth.size for example in examples("depth", 9)] == [*SIZES_PX, *SIZES_PX[:2]]


def test_questions_are_balanced_by_kind_and_answer():
    found = Counter((e.kind, e.true_answer) for e in examples("question", 8))
    assert {sum(n for (k, _), n in found.items() if k == kind) for kind, _ in found} == {8}
    for kind, each in (("existence", 4), ("position", 2), ("comparison", 2), ("background", 2)):
        assert (found[kind, "yes"], found[kind, "no"]) == (each, each)


def test_edits_and_maps_come_in_turn():
    for task, kinds in (("edit", 6), ("next_edit", 6), ("image_condition", 4)):
        found = [example.kind for example in of(task, 2 * kinds)]
        assert found[:kinds] == found[kinds:] and len({*found}) == kinds == KINDS[task]


@pytest.mark.parametrize("task", ["edit", "next_edit"])
def test_an_edit_is_of_the_scene_before_it(task):
    for example in of(task, 6):
        assert example.truth.before not in (None, example.truth.scene)
        assert len(example.turns) == (2 if task == "next_edit" else 1)


def test_a_pose_shows_one_figure():
    for example in examples("pose", 5):
        assert sum(thing.shape == "figure" for thing in example.truth.scene.objects) == 1


def test_a_detected_object_has_its_name_alone():
    for example in examples("detection", 8):
        names = [f"the {thing.colour} {thing.shape}" for thing in example.truth.scene.objects]
        assert names.count(example.truth.phrase) == 1


def test_a_chat_ends_in_a_question_that_its_words_answer():
    found = examples("chat", 10)
    assert Counter(e.true_answer for e in found if e.true_answer in ("yes", "no")) == {
        "yes": 2,
        "no": 2,
    }
    for example in found:
        painted, changed, asked = example.turns
        before = example.truth.before
        assert before is not None and all(thing.colour in painted.said for thing in before.objects)
        assert not (painted.shown or changed.shown or asked.shown)


def test_wrong_requests_are_refused():
    with pytest.raises(ValueError, match="task 'paint'"):
        examples("paint", 1)
    with pytest.raises(ValueError, match="0 examples of depth: want 1 to 1000"):
        examples("depth", 0)
