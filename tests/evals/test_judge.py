"""The judge on constructed detections: right, wrong and borderline."""

import pytest

from lumina_jax.data.scenes.detector import DetectedObject, Detection
from lumina_jax.evals.judge import exactly_as_asked, judge, relations_of
from lumina_jax.evals.prompts import Include, Prompt


def seen(shape, colour, x_px=64.0, y_px=64.0, radius_px=20.0):
    box = (0, 0, 40, 40)  # not read by the judge
    return DetectedObject(shape, colour, "medium", x_px, y_px, radius_px, box, agreement=1.0)


def sight(*objects):
    return Detection(objects, "sand")


SINGLE = Prompt("single_object", "a dome", (Include("dome"),))
COLOUR = Prompt("colors", "a red dome", (Include("dome", "red"),))
TWO = Prompt("two_object", "a dome and a ring", (Include("dome"), Include("ring")))
THREE = Prompt("counting", "three rings", (Include("ring", None, 3),), exact=True)
LEFT = Prompt(
    "position", "a dome left of a ring", (Include("dome"), Include("ring")), (0, "left of", 1)
)
PAIR = Prompt(
    "color_attr", "a red dome and a blue ring", (Include("dome", "red"), Include("ring", "blue"))
)
TWINS = Prompt(
    "color_attr", "a red dome and a blue dome", (Include("dome", "red"), Include("dome", "blue"))
)
DOME, RING = seen("dome", "red", 30), seen("ring", "blue", 90)
CASES = [
    (SINGLE, [DOME], True),
    (SINGLE, [], False),
    (SINGLE, [RING], False),
    (SINGLE, [DOME, RING], True),
    (SINGLE, [seen("dome", "unknown")], False),
    (SINGLE, [seen("unknown", "red")], False),
    (COLOUR, [DOME], True),
    (COLOUR, [seen("dome", "orange")], False),
    (COLOUR, [DOME, seen("dome", "blue")], False),
    (COLOUR, [DOME, seen("dome", "unknown")], True),
    (TWO, [DOME, RING], True),
    (TWO, [DOME, DOME], False),
    (THREE, [RING] * 3, True),
    (THREE, [RING] * 2, False),
    (THREE, [RING] * 4, False),
    (THREE, [RING, RING, seen("ring", "red")], True),
    (THREE, [RING] * 3 + [DOME], True),
    (LEFT, [DOME, RING], True),
    (LEFT, [seen("dome", "red", 90), seen("ring", "blue", 30)], False),
    (LEFT, [seen("dome", "red", 64, 20), seen("ring", "blue", 66, 100)], False),
    (LEFT, [DOME, RING, seen("dome", "red", 120)], False),
    (PAIR, [DOME, RING], True),
    (PAIR, [seen("dome", "blue"), seen("ring", "red")], False),
    (PAIR, [seen("dome", "red"), seen("ring", "red")], False),
    (TWINS, [seen("dome", "red"), seen("dome", "blue")], True),
    (TWINS, [seen("dome", "red"), seen("dome", "red")], False),
]


@pytest.mark.parametrize("prompt, objects, right", CASES)
def test_judge_equals_the_rules(prompt, objects, right):
    assert judge(prompt, sight(*objects)) is right


def test_relations_on_a_diagonal_are_two():
    assert relations_of(seen("dome", "red", 20, 20), seen("ring", "red", 90, 90)) == {
        "left of",
        "above",
    }


@pytest.mark.parametrize("gap_px, found", [(15.9, set()), (16.1, {"right of"})])
def test_relations_need_an_offset_beyond_the_tolerance(gap_px, found):
    # slack is 0.1 * 2 * (20 + 20) = 8 px, and what remains must exceed half of the offset: 16 px
    assert relations_of(seen("dome", "red", 40 + gap_px), seen("ring", "red", 40)) == found


def test_relations_of_coinciding_objects_are_none():
    assert relations_of(DOME, DOME) == set()


@pytest.mark.parametrize(
    "where, x_px, y_px", [("right of", 110, 64), ("above", 64, 20), ("below", 64, 110)]
)
def test_relations_follow_the_image_axes_with_y_down(where, x_px, y_px):
    assert relations_of(seen("dome", "red", x_px, y_px), seen("ring", "red")) == {where}


def test_exactly_as_asked_refuses_a_further_object():
    assert exactly_as_asked(TWO, sight(DOME, RING))
    assert not exactly_as_asked(SINGLE, sight(DOME, RING))
    assert not exactly_as_asked(SINGLE, sight(DOME, seen("unknown", "red")))
