"""Prompts in GenEval's six categories (arXiv 2310.11513), none of them ever a caption in training.

Every prompt is a sentence that `captions.held_out_text` keeps out of training, in GenEval's wording. Prompts of two
coloured objects name only held-out pairs of (colour, shape). Those that choose the guidance are another set.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Literal

import numpy as np

from lumina_jax.data.scenes.captions import (
    BACKGROUND_WORDING,
    OPENINGS,
    RELATION_WORDING,
    Look,
    held_out_text,
    listed,
    noun,
    sentence,
)
from lumina_jax.data.scenes.scene import (
    COLOURS,
    RELATIONS,
    RESERVED_COLOURS,
    RESERVED_SHAPES,
    SHAPES,
    held_out,
)
from lumina_jax.dims import pick

CATEGORIES = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
SIZES_PX = (
    (128, 128),
    (160, 96),
    (96, 160),
    (144, 112),
    (112, 144),
    (128, 96),
    (96, 128),
)  # (width, height); every prompt takes the next
COUNTS = (2, 3, 4)

_SHAPES = tuple(shape for shape in SHAPES if shape not in RESERVED_SHAPES)
_COLOURS = tuple(colour for colour in COLOURS if colour not in RESERVED_COLOURS)


@dataclass(frozen=True)
class Include:
    """What an image must hold: at least `count` objects of a shape, and of a colour unless it is None."""

    shape: str
    colour: str | None = None
    count: int = 1


@dataclass(frozen=True)
class Prompt:
    """A sentence, the size to paint it at, and what must then be seen."""

    category: str  # one of CATEGORIES
    text: str
    include: tuple[Include, ...]
    relation: tuple[int, str, int] | None = None  # include[a] lies, say, "left of" include[b]
    exact: bool = False  # counting: no more than asked
    background: str | None = None  # named in the text; reported, not scored, as in GenEval
    width_px: int = 128
    height_px: int = 128


def eval_prompts(
    per_category: int = 100,
    seed: int = 0,
    purpose: Literal["eval", "choose"] = "eval",
    reserved: tuple[str, ...] = (),
) -> list[Prompt]:
    """`per_category` prompts of each category, in the order of CATEGORIES: a pure function of its arguments.

    `purpose` is "eval" for the scores and "choose" for the choice of guidance: two disjoint sets of sentences. A
    sentence comes again only when its category has no other left, and then at another size. Every prompt names one of
    `reserved`, shapes that the shipped model was never shown (RESERVED_SHAPES); without them no prompt does.
    """
    for shape in reserved:
        pick(dict.fromkeys(RESERVED_SHAPES), shape, "reserved shape")
    prompts = []
    for index, category in enumerate(CATEGORIES):
        rng = np.random.default_rng((seed, index))
        pool = candidates(category, purpose, reserved)
        order = np.concatenate(
            [rng.permutation(len(pool)) for _ in range(-(-per_category // len(pool)))]
        )
        prompts += [pool[i] for i in order[:per_category]]
    return _sized(prompts)


@cache
def candidates(category: str, purpose: str, reserved: tuple[str, ...] = ()) -> tuple[Prompt, ...]:
    """Every prompt of a category whose sentence is held out for `purpose`, in a fixed order."""
    found = []
    for include, relation, body in _BODIES[category]((*_SHAPES, *reserved)):
        if reserved and not any(want.shape in reserved for want in include):
            continue
        for opening, background in product(OPENINGS, (None, *BACKGROUND_WORDING)):
            for wording in BACKGROUND_WORDING[background] if background else (None,):
                text = sentence(body, opening, wording)
                if held_out_text(text) == purpose:
                    exact = category == "counting"
                    found.append(Prompt(category, text, include, relation, exact, background))
    return tuple(found)


def _sized(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Every prompt at the next size in turn, or the first after it that its sentence has not had."""
    taken: set[tuple[str, tuple[int, int]]] = set()
    sized = []
    for index, prompt in enumerate(prompts):
        turns = [SIZES_PX[(index + step) % len(SIZES_PX)] for step in range(len(SIZES_PX))]
        size = next((size for size in turns if (prompt.text, size) not in taken), turns[0])
        taken.add((prompt.text, size))
        sized.append(replace(prompt, width_px=size[0], height_px=size[1]))
    return sized


Body = tuple[tuple[Include, ...], tuple[int, str, int] | None, str]


def _single_object(shapes: Sequence[str]) -> list[Body]:
    """Such as "a dome", "a large ring"."""
    return [
        ((Include(shape),), None, noun(Look(shape, size=size)))
        for shape, size in product(shapes, (None, "small", "large"))
    ]


def _two_object(shapes: Sequence[str]) -> list[Body]:
    """Such as "a dome and a ring"."""
    return [
        ((Include(a), Include(b)), None, listed([noun(Look(a)), noun(Look(b))]))
        for a, b in product(shapes, shapes)
        if a != b
    ]


def _counting(shapes: Sequence[str]) -> list[Body]:
    """Such as "three rings"."""
    return [
        ((Include(shape, None, count),), None, noun(Look(shape), count))
        for shape, count in product(shapes, COUNTS)
    ]


def _colors(shapes: Sequence[str]) -> list[Body]:
    """Such as "a red dome"."""
    return [
        ((Include(shape, colour),), None, noun(Look(shape, colour)))
        for shape, colour in product(shapes, _COLOURS)
    ]


def _position(shapes: Sequence[str]) -> list[Body]:
    """Such as "a dome to the left of a ring"."""
    return [
        ((Include(a), Include(b)), (0, where, 1), f"{noun(Look(a))} {wording} {noun(Look(b))}")
        for a, b, where in product(shapes, shapes, RELATIONS)
        if a != b
        for wording in RELATION_WORDING[where]
    ]


def _color_attr(shapes: Sequence[str]) -> list[Body]:
    """Such as "a red dome and a blue ring", held-out pairs alone."""
    looks = [Look(shape, colour) for shape, colour in product(shapes, _COLOURS)]
    return [
        (tuple(Include(o.shape, o.colour) for o in (a, b)), None, listed([noun(a), noun(b)]))
        for a, b in product(looks, looks)
        if a != b and held_out((str(a.colour), a.shape), (str(b.colour), b.shape))
    ]


_BODIES = {
    "single_object": _single_object,
    "two_object": _two_object,
    "counting": _counting,
    "colors": _colors,
    "position": _position,
    "color_attr": _color_attr,
}
