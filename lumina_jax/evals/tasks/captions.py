"""Descriptions: a parser of the captions' grammar, and what of a sentence is true of a scene.

The grammar is that of `data.scenes.captions.caption`: an opening, what is there, and perhaps the background. What is
there is a list of phrases ("two small red domes", "a figure with arms up"), or two of them in a relation.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from lumina_jax.data.scenes.captions import (
    ARM_WORDING,
    BACKGROUND_WORDING,
    NUMBERS,
    OPENINGS,
    PLACES,
    RELATION_WORDING,
    plural,
)
from lumina_jax.data.scenes.scene import (
    COLOURS,
    LEGS,
    SHAPES,
    SIZES,
    Scene,
    SceneObject,
    relation,
)
from lumina_jax.evals.intervals import mean, ratio, share
from lumina_jax.evals.tasks.common import Summary, Truth, pairs


class Mention(NamedTuple):
    """Equal objects that a phrase names; None is left unsaid."""

    shape: str
    colour: str | None = None
    size: str | None = None
    count: int = 1
    arms: str | None = None  # of both
    legs: str | None = None


class Said(NamedTuple):
    """What a caption says. `where`: how the first mention lies to the second, one of scene.RELATIONS."""

    mentions: tuple[Mention, ...]
    where: str | None = None
    in_halves: bool = (
        False  # whether the two are also said to lie in opposite halves of the picture
    )
    background: str | None = None

    @property
    def single(self) -> list[Mention]:
        """One mention for every object: "two domes" are two."""
        return [each for each in self.mentions for _ in range(each.count)]


class CaptionScore(NamedTuple):
    """`score`: the harmonic mean of precision and recall. Sentences that cannot be read score 0."""

    score: float
    precision: float  # share of the mentioned objects that are there, each a different one, with all that is said
    recall: float  # share of the scene's objects that are mentioned so
    relation: bool | None  # whether what is said of places is true; None where nothing is said
    background: bool | None  # the same of the background
    parsed: bool
    with_colour: float = 0.0  # `score` where an object told without its colour is not found
    mentioned: int = 0  # objects
    colours: int = 0  # of those, told with a colour

    @property
    def all_right(self) -> bool:
        """Whether all objects are told and nothing that is said is wrong."""
        return self.score == 1 and self.relation is not False and self.background is not False


def score_caption(truth: Truth, answer: str) -> CaptionScore:
    """Objects by the best pairing of mentions and the scene's; relation and background beside it."""
    said = parse(answer)
    if said is None:
        return CaptionScore(0.0, 0.0, 0.0, None, None, False)
    objects, mentions = truth.scene.objects, said.single
    fits = [[is_true(each, thing) for thing in objects] for each in mentions]
    coloured = [each.colour is not None for each in mentions]
    fits_with_colour = [
        [named and f for f in row] for named, row in zip(coloured, fits, strict=True)
    ]
    right, right_with_colour = len(pairs(fits)), len(pairs(fits_with_colour))
    count = len(mentions) + len(objects)  # F1, the harmonic mean, is 2 right / count
    precision, recall = right / len(mentions), right / len(objects)
    where = None if said.where is None else _is_related(said, truth.scene)
    ground = None if said.background is None else said.background == truth.scene.background
    f1, with_colour = 2 * right / count, 2 * right_with_colour / count
    of_colours = with_colour, len(mentions), sum(coloured)
    return CaptionScore(f1, precision, recall, where, ground, True, *of_colours)


def summarise_captions(results: Sequence[CaptionScore]) -> Summary:
    """Means over sentences; relations and backgrounds over those that name one."""
    related = [each.relation for each in results if each.relation is not None]
    grounds = [each.background for each in results if each.background is not None]
    return {
        "metric": "F1 of objects",
        **mean([each.score for each in results]),
        "higher_is_better": True,
        "precision": mean([each.precision for each in results]),
        "recall": mean([each.recall for each in results]),
        "with_colour": mean([each.with_colour for each in results]),
        "colours_named": ratio([r.colours for r in results], [r.mentioned for r in results]),
        "relation": share(related) if related else None,
        "background": share(grounds) if grounds else None,
        "all_right": share([each.all_right for each in results]),
        "unreadable": sum(not each.parsed for each in results),
    }


