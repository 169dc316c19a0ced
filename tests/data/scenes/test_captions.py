"""Captions read back by a parser of their own and compared with the scene: true, varied, never held out."""

import re
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from lumina_jax.data.scenes.captions import Look as CaptionLook
from lumina_jax.data.scenes.captions import caption, held_out_text, listed, noun
from lumina_jax.data.scenes.scene import (
    COLOURS,
    KINDS,
    RESERVED_COLOURS,
    RESERVED_SHAPES,
    SHAPES,
    SIZES,
    held_out,
    sample_scene,
)

CANVASES = [(128, 128), (160, 96), (96, 160), (96, 128)]
NUM_CAPTIONS = 20_000
NUMBER = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4}
PLACE = r"(?:(?:to|on) the )?(?P<side>left|right) of|(?P<over>above|over)|(?P<under>below|under)"
RELATED = re.compile(rf"(?P<first>.+?) (?:{PLACE}) (?P<second>.+)")
PLACED = re.compile(
    r"(?P<first>.+) (?:on|at) the (?P<one>left|right|top|bottom) "
    r"and (?P<second>.+) (?:on|at) the (?P<two>left|right|top|bottom)"
)
GROUND = re.compile(r" (?:on an? (\w+) background|on (slate|sand|moss|clay)|in (fog)|at (night))$")
TOWARDS = {
    "left": lambda a, b: a.x < b.x,
    "right": lambda a, b: a.x > b.x,
    "above": lambda a, b: a.y < b.y,
    "below": lambda a, b: a.y > b.y,
}


def parse_noun(phrase):
    """ "two small red domes" -> (2, "small", "red", "dome", pose words)."""
    phrase, _, pose = phrase.partition(" with ")
    words = phrase.split()
    count = NUMBER[words.pop(0)]
    size = words.pop(0) if words[0] in SIZES else None
    colour = words.pop(0) if words[0] in COLOURS else None
    (name,) = words
    shape = next(s for s in SHAPES if name in (s, s + "s", s + "es"))
    assert (name == shape) == (count == 1)
    return count, size, colour, shape, pose


def parse(text):
    """A caption as (nouns, relation between the first two or None, background or None)."""
    body = re.sub(r"^a (photo|picture) of ", "", text)
    ground = GROUND.search(body)
    body = GROUND.sub("", body)
    placed, related = PLACED.fullmatch(body), RELATED.fullmatch(body)
    if placed:
        where = {"top": "above", "bottom": "below"}.get(placed["one"], placed["one"])
        phrases = [placed["first"], placed["second"]]
    elif related:
        where = related["side"] or ("above" if related["over"] else "below")
        phrases = [related["first"], related["second"]]
    else:
        where, phrases = None, re.split(r", | and ", body)
    background = next(filter(None, ground.groups())) if ground else None
    return [parse_noun(phrase) for phrase in phrases], where, background


def fits(thing, size, colour, shape):
    """Whether an object is what a noun names."""
    return thing.shape == shape and colour in (None, thing.colour) and size in (None, thing.size)


def is_true(text, scene):
    """Whether every statement of a caption holds, and no object is left out."""
    nouns, where, background = parse(text)
    if background not in (None, scene.background):
        return False
    if sum(count for count, *_ in nouns) != len(scene.objects):
        return False
    for count, size, colour, shape, pose in nouns:
        found = [thing for thing in scene.objects if fits(thing, size, colour, shape)]
        if len(found) != count:
            return False
        for part in filter(None, [pose]):
            left, right, legs = found[0].pose
            told = part.split()
            state = [left, right] if told[0] == "arms" else [legs]
            if any(told[1] != one for one in state):
                return False
    if where is not None:
        first, second = (next(o for o in scene.objects if fits(o, *named[1:4])) for named in nouns)
        along = abs(first.x - second.x) >= abs(first.y - second.y)
        return TOWARDS[where](first, second) and along == (where in ("left", "right"))
    return True


