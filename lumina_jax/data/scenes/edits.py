"""Edit instructions: what to change in a scene, in words, and the scene after the change; the rest stays as it is."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import ceil, floor, hypot

import numpy as np

from lumina_jax.data.scenes.captions import Look, noun
from lumina_jax.data.scenes.scene import (
    ARMS,
    BACKGROUNDS,
    COLOURS,
    GAP,
    GRID_PX,
    LEGS,
    MARGIN_PX,
    RELATIONS,
    RESERVED_COLOURS,
    RESERVED_SHAPES,
    SHAPES,
    Scene,
    SceneObject,
    held_out,
    radii,
)

MAX_OBJECTS = 4
PLACE_WORDING = {
    "left of": "to the left",
    "right of": "to the right",
    "above": "up",
    "below": "down",
}
LEAST_MOVE = 0.15  # scene units: a move that is plainly seen


@dataclass(frozen=True)
class Edit:
    """An instruction and its result. `kind` is a key of EDIT_KINDS."""

    kind: str
    instruction: str
    scene: Scene


def edits(scene: Scene, rng: np.random.Generator, side_px: float = 128.0) -> list[Edit]:
    """One edit of every kind that the scene allows, in the order of `EDIT_KINDS`.

    The instruction names an object that colour and shape single out. The result keeps the sampler's promises:
    clear of edges and other objects, centres on the grid of a canvas of area `side_px`², no reserved name and no
    held-out pair that the scene does not hold already.
    """
    found = []
    for kind, change in EDIT_KINDS.items():
        result = change(scene, rng, side_px)
        if result is not None:
            found.append(Edit(kind, *result))
    return found


def compositions_kind(objects: Sequence[SceneObject]) -> str:
    """The key of `scene.KINDS` that objects make up: equal ones are a "count" whatever their number."""
    looks = {(o.colour, o.shape) for o in objects}
    if len(objects) == 1:
        return "single"
    if len(looks) == 1:
        return "count"
    return "two" if len(objects) == 2 else "mixed"


Change = tuple[str, Scene] | None


def _recolour(scene: Scene, rng: np.random.Generator, side_px: float) -> Change:
    """Another colour for one object: "Make the dome blue.", say."""
    for index, name in _named(scene, rng):
        thing = scene.objects[index]
        for colour in _shuffled(
            rng, [c for c in COLOURS if c not in RESERVED_COLOURS and c != thing.colour]
        ):
            changed = _with(scene, index, replace(thing, colour=colour))
            if changed is not None:
                wording = ("Make {0} {1}.", "Change the colour of {0} to {1}.", "Paint {0} {1}.")
                return _pick(rng, wording).format(name, colour), changed
    return None


def _reshape(scene: Scene, rng: np.random.Generator, side_px: float) -> Change:
    """Another shape for one object: "Turn the dome into a ring.", say."""
    for index, name in _named(scene, rng):
        thing = scene.objects[index]
        for shape in _shuffled(
            rng, [s for s in SHAPES if s not in RESERVED_SHAPES and s != thing.shape]
        ):
            changed = _with(scene, index, replace(thing, shape=shape, pose=_pose(rng, shape)))
            if changed is not None:
                wording = ("Turn {0} into {1}.", "Replace {0} by {1}.")
                return _pick(rng, wording).format(name, noun(Look(shape))), changed
    return None


def _move(scene: Scene, rng: np.random.Generator, side_px: float) -> Change:
    """One object elsewhere along one axis: "Move the dome to the left.", say."""
    for index, name in _named(scene, rng):
        thing = scene.objects[index]
        others = [o for i, o in enumerate(scene.objects) if i != index]
        for way in _shuffled(rng, RELATIONS):
            places = [
                (x, y)
                for x, y in _free_places(scene, thing.radius, others, side_px)
                if _is_move(way, x - thing.x, y - thing.y)
            ]
            if places:
                x, y = places[int(rng.integers(len(places)))]
                changed = _with(scene, index, replace(thing, x=x, y=y))
                if changed is not None:
                    return f"Move {name} {PLACE_WORDING[way]}.", changed
    return None


def _remove(scene: Scene, rng: np.random.Generator, side_px: float) -> Change:
    """One object less: "Remove the dome.", say."""
    if len(scene.objects) < 2:
        return None
    for index, name in _named(scene, rng):
        rest = scene.objects[:index] + scene.objects[index + 1 :]
        wording = ("Remove {0}.", "Take {0} away.", "Delete {0}.")
        return _pick(rng, wording).format(name), replace(
            scene, objects=rest, kind=compositions_kind(rest)
        )
    return None


def _add(scene: Scene, rng: np.random.Generator, side_px: float) -> Change:
    """One object more, of a new look: "Add a blue ring.", say."""
    if len(scene.objects) >= MAX_OBJECTS:
        return None
    shapes = [s for s in SHAPES if s not in RESERVED_SHAPES]
    colours = [c for c in COLOURS if c not in RESERVED_COLOURS]
    size = "small"  # what fits beside most others
    radius = radii(side_px)[size]
    places = _free_places(scene, radius, scene.objects, side_px)
    there = {(o.colour, o.shape) for o in scene.objects}
    for colour, shape in _shuffled(
        rng, [(c, s) for c in colours for s in shapes if (c, s) not in there]
    ):
        if places:
            x, y = places[int(rng.integers(len(places)))]
            thing = SceneObject(shape, colour, size, x, y, radius, _pose(rng, shape))
            changed = _with(scene, len(scene.objects), thing)
            if changed is not None:
                return f"{_pick(rng, ('Add', 'Put in'))} {noun(Look(shape, colour))}.", changed
    return None


def _change_background(scene: Scene, rng: np.random.Generator, side_px: float) -> Change:
    """Another background: "Change the background to sand.", say."""
    background = _pick(rng, [b for b in BACKGROUNDS if b != scene.background])
    wording = ("Change the background to {0}.", "Make the background {0}.")
    return _pick(rng, wording).format(background), replace(scene, background=background)


EDIT_KINDS = {
    "recolour": _recolour,
    "reshape": _reshape,
    "move": _move,
    "remove": _remove,
    "add": _add,
    "background": _change_background,
}


def _named(scene: Scene, rng: np.random.Generator) -> list[tuple[int, str]]:
    """Every object that can be singled out, in random order: its index, and "the dome" or "the red dome"."""
    shapes = Counter(o.shape for o in scene.objects)
    looks = Counter((o.colour, o.shape) for o in scene.objects)
    named = []
    for index, thing in enumerate(scene.objects):
        if looks[thing.colour, thing.shape] == 1:
            bare = shapes[thing.shape] == 1 and rng.random() < 0.5
            named.append(
                (index, noun(Look(thing.shape, None if bare else thing.colour), article="the"))
            )
    return _shuffled(rng, named)


def _with(scene: Scene, index: int, thing: SceneObject) -> Scene | None:
    """The scene with `thing` at `index`; None if looks would coincide or a new held-out pair would appear."""
    objects = (*scene.objects[:index], thing, *scene.objects[index + 1 :])
    others = [(o.colour, o.shape) for i, o in enumerate(objects) if i != index]
    if (thing.colour, thing.shape) in others or _held_out_pairs(objects) - _held_out_pairs(
        scene.objects
    ):
        return None
    return replace(scene, objects=objects, kind=compositions_kind(objects))


def _held_out_pairs(objects: Sequence[SceneObject]) -> set[frozenset[tuple[str, str]]]:
    """The held-out pairs among objects."""
    looks = [(o.colour, o.shape) for o in objects]
    return {frozenset(pair) for pair in combinations(looks, 2) if held_out(*pair)}


def _free_places(
    scene: Scene, radius: float, others: Sequence[SceneObject], side_px: float
) -> list[tuple[float, float]]:
    """Every grid point (scene units) where an object of `radius` lies inside the canvas and clear of `others`."""
    columns, rows = (_grid(length, radius, side_px) for length in (scene.width, scene.height))
    return [
        (x, y)
        for y in rows
        for x in columns
        if all(hypot(x - o.x, y - o.y) >= GAP * (radius + o.radius) for o in others)
    ]


def _grid(length: float, radius: float, side_px: float) -> list[float]:
    """Grid coordinates along an axis of `length` scene units that keep `radius` and the margin inside."""
    length_px, reach_px = round(length * side_px), radius * side_px + MARGIN_PX
    low, high = ceil(reach_px / GRID_PX), floor((length_px - reach_px) / GRID_PX)
    return [(step * GRID_PX - length_px / 2) / side_px for step in range(low, high + 1)]


def _is_move(way: str, dx: float, dy: float) -> bool:
    """Whether (dx, dy) is a plain move `way`, with nothing sideways."""
    along, across = (dx, dy) if way in ("left of", "right of") else (dy, dx)
    sign = -1 if way in ("left of", "above") else 1
    return abs(across) < 1e-6 and sign * along >= LEAST_MOVE


def _pose(rng: np.random.Generator, shape: str) -> tuple[str, str, str] | None:
    """A random pose for a figure."""
    return (_pick(rng, ARMS), _pick(rng, ARMS), _pick(rng, LEGS)) if shape == "figure" else None


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    """One of `options`, uniformly."""
    return options[int(rng.integers(len(options)))]


def _shuffled(rng: np.random.Generator, items: Sequence) -> list:
    """`items` in random order."""
    return [items[i] for i in rng.permutation(len(items))]