def parse(text: str) -> Said | None:
    """What a caption says, or None where the grammar has no such sentence; case and a final stop do not count.

    >>> parse("A photo of two red domes at night.")
    Said(mentions=(Mention(shape='dome', colour='red', size=None, count=2, arms=None, legs=None),), where=None, \
in_halves=False, background='night')
    """
    body = " ".join(text.lower().split()).removesuffix(".").rstrip()
    for opening in OPENINGS:
        if opening and body.startswith(opening):
            body = body.removeprefix(opening)
            break
    background = None
    for name, wordings in BACKGROUND_WORDING.items():
        for wording in wordings:
            if body.endswith(f" {wording}"):
                background, body = name, body.removesuffix(f" {wording}")
    said = _placed(body) or _related(body) or _list(body)
    return None if said is None else said._replace(background=background)


def is_true(mention: Mention, thing: SceneObject) -> bool:
    """Whether all that a mention says holds of an object."""
    left, right, legs = thing.pose or (None, None, None)
    return (
        mention.shape == thing.shape
        and mention.colour in (None, thing.colour)
        and mention.size in (None, thing.size)
        and (mention.arms is None or mention.arms == left == right)
        and mention.legs in (None, legs)
    )


def _names(options: Sequence[str]) -> str:
    return "|".join(options)


_PHRASE = re.compile(
    rf"(?P<number>an?|{_names(NUMBERS[1:])})(?: (?P<size>{_names(tuple(SIZES))}))?"
    rf"(?: (?P<colour>{_names(COLOURS)}))?"
    rf" (?:(?P<one>{_names(SHAPES)})|(?P<many>{_names([plural(shape) for shape in SHAPES])}))"
    rf"(?: with (?:(?P<arms>{_names(tuple(ARM_WORDING.values()))})|legs (?P<legs>{_names(LEGS)})))?"
)
_PLURALS = {plural(shape): shape for shape in SHAPES}
_ARMS = {wording: name for name, wording in ARM_WORDING.items()}


def _mention(text: str) -> Mention | None:
    """One phrase; a number and its noun must agree, and only a figure has arms and legs."""
    found = _PHRASE.fullmatch(text)
    if found is None:
        return None
    count = NUMBERS.index(found["number"]) if found["number"] in NUMBERS else 1
    if (count == 1) != (found["one"] is not None):
        return None
    shape = found["one"] or _PLURALS[found["many"]]
    posed = found["arms"] or found["legs"]
    if posed and shape != "figure":
        return None
    arms = _ARMS[found["arms"]] if found["arms"] else None
    return Mention(shape, found["colour"], found["size"], count, arms, found["legs"])


def _list(body: str) -> Said | None:
    """ "a dome", "a dome and two rings", "a dome, a ring and a slab"."""
    *first, last = body.split(" and ")
    if len(first) > 1:
        return None
    found = [_mention(part) for part in (*(first[0].split(", ") if first else ()), last)]
    mentions = tuple(each for each in found if each is not None)
    return Said(mentions) if len(mentions) == len(found) else None


def _related(body: str) -> Said | None:
    """ "a dome to the left of a ring"."""
    wordings = [(wording, name) for name, some in RELATION_WORDING.items() for wording in some]
    for wording, name in sorted(wordings, key=lambda pair: -len(pair[0])):
        parts = body.split(f" {wording} ")
        if len(parts) == 2:
            return _pair(parts, name, in_halves=False)
    return None


def _placed(body: str) -> Said | None:
    """ "a dome on the left and a ring on the right"."""
    parts = body.split(" and ")
    for name, (first, second) in PLACES.items():
        ends = (f" {first}", f" {second}")
        if len(parts) == 2 and parts[0].endswith(ends[0]) and parts[1].endswith(ends[1]):
            return _pair([p.removesuffix(e) for p, e in zip(parts, ends, strict=True)], name, True)
    return None


def _pair(parts: Sequence[str], where: str, in_halves: bool) -> Said | None:
    """Two phrases of one object each in a relation."""
    first, second = (_mention(part) for part in parts)
    if first is None or second is None or first.count != 1 or second.count != 1:
        return None
    return Said((first, second), where, in_halves)


def _is_related(said: Said, scene: Scene) -> bool:
    """Whether two objects that fit the mentions lie as is said."""
    first, second = said.mentions
    axis = "x" if said.where in ("left of", "right of") else "y"
    return any(
        is_true(first, a)
        and is_true(second, b)
        and a is not b
        and relation(a, b) == said.where
        and not (said.in_halves and getattr(a, axis) * getattr(b, axis) >= 0)
        for a in scene.objects
        for b in scene.objects
    )