@pytest.fixture(scope="module")
def told():
    rng = np.random.default_rng(11)
    scenes = [sample_scene(rng, *CANVASES[i % len(CANVASES)]) for i in range(NUM_CAPTIONS // 4)]
    return [(scene, caption(scene, rng)) for scene in scenes for _ in range(4)]


def test_captions_are_true(told):
    assert [(text, scene) for scene, text in told if not is_true(text, scene)] == []


def test_captions_of_another_scene_are_mostly_false(told):
    shifted = [is_true(text, told[i - 4][0]) for i, (_, text) in enumerate(told[:2000])]
    assert np.mean(shifted) < 0.05


def test_captions_never_pair_held_out_looks(told):
    pairs = set()
    for _, text in told:
        looks = [(colour, shape) for _, _, colour, shape, _ in parse(text)[0] if colour]
        pairs |= {frozenset(pair) for pair in combinations(looks, 2)}
    assert len(pairs) > 800  # of 1128, so the test can see a leak
    assert [pair for pair in pairs if held_out(*pair)] == []


def test_captions_never_name_what_is_reserved(told):
    words = {word for _, text in told for word in re.findall(r"\w+", text)}
    names = {*RESERVED_SHAPES, *RESERVED_COLOURS, *(f"{name}s" for name in RESERVED_SHAPES)}
    assert words & {*names, "arches"} == set()


def test_at_least_a_tenth_of_the_two_object_combinations_is_held_out():
    looks = [
        (c, s)
        for c in COLOURS
        for s in SHAPES
        if c not in RESERVED_COLOURS and s not in RESERVED_SHAPES
    ]
    share = np.mean([held_out(*pair) for pair in combinations(looks, 2)])
    assert 0.10 <= share <= 0.15


def test_captions_are_no_held_out_sentences(told):
    assert [text for _, text in told if held_out_text(text)] == []


def test_an_eighth_of_sentences_is_held_out():
    texts = [f"a photo of {n} domes" for n in range(4000)]
    shares = Counter(held_out_text(text) for text in texts)
    assert shares["eval"] / 4000 == pytest.approx(1 / 16, abs=0.02)
    assert shares["choose"] / 4000 == pytest.approx(1 / 16, abs=0.02)


def test_captions_of_two_objects_keep_the_shares_of_their_plans(told):
    two = [parse(text) for scene, text in told if scene.kind == "two"]
    position = np.mean([where is not None for _, where, _ in two])
    pairs = np.mean([where is None and nouns[0][2] is not None for nouns, where, _ in two])
    assert position == pytest.approx(0.45, abs=0.03)
    assert pairs == pytest.approx(0.40, abs=0.03)


def test_captions_mention_two_objects_in_either_order(told):
    firsts = [
        fits(scene.objects[0], *parse(text)[0][0][1:4])
        for scene, text in told
        if scene.kind == "two"
    ]
    assert 0.4 < np.mean(firsts) < 0.6


def test_captions_are_short_and_varied(told):
    lengths = [len(text.split()) for _, text in told]
    assert np.mean(lengths) < 10 and np.quantile(lengths, 0.95) <= 16
    assert len({text for _, text in told}) > NUM_CAPTIONS / 3


def test_caption_is_a_function_of_scene_and_seed():
    scene = sample_scene(np.random.default_rng(3), 128, 128, kind="two")
    first, again = (caption(scene, np.random.default_rng(5)) for _ in range(2))
    assert first == again


@pytest.mark.parametrize("kind", KINDS)
def test_captions_cover_every_composition(told, kind):
    assert any(scene.kind == kind for scene, _ in told)


@pytest.mark.parametrize(
    "look, count, article, phrase",
    [
        (CaptionLook("arch"), 1, None, "an arch"),
        (CaptionLook("dome", "orange"), 1, None, "an orange dome"),
        (CaptionLook("cross", "red", "small"), 3, None, "three small red crosses"),
        (CaptionLook("ring", None, "medium"), 1, "the", "the ring"),
    ],
)
def test_noun_equals_the_phrase(look, count, article, phrase):
    assert noun(look, count, article) == phrase


@pytest.mark.parametrize("count, text", [(1, "a"), (2, "a and b"), (4, "a, b, c and d")])
def test_listed_joins(count, text):
    assert listed(list("abcd"[:count])) == text
