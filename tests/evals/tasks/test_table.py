"""All evaluators by name: the truth is the best answer, and the VQGAN's round trip of it is the ceiling."""

from dataclasses import replace
from math import sqrt

import numpy as np
import pytest

from lumina_jax.checkpoint import load_model
from lumina_jax.data.recipes import MAPS, RECIPES
from lumina_jax.data.scenes.captions import Look, caption, noun
from lumina_jax.data.scenes.edits import edits
from lumina_jax.data.scenes.questions import questions
from lumina_jax.data.scenes.scene import sample_scene
from lumina_jax.evals.grading import ceiling
from lumina_jax.evals.protocol import EXAMPLES
from lumina_jax.evals.reconstruction import HELD_OUT_SEED, vqgan_round_trip
from lumina_jax.evals.tasks.common import Truth
from lumina_jax.evals.tasks.table import EVALUATORS

SIZES = ((128, 128), (160, 96), (96, 160), (144, 112), (112, 144))
# What the shipped VQGAN leaves of the true answers to a task's first 100 examples: just below what was measured.
NUM = 100
CEILINGS = {
    "text_to_image": 0.99,
    "text_to_image_any_size": 0.99,
    "multi_view": 0.98,
    "image_condition": 0.975,
    "segmentation": 0.945,
    "depth": 0.96,
    "normals": 10.8,  # degrees
    "pose": 0.885,
    "detection": 0.955,
    "edit": 0.98,
    "next_edit": 0.98,
    "describe": 1.0,
    "question": 1.0,
    "chat": 1.0,
}


def truth_of(task: str, index: int) -> Truth | None:
    """A held-out scene as the truth of a task, or None where it has none."""
    rng = np.random.default_rng((HELD_OUT_SEED, index))
    size = SIZES[index % len(SIZES)]
    scene = sample_scene(rng, *size, allow_held_out=True)
    truth = Truth(scene, size, caption=caption(scene, rng))
    if task == "detection":
        look = Look(scene.objects[0].shape, scene.objects[0].colour)
        return replace(truth, phrase=noun(look, article="the"))
    if task == "question":
        asked = questions(scene, rng)[index % 2]
        return replace(truth, kind=asked.kind, answer=asked.answer)
    if task in ("edit", "next_edit"):
        found = edits(scene, rng, sqrt(size[0] * size[1]))
        edit = found[index % len(found)]
        return replace(truth, before=scene, scene=edit.scene, kind=edit.kind)
    if task == "image_condition":
        return replace(truth, kind=list(MAPS)[index % 3])
    return None if task == "pose" and not scene.has_figure else truth


def truths(task: str, number: int) -> list[Truth]:
    """The first `number` truths of a task."""
    found = (truth_of(task, index) for index in range(20 * number))
    return [truth for truth in found if truth is not None][:number]


def test_every_task_of_the_recipes_has_an_evaluator():
    assert set(EVALUATORS) == {*RECIPES, "next_edit"} - {"chat"}


@pytest.mark.parametrize("task", sorted(EVALUATORS))
def test_the_truth_is_the_best_answer(task):
    evaluator = EVALUATORS[task]
    results = [evaluator.score(t, evaluator.true_answer(t)) for t in truths(task, 3)]
    found = evaluator.summarise(results)
    assert found["metric"] == evaluator.metric and found["n"] == 3
    assert found["higher_is_better"] == evaluator.higher_is_better
    assert found["low"] <= found["score"] <= found["high"] + 1e-9
    assert found["score"] < 0.5 if task == "normals" else found["score"] > 0.99


@pytest.fixture(scope="module")
def round_trip():
    model = load_model("scenes", parts=("vqgan",))
    return vqgan_round_trip(model.params["vqgan"], model.config.vqgan)


@pytest.mark.slow
@pytest.mark.parametrize("task", EXAMPLES)
def test_the_vqgan_leaves_most_of_true_answers(task, round_trip):
    found = ceiling([EXAMPLES[task](task, index) for index in range(NUM)], round_trip).summary
    assert found is not None
    if found["higher_is_better"]:
        assert found["score"] >= CEILINGS[task]
    else:
        assert found["score"] <= CEILINGS[task]
