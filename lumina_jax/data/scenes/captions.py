"""True sentences about a scene, in short and varied wording, and the phrases they are built from.

`evals.prompts` builds its prompts from the same phrases. One sentence in eight, by its checksum, is never used as
a caption: from those sentences, unseen in training, the evaluation's prompts are drawn.
"""

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from lumina_jax.data.scenes.scene import Scene, SceneObject, relation

Name = TypeVar("Name")

NUMBERS = ("no", "one", "two", "three", "four")
IRREGULAR_PLURALS = {"cross": "crosses", "arch": "arches"}
OPENINGS = {
    "": 0.4,
    "a photo of ": 0.45,
    "a picture of ": 0.15,
}  # how a caption begins, and how often
BACKGROUND_SHARE = 0.4  # of captions that name the background
BACKGROUND_WORDING = {
    "slate": ("on slate", "on a slate background"),
    "sand": ("on sand", "on a sand background"),
    "fog": ("in fog", "on a fog background"),
    "night": ("at night", "on a night background"),
    "moss": ("on moss", "on a moss background"),
    "clay": ("on clay", "on a clay background"),
}
RELATION_WORDING = {
    "left of": ("to the left of", "left of", "on the left of"),
    "right of": ("to the right of", "right of", "on the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
PLACES = {  # a relation told by two places: "a dome on the left and a ring on the right"
    "left of": ("on the left", "on the right"),
    "right of": ("on the right", "on the left"),
    "above": ("at the top", "at the bottom"),
    "below": ("at the bottom", "at the top"),
}
PLACES_SHARE = 0.2  # of positional captions, where the two lie in opposite halves of the image
TWO_PLANS = {
    "position": 0.45,
    "attributes": 0.40,
    "shapes": 0.15,
}  # what a caption of two objects tells
POSITION_COLOURS_SHARE = 0.6  # of positional captions that name the colours
SINGLE_DETAILS: dict[tuple[str, ...], float] = {
    (): 0.3,
    ("colour",): 0.42,
    ("size",): 0.1,
    ("size", "colour"): 0.18,
}
COUNT_DETAILS: dict[tuple[str, ...], float] = {(): 0.45, ("colour",): 0.45, ("size", "colour"): 0.1}
MIXED_COLOURS_SHARE = 0.85
SIZES_SHARE = 0.12  # of captions of two coloured objects that also name their sizes
POSE_SHARE = 0.25  # of captions of a single figure that tell its pose
ARM_WORDING = {"down": "arms down", "out": "arms out", "up": "arms up"}
HELD_OUT_TEXTS = (
    16  # one sentence in 16 is kept for the evaluation, and one in 16 for choosing its settings
)


@dataclass(frozen=True)
class Look:
    """What a phrase names of an object; None is left unsaid."""

    shape: str
    colour: str | None = None
    size: str | None = None  # "medium" is never said


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A true sentence about `scene`: every statement holds, and it is no held-out sentence.

    Two objects are told by position, by colours or by shape alone, in random order; a relation only where
    `scene.relation` sees a clear one. The background is named in some of the captions, never wrongly.
    """
    bodies = {"single": _single, "two": _two, "count": _count, "mixed": _mixed}
    while True:
        body = bodies[scene.kind](scene.objects, rng)
        wording = None
        if rng.random() < BACKGROUND_SHARE:
            wording = _choice(rng, BACKGROUND_WORDING[scene.background])
        text = sentence(body, draw(rng, OPENINGS), wording)
        if held_out_text(text) is None:
            return text


def held_out_text(text: str) -> str | None:
    """What a sentence is kept out of training for, "eval" or "choose"; None for all others."""
    return {0: "eval", 1: "choose"}.get(zlib.crc32(text.encode()) % HELD_OUT_TEXTS)


def sentence(body: str, opening: str = "", background_wording: str | None = None) -> str:
    """The whole caption: ("a dome", "a photo of ", "on sand") -> "a photo of a dome on sand"."""
    return opening + body + (f" {background_wording}" if background_wording else "")


def noun(look: Look, count: int = 1, article: str | None = None) -> str:
    """The phrase for `count` objects: "an orange dome", "a large red ring", "three crosses".

    `article` replaces "a", "an" or the number ("" leaves it out).
    """
    words = [look.size if look.size != "medium" else None, look.colour]
    words.append(look.shape if count == 1 else plural(look.shape))
    phrase = " ".join(word for word in words if word)
    if article is None:
        article = NUMBERS[count] if count != 1 else "an" if phrase[0] in "aeiou" else "a"
    return f"{article} {phrase}".strip()


def plural(shape: str) -> str:
    """The plural of a shape's name: "dome" -> "domes", "cross" -> "crosses"."""
    return IRREGULAR_PLURALS.get(shape, shape + "s")


def listed(phrases: Sequence[str]) -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    return " and ".join([", ".join(phrases[:-1]), phrases[-1]] if len(phrases) > 1 else phrases)


def draw(rng: np.random.Generator, shares: Mapping[Name, float]) -> Name:
    """One key of `shares`, drawn with its share as probability."""
    names = list(shares)
    return names[int(rng.choice(len(names), p=list(shares.values())))]


def _choice(rng: np.random.Generator, options: Sequence[Name]) -> Name:
    """One of `options`, uniformly."""
    return options[int(rng.integers(len(options)))]


def _look(thing: SceneObject, details: Sequence[str]) -> Look:
    """The named `details` ("colour", "size") of an object."""
    return Look(
        thing.shape,
        thing.colour if "colour" in details else None,
        thing.size if "size" in details else None,
    )


def _single(objects: tuple[SceneObject, ...], rng: np.random.Generator) -> str:
    """One object: "a dome", "one ring", "a large red dome", "a figure with arms up"."""
    look = _look(objects[0], draw(rng, SINGLE_DETAILS))
    phrase = noun(look, article="one" if rng.random() < 0.06 else None)
    if objects[0].pose and rng.random() < POSE_SHARE:
        left, right, legs = objects[0].pose
        told = [ARM_WORDING[left]] if left == right and rng.random() < 0.7 else [f"legs {legs}"]
        phrase += f" with {told[0]}"
    return phrase


def _count(objects: tuple[SceneObject, ...], rng: np.random.Generator) -> str:
    """Equal objects: "three domes", "two small green rings"."""
    return noun(_look(objects[0], draw(rng, COUNT_DETAILS)), len(objects))


def _two(objects: tuple[SceneObject, ...], rng: np.random.Generator) -> str:
    """Two different objects, told by position, colours or shape alone."""
    first, second = objects if rng.random() < 0.5 else objects[::-1]
    plan, where = draw(rng, TWO_PLANS), relation(first, second)
    same = first.shape == second.shape
    if plan == "position" and where is not None:
        details = ["colour"] if same or rng.random() < POSITION_COLOURS_SHARE else []
        names = [noun(_look(thing, details)) for thing in (first, second)]
        if rng.random() < PLACES_SHARE and _apart(first, second, where):
            return f"{names[0]} {PLACES[where][0]} and {names[1]} {PLACES[where][1]}"
        return f"{names[0]} {_choice(rng, RELATION_WORDING[where])} {names[1]}"
    if plan == "shapes":
        return (
            noun(Look(first.shape), 2)
            if same
            else listed([noun(Look(o.shape)) for o in (first, second)])
        )
    details = ["colour", "size"] if rng.random() < SIZES_SHARE else ["colour"]
    return listed([noun(_look(thing, details)) for thing in (first, second)])


def _apart(first: SceneObject, second: SceneObject, where: str) -> bool:
    """Whether the two lie in opposite halves of the image, along the axis of their relation."""
    if where in ("left of", "right of"):
        return first.x * second.x < 0
    return first.y * second.y < 0


def _mixed(objects: tuple[SceneObject, ...], rng: np.random.Generator) -> str:
    """Three or four objects: "a red dome, a blue ring and a green slab", or "two domes and a ring"."""
    order = [objects[i] for i in rng.permutation(len(objects))]
    if rng.random() < MIXED_COLOURS_SHARE:
        return listed([noun(_look(thing, ["colour"])) for thing in order])
    counts = Counter(thing.shape for thing in order)
    return listed([noun(Look(shape), count) for shape, count in counts.items()])
