"""Questions about a scene with their true answers: counting, colour, existence, position, comparison, background."""

from collections import Counter
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from lumina_jax.data.scenes.captions import NUMBERS, RELATION_WORDING, Look, noun, plural
from lumina_jax.data.scenes.scene import (
    BACKGROUNDS,
    COLOURS,
    RESERVED_COLOURS,
    RESERVED_SHAPES,
    SHAPES,
    SIZES,
    Scene,
    SceneObject,
    relation,
)

OPPOSITES = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


@dataclass(frozen=True)
class Question:
    """A question, its answer, and what it asks for."""

    kind: str  # a key of QUESTION_KINDS
    question: str
    answer: str


def questions(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """One question of every kind that the scene can answer without doubt, in the order of `QUESTION_KINDS`.

    Yes and no are equally likely wherever both can be asked. Reserved shapes and colours are asked about only in
    scenes that hold one.
    """
    asked = []
    for kind, ask in QUESTION_KINDS.items():
        question = ask(scene, rng)
        if question is not None:
            asked.append(Question(kind, *question))
    return asked


Asked = tuple[str, str] | None


def _counting(scene: Scene, rng: np.random.Generator) -> Asked:
    """How many objects of a shape, of a colour, or at all; now and then of one that is absent."""
    shapes, colours = _known(scene)
    about = str(rng.choice(["shape", "colour", "all"]))
    if about == "all":
        return "How many objects are there?", NUMBERS[len(scene.objects)]
    if about == "shape":
        shape = _present_or_any(rng, [o.shape for o in scene.objects], shapes)
        return f"How many {plural(shape)} are there?", NUMBERS[
            Counter(o.shape for o in scene.objects)[shape]
        ]
    colour = _present_or_any(rng, [o.colour for o in scene.objects], colours)
    return f"How many {colour} objects are there?", NUMBERS[
        Counter(o.colour for o in scene.objects)[colour]
    ]


def _colour(scene: Scene, rng: np.random.Generator) -> Asked:
    """The colour of the only object of its shape."""
    only = _unique(scene, "shape")
    if not only:
        return None
    thing = only[int(rng.integers(len(only)))]
    return f"What colour is the {thing.shape}?", thing.colour


def _shape(scene: Scene, rng: np.random.Generator) -> Asked:
    """The shape of the only object of its colour."""
    only = _unique(scene, "colour")
    if not only:
        return None
    thing = only[int(rng.integers(len(only)))]
    return f"What shape is the {thing.colour} object?", thing.shape


def _existence(scene: Scene, rng: np.random.Generator) -> Asked:
    """Whether an object of a colour and shape is there: yes half of the time."""
    shapes, colours = _known(scene)
    there = {(o.colour, o.shape) for o in scene.objects}
    if rng.random() < 0.5:
        wanted = sorted(there)[int(rng.integers(len(there)))]
        return f"Is there {noun(Look(wanted[1], wanted[0]))}?", "yes"
    while True:
        colour, shape = _pick(rng, colours), _pick(rng, shapes)
        if (colour, shape) not in there:
            return f"Is there {noun(Look(shape, colour))}?", "no"


def _position(scene: Scene, rng: np.random.Generator) -> Asked:
    """Where one object lies as seen from another: by name, or as yes and no."""
    pairs = [
        (a, b)
        for pair in combinations(_unique_looks(scene), 2)
        for a, b in (pair, pair[::-1])
        if relation(a, b) is not None
    ]
    if not pairs:
        return None
    first, second = pairs[int(rng.integers(len(pairs)))]
    names = [noun(Look(o.shape, o.colour), article="the") for o in (first, second)]
    where = str(relation(first, second))
    if rng.random() < 0.5:
        return f"Where is {names[0]} as seen from {names[1]}?", RELATION_WORDING[where][
            0
        ].removeprefix("to the ")
    answer = "yes" if rng.random() < 0.5 else "no"
    told = where if answer == "yes" else OPPOSITES[where]
    return f"Is {names[0]} {RELATION_WORDING[told][0]} {names[1]}?", answer


def _comparison(scene: Scene, rng: np.random.Generator) -> Asked:
    """Which of two objects is larger, or whether one of two shapes is more numerous."""
    pairs = [pair for pair in combinations(_unique_looks(scene), 2) if pair[0].size != pair[1].size]
    if not pairs:
        return None
    pair = pairs[int(rng.integers(len(pairs)))]
    first, second = pair if rng.random() < 0.5 else pair[::-1]
    names = [noun(Look(o.shape, o.colour), article="the") for o in (first, second)]
    larger = SIZES[first.size] > SIZES[second.size]
    if rng.random() < 0.5:
        return f"Which is larger, {names[0]} or {names[1]}?", names[0 if larger else 1]
    return f"Is {names[0]} larger than {names[1]}?", "yes" if larger else "no"


def _background(scene: Scene, rng: np.random.Generator) -> Asked:
    """What the background is: by name, or as yes and no."""
    if rng.random() < 0.5:
        return "What is the background?", scene.background
    if rng.random() < 0.5:
        return f"Is the background {scene.background}?", "yes"
    return (
        f"Is the background {_pick(rng, [b for b in BACKGROUNDS if b != scene.background])}?",
        "no",
    )


QUESTION_KINDS = {
    "counting": _counting,
    "colour": _colour,
    "shape": _shape,
    "existence": _existence,
    "position": _position,
    "comparison": _comparison,
    "background": _background,
}


def _known(scene: Scene) -> tuple[list[str], list[str]]:
    """The shapes and colours that may be asked about: reserved ones only where the scene holds one."""
    shapes = {s for s in SHAPES if s not in RESERVED_SHAPES} | {o.shape for o in scene.objects}
    colours = {c for c in COLOURS if c not in RESERVED_COLOURS} | {o.colour for o in scene.objects}
    return sorted(shapes), sorted(colours)


def _pick(rng: np.random.Generator, options: list[str]) -> str:
    """One of `options`, uniformly."""
    return options[int(rng.integers(len(options)))]


def _present_or_any(rng: np.random.Generator, present: list[str], known: list[str]) -> str:
    """A name that occurs in the scene, three times out of four at least."""
    return _pick(rng, sorted(set(present)) if rng.random() < 0.75 else known)


def _unique(scene: Scene, attribute: str) -> list[SceneObject]:
    """The objects whose `attribute` no other object shares."""
    counts = Counter(getattr(o, attribute) for o in scene.objects)
    return [o for o in scene.objects if counts[getattr(o, attribute)] == 1]


def _unique_looks(scene: Scene) -> list[SceneObject]:
    """The objects that colour and shape single out."""
    counts = Counter((o.colour, o.shape) for o in scene.objects)
    return [o for o in scene.objects if counts[o.colour, o.shape] == 1]
