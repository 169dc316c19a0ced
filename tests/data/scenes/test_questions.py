"""Questions answered again from the scene by rules of their own."""

import re
from collections import Counter

import numpy as np
import pytest

from lumina_jax.data.scenes.questions import QUESTION_KINDS, questions
from lumina_jax.data.scenes.scene import (
    RESERVED_COLOURS,
    RESERVED_SHAPES,
    SHAPES,
    SIZES,
    sample_scene,
)

NUMBERS = ["no", "one", "two", "three", "four"]


@pytest.fixture(scope="module")
def asked():
    rng = np.random.default_rng(2)
    scenes = [sample_scene(rng, 128, 128) for _ in range(700)]
    return [(scene, question) for scene in scenes for question in questions(scene, rng)]


def thing_of(scene, phrase):
    """The one object that "the red dome" names."""
    colour, shape = phrase.split()[-2:]
    (found,) = [o for o in scene.objects if (o.colour, o.shape) == (colour, shape)]
    return found


def answer_again(scene, text):
    """The answer, by patterns over the question."""
    if match := re.fullmatch(r"How many (\w+)( objects)? are there\?", text):
        word = match[1]
        shape = next((s for s in SHAPES if word in (s + "s", s + "es")), None)
        if word == "objects":
            return NUMBERS[len(scene.objects)]
        return NUMBERS[sum(word == o.colour or shape == o.shape for o in scene.objects)]
    if match := re.fullmatch(r"What colour is the (\w+)\?", text):
        (found,) = [o for o in scene.objects if o.shape == match[1]]
        return found.colour
    if match := re.fullmatch(r"What shape is the (\w+) object\?", text):
        (found,) = [o for o in scene.objects if o.colour == match[1]]
        return found.shape
    if match := re.fullmatch(r"Is there an? (\w+) (\w+)\?", text):
        there = any((o.colour, o.shape) == match.groups() for o in scene.objects)
        return "yes" if there else "no"
    if match := re.fullmatch(r"Where is (.+) as seen from (.+)\?", text):
        first, second = (thing_of(scene, phrase) for phrase in match.groups())
        dx, dy = first.x - second.x, first.y - second.y
        if abs(dx) > abs(dy):
            return "left of" if dx < 0 else "right of"
        return "above" if dy < 0 else "below"
    if match := re.fullmatch(
        r"Is (the \w+ \w+) (?:to the )?(left of|right of|above|below) (.+)\?", text
    ):
        first, second = thing_of(scene, match[1]), thing_of(scene, match[3])
        dx, dy = first.x - second.x, first.y - second.y
        along = {"left of": -dx, "right of": dx, "above": -dy, "below": dy}[match[2]]
        return "yes" if along > 0 else "no"
    if match := re.fullmatch(r"Which is larger, (.+) or (.+)\?", text):
        return max(match.groups(), key=lambda phrase: SIZES[thing_of(scene, phrase).size])
    if match := re.fullmatch(r"Is (.+) larger than (.+)\?", text):
        first, second = (SIZES[thing_of(scene, phrase).size] for phrase in match.groups())
        return "yes" if first > second else "no"
    if match := re.fullmatch(r"Is the background (\w+)\?", text):
        return "yes" if scene.background == match[1] else "no"
    assert text == "What is the background?"
    return scene.background


def test_answers_are_true(asked):
    wrong = [q for scene, q in asked if answer_again(scene, q.question) != q.answer]
    assert wrong == []


@pytest.mark.parametrize("kind", ["existence", "position", "background", "comparison"])
def test_yes_and_no_are_balanced(asked, kind):
    answers = Counter(q.answer for _, q in asked if q.kind == kind)
    assert 0.4 < answers["yes"] / (answers["yes"] + answers["no"]) < 0.6


def test_every_kind_is_asked(asked):
    assert {q.kind for _, q in asked} == set(QUESTION_KINDS)


def test_questions_name_nothing_reserved_unless_it_is_there(asked):
    words = {word for _, q in asked for word in re.findall(r"\w+", q.question)}
    reserved = {*RESERVED_SHAPES, *RESERVED_COLOURS, "gems", "arches"}
    assert words & reserved == set()


def test_questions_are_a_function_of_scene_and_seed():
    scene = sample_scene(np.random.default_rng(0), 160, 96)
    first, again = (questions(scene, np.random.default_rng(1)) for _ in range(2))
    assert first == again
