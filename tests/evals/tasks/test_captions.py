"""Captions: every drawn one is read and true; wrong words cost what they say."""

from collections import Counter

import numpy as np
import pytest

from lumina_jax.data.scenes.captions import caption
from lumina_jax.data.scenes.scene import Scene, SceneObject, sample_scene
from lumina_jax.evals.tasks.captions import Mention, parse, score_caption, summarise_captions
from lumina_jax.evals.tasks.common import Truth

SIZES = ((128, 128), (160, 96), (96, 160))
DOME = SceneObject("dome", "red", "small", -0.25, 0.0, 0.15)
RING = SceneObject("ring", "blue", "large", 0.25, 0.0, 0.2)
TWO = Truth(Scene(1.0, 1.0, "night", (DOME, RING), "two"), (128, 128))


def captioned(seed: int) -> tuple[Truth, str]:
    rng = np.random.default_rng(seed)
    size = SIZES[seed % 3]
    scene = sample_scene(rng, *size, reserved=seed % 2 == 1, allow_held_out=True)
    return Truth(scene, size), caption(scene, rng)


@pytest.mark.parametrize("number", [200, pytest.param(5000, marks=pytest.mark.slow)])
def test_every_caption_is_read_and_true(number):
    said = Counter()
    for truth, text in map(captioned, range(number)):
        found = score_caption(truth, text)
        assert found.all_right and found.precision == found.recall == 1, text
        said.update(relation=found.relation is not None, background=found.background is not None)
    assert said["relation"] > number / 20 and said["background"] > number / 5


def test_captions_of_other_scenes_score_little():
    pairs = [captioned(seed) for seed in range(100)]
    others = [text for _, text in pairs[1:] + pairs[:1]]
    results = [score_caption(t, text) for (t, _), text in zip(pairs, others, strict=True)]
    found = summarise_captions(results)
    assert found["score"] < 0.2 and found["all_right"]["score"] < 0.05 and found["unreadable"] == 0


@pytest.mark.parametrize(
    ("text", "precision", "recall"),
    [
        ("a red dome and a blue ring", 1, 1),
        ("A photo of a red dome and a blue ring.", 1, 1),
        ("a dome", 1, 0.5),
        ("a red dome and a green ring", 0.5, 0.5),
        ("a red dome, a blue ring and a slab", 2 / 3, 1),
        ("two domes", 0.5, 0.5),
        ("a large red dome and a large blue ring", 0.5, 0.5),
        ("two dome", 0, 0),  # number and noun disagree: no such sentence
        ("a domes", 0, 0),
        ("a dome with arms up", 0, 0),
        ("a red dome a blue ring", 0, 0),
        ("", 0, 0),
    ],
)
def test_precision_and_recall_by_hand(text, precision, recall):
    found = score_caption(TWO, text)
    assert (found.precision, found.recall) == pytest.approx((precision, recall))
    assert found.parsed == (precision > 0)


@pytest.mark.parametrize(
    ("text", "score", "with_colour", "colours"),
    [
        ("a red dome and a blue ring", 1, 1, 2),
        ("a dome and a blue ring", 1, 0.5, 1),
        ("a dome and a ring", 1, 0, 0),
        ("a red dome", 2 / 3, 2 / 3, 1),
        ("a blue dome and a red ring", 0, 0, 2),
        ("two dome", 0, 0, 0),
    ],
)
def test_an_object_told_without_colour_is_told_apart(text, score, with_colour, colours):
    found = score_caption(TWO, text)
    assert (found.score, found.with_colour) == pytest.approx((score, with_colour))
    assert found.colours == colours
    summary = summarise_captions([found, score_caption(TWO, "a red dome and a blue ring")])
    assert summary["with_colour"]["score"] == pytest.approx((with_colour + 1) / 2)
    share = (colours + 2) / (found.mentioned + 2)
    assert summary["colours_named"]["score"] == pytest.approx(share)


@pytest.mark.parametrize(
    ("text", "relation", "background"),
    [
        ("a dome to the left of a ring at night", True, True),
        ("a ring left of a dome", False, None),
        ("a dome above a ring on sand", False, False),
        ("a dome on the left and a ring on the right", True, None),
        ("a ring on the right and a dome on the left", True, None),
        ("a ring on the left and a dome on the right", False, None),
        ("a ring on the right of a dome", True, None),
    ],
)
def test_relations_and_backgrounds(text, relation, background):
    found = score_caption(TWO, text)
    assert (found.relation, found.background) == (relation, background) and found.score == 1


def test_a_pose_must_be_that_of_the_figure():
    figure = SceneObject("figure", "red", "small", 0.0, 0.0, 0.15, ("up", "up", "apart"))
    truth = Truth(Scene(1.0, 1.0, "night", (figure,), "single"), (128, 128))
    assert parse("a figure with legs apart").mentions == (Mention("figure", legs="apart"),)
    assert score_caption(truth, "a figure with arms up").score == 1
    assert score_caption(truth, "a figure with arms down").score == 0
