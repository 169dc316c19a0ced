"""Boxes: drawn ones are read back to the pixel, and an answer is worth its overlap."""

from dataclasses import replace

import numpy as np
import pytest

from lumina_jax.data.scenes import maps
from lumina_jax.data.scenes.captions import Look, noun
from lumina_jax.data.scenes.render import render
from lumina_jax.data.scenes.scene import Scene, SceneObject, sample_scene
from lumina_jax.evals.tasks import boxes
from lumina_jax.evals.tasks.common import Truth

SIZE = (128, 128)
DOME = SceneObject("dome", "red", "medium", 0.0, 0.0, 0.1875)
ONE = Truth(Scene(1.0, 1.0, "sand", (DOME,), "single"), SIZE, phrase="the red dome")


def asked(seed: int, size=SIZE, kind: str | None = None) -> Truth:
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng, *size, kind=kind, reserved=True, allow_held_out=True)
    look = Look(scene.objects[0].shape, scene.objects[0].colour)
    return Truth(scene, size, phrase=noun(look, article="the"))


def drawn(truth: Truth) -> np.ndarray:
    return maps.boxes_drawn(truth.scene, *truth.size, truth.phrase)


def with_box(box: maps.Box, picture: np.ndarray) -> np.ndarray:
    x0, y0, x1, y1 = box
    picture = picture.copy()
    inside = picture[y0 + 3 : y1 - 3, x0 + 3 : x1 - 3].copy()
    picture[y0:y1, x0:x1] = maps.BOX_RGB
    picture[y0 + 3 : y1 - 3, x0 + 3 : x1 - 3] = inside
    return picture


@pytest.mark.parametrize("kind", ["single", "two", "mixed"])
def test_one_true_box_is_read_to_the_pixel(kind):
    for seed in range(15):
        truth = asked(seed, [SIZE, (160, 96), (64, 96)][seed % 3], kind)
        assert boxes.find_boxes(drawn(truth)) == boxes.true_boxes(truth)


def test_boxes_of_equal_objects_are_all_read():
    """Where two boxes touch, a line may be either's: that costs a pixel or two on one side."""
    results = [boxes.score_boxes(t, drawn(t)) for t in (asked(s, kind="count") for s in range(30))]
    assert all(each.half and each.score > 0.9 for each in results)
    assert boxes.summarise_boxes(results)["score"] > 0.99


@pytest.mark.parametrize("shift", [1, 4, 12, 24])
def test_a_shifted_box_scores_its_overlap(shift):
    x0, y0, x1, y1 = boxes.true_boxes(ONE)[0]
    moved = (x0 + shift, y0, x1 + shift, y1)
    found = boxes.score_boxes(ONE, with_box(moved, render(ONE.scene, *SIZE)))
    width = x1 - x0
    assert found.score == pytest.approx((width - shift) / (width + shift))
    assert found.half == (found.score >= 0.5)


def test_a_half_covered_object_scores_a_half():
    x0, y0, x1, y1 = boxes.true_boxes(ONE)[0]
    half = boxes.score_boxes(ONE, with_box((x0, y0, (x0 + x1) // 2, y1), render(ONE.scene, *SIZE)))
    assert half.score == pytest.approx(0.5, abs=0.02)


def test_no_box_and_boxes_too_many_cost():
    assert boxes.score_boxes(ONE, render(ONE.scene, *SIZE)) == (0.0, False, 0, 1)
    twice = with_box((4, 4, 40, 40), drawn(ONE))
    assert boxes.score_boxes(ONE, twice) == (0.5, False, 2, 1)


def test_a_box_with_gaps_is_still_read():
    picture, plain = drawn(ONE), render(ONE.scene, *SIZE)
    for column in range(0, 128, 10):
        picture[:, column : column + 3] = plain[:, column : column + 3]
    assert boxes.score_boxes(ONE, picture).score > 0.85


def test_random_answers_score_little():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    assert boxes.score_boxes(ONE, noise).score == 0
    others = [
        boxes.score_boxes(asked(s, kind="two"), drawn(asked(s + 50, kind="two"))) for s in range(20)
    ]
    assert boxes.summarise_boxes(others)["score"] < 0.3


@pytest.mark.parametrize("colour", ["green", "yellow"])
def test_objects_like_the_lines_are_no_lines(colour):
    scene = replace(ONE.scene, objects=(replace(DOME, shape="slab", colour=colour),))
    assert boxes.find_boxes(render(scene, *SIZE)) == []
