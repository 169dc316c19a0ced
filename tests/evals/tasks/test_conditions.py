"""Painted pictures against their map and their caption."""

from dataclasses import replace

import numpy as np
import pytest

from lumina_jax.data.scenes.captions import caption
from lumina_jax.data.scenes.render import render
from lumina_jax.data.scenes.scene import Scene, SceneObject, sample_scene
from lumina_jax.evals.tasks import conditions
from lumina_jax.evals.tasks.common import Truth

SIZE = (128, 128)
DOME = SceneObject("dome", "red", "small", -0.25, 0.0, 0.15625)
FIGURE = SceneObject("figure", "blue", "large", 0.25, 0.0, 0.21875, ("up", "out", "apart"))
SCENE = Scene(1.0, 1.0, "night", (DOME, FIGURE), "two")
ASKED = "a red dome to the left of a blue figure at night"
TRUTH = Truth(SCENE, SIZE, kind="segmentation", caption=ASKED)


def painted(**changes) -> np.ndarray:
    return render(replace(SCENE, **changes), *SIZE)


def test_true_pictures_obey_map_and_caption():
    results = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        scene = sample_scene(rng, *SIZE, reserved=True, allow_held_out=True)
        truth = Truth(scene, SIZE, kind="depth", caption=caption(scene, rng))
        results.append(conditions.score_condition(truth, render(scene, *SIZE)))
    found = conditions.summarise_conditions(results)
    assert found["score"] > 0.995 and found["as_asked"]["score"] == 1


@pytest.mark.parametrize("shift", [2, 6, 12])
def test_objects_elsewhere_disobey_the_map(shift):
    moved = tuple(replace(o, x=o.x + shift / 128) for o in SCENE.objects)
    found = conditions.score_condition(TRUTH, painted(objects=moved))
    assert found.as_asked and found.score == pytest.approx(1 - 0.03 * shift, abs=0.1)


def test_a_skeleton_tells_of_figures_alone():
    moved = (replace(DOME, y=0.25), FIGURE)
    figures = replace(TRUTH, kind="pose")
    assert conditions.score_condition(figures, painted(objects=moved)).score > 0.99
    assert conditions.score_condition(TRUTH, painted(objects=moved)).score < 0.9
    assert conditions.score_condition(figures, painted(objects=(DOME,))).score < 0.55


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({}, True),
        ({"background": "fog"}, False),
        ({"objects": (FIGURE,)}, False),
        ({"objects": (replace(DOME, colour="pink"), FIGURE)}, False),
        ({"objects": (replace(DOME, x=0.25), replace(FIGURE, x=-0.25))}, False),
        ({"objects": (DOME, FIGURE, replace(DOME, y=0.35, x=0.0, colour="pink"))}, True),
    ],
)
def test_what_a_caption_asks_must_be_seen(changes, shown):
    assert conditions.score_painted(TRUTH, painted(**changes)).score is shown


def test_every_mention_wants_an_object_of_its_own():
    assert not conditions.score_painted(replace(TRUTH, caption="two domes"), painted()).score


def test_noise_shows_nothing():
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    found = conditions.score_condition(TRUTH, noise)
    assert found.score < 0.35 and found.as_asked is False


def test_captions_of_another_grammar_are_refused():
    with pytest.raises(ValueError, match="want a sentence of"):
        conditions.score_painted(replace(TRUTH, caption="something nice"), painted())
