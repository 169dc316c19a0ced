"""A scene: one to four lit objects on a background, and the seeded sampler that composes them.

Scene units: the square root of the image's area is 1, the origin is the image's centre, y points down. One
description is drawn at any pixel size, and the mix of compositions is the same at every area.
"""

import zlib
from dataclasses import dataclass, replace
from math import hypot, sqrt

import numpy as np

from lumina_jax.dims import pick

SHAPES = ("dome", "slab", "pyramid", "ring", "cross", "figure", "gem", "arch")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "white")
BACKGROUNDS = ("slate", "sand", "fog", "night", "moss", "clay")
SIZES = {"small": 0.155, "medium": 0.195, "large": 0.23}  # radius in scene units, before `radii`
RADIUS_STEPS_PX = (4, 2, 1)  # the first at which a canvas' three sizes differ
RESERVED_SHAPES = (
    "gem",
    "arch",
)  # drawn for the VQGAN and named in the vocabulary, never shown to the transformer
RESERVED_COLOURS = ("white",)
KINDS = {"single": 0.16, "two": 0.50, "count": 0.22, "mixed": 0.12}  # share of each composition
RELATIONS = ("left of", "right of", "above", "below")
ARMS = ("down", "out", "up")
LEGS = ("together", "apart")
GRID_PX = 8  # centres lie on this grid of the canvas
MARGIN_PX = 2  # between an object and the image's edge
GAP = 0.9  # least distance of two centres, as a share of the sum of their radii: occlusion stays under 20 %
LEAST_SIDE_PX = 48  # of a canvas
ATTEMPTS = 500  # looks tried before a canvas is declared too small for a composition
HELD_OUT_SHARE = 8  # one two-object combination in 8 is never trained


@dataclass(frozen=True)
class SceneObject:
    """One object: a relief of `shape` whose silhouette lies within `radius` of (x, y), in scene units."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    pose: tuple[str, str, str] | None = None  # figure only: left arm, right arm (as seen), legs


@dataclass(frozen=True)
class Scene:
    """A whole picture; `objects` in painter's order (later ones are nearer)."""

    width: float
    height: float
    background: str
    objects: tuple[SceneObject, ...]
    kind: str  # a key of KINDS

    @property
    def has_figure(self) -> bool:
        """Whether a pose can be seen."""
        return any(thing.shape == "figure" for thing in self.objects)


def scene_size(width_px: int, height_px: int) -> tuple[float, float]:
    """Width and height in scene units: 128x128 -> (1, 1); 256x64 -> (2, 0.5)."""
    side_px = sqrt(width_px * height_px)
    return width_px / side_px, height_px / side_px


def radii(side_px: float) -> dict[str, float]:
    """Radius in scene units of every size on a canvas of area `side_px`²: SIZES, in whole steps of pixels.

    Few radii, shared between canvases, make few different patches: a codebook draws them better.

    >>> {name: round(128 * radius) for name, radius in radii(128).items()}
    {'small': 20, 'medium': 24, 'large': 28}
    """
    for step_px in RADIUS_STEPS_PX:
        in_steps = {name: round(radius * side_px / step_px) for name, radius in SIZES.items()}
        if len(set(in_steps.values())) == len(SIZES):
            break
    return {name: steps * step_px / side_px for name, steps in in_steps.items()}


def held_out(first: tuple[str, str], second: tuple[str, str]) -> bool:
    """Whether the unordered pair of (colour, shape) is kept out of training: one in `HELD_OUT_SHARE`.

    >>> held_out(("red", "dome"), ("blue", "ring")) == held_out(("blue", "ring"), ("red", "dome"))
    True
    """
    names = sorted((" ".join(first), " ".join(second)))
    return first != second and zlib.crc32(" and ".join(names).encode()) % HELD_OUT_SHARE == 0


def relation(first: SceneObject, second: SceneObject) -> str | None:
    """Where `first` lies as seen from `second` (one of RELATIONS), or None when no axis clearly dominates."""
    dx, dy = first.x - second.x, first.y - second.y
    if abs(dx) >= 1.5 * abs(dy):
        return "left of" if dx < 0 else "right of"
    if abs(dy) >= 1.5 * abs(dx):
        return "above" if dy < 0 else "below"
    return None


def sample_scene(
    rng: np.random.Generator,
    width_px: int,
    height_px: int,
    *,
    reserved: bool = False,
    kind: str | None = None,
    allow_held_out: bool = False,
) -> Scene:
    """A random scene for a canvas of `width_px` x `height_px`.

    The composition (`kind`) is drawn first and always kept, so every canvas sees the same mix. Without `reserved`
    no reserved shape or colour appears; without `allow_held_out` no held-out pair does, in any composition.
    Raises ValueError for an unknown kind and for a canvas too small for the composition.
    """
    if min(width_px, height_px) < LEAST_SIDE_PX:
        raise ValueError(
            f"canvas of {width_px}x{height_px} px: objects need sides of at least {LEAST_SIDE_PX} px, ask for more"
        )
    width, height = scene_size(width_px, height_px)
    kind = kind or str(rng.choice(list(KINDS), p=list(KINDS.values())))
    pick(KINDS, kind, "kind of scene")
    background = str(rng.choice(BACKGROUNDS))
    radius_of = radii(sqrt(width_px * height_px))
    for _ in range(ATTEMPTS):
        looks = _sample_looks(rng, kind, reserved, radius_of)
        if not allow_held_out and _has_held_out(looks):
            continue
        for _ in range(8):
            objects = _place(rng, looks, kind, width_px, height_px)
            if objects is not None:
                return Scene(width, height, background, objects, kind)
    raise ValueError(
        f"canvas of {width_px}x{height_px} px: no room for a scene of kind {kind!r}, ask for a larger or squarer one"
    )


def _has_held_out(looks: list[SceneObject]) -> bool:
    """Whether any two of the objects form a held-out pair."""
    pairs = [(a, b) for i, a in enumerate(looks) for b in looks[i + 1 :]]
    return any(held_out((a.colour, a.shape), (b.colour, b.shape)) for a, b in pairs)


def _sample_looks(
    rng: np.random.Generator, kind: str, reserved: bool, radius_of: dict[str, float]
) -> list[SceneObject]:
    """Objects of a composition, not yet placed; two of different looks never agree in both shape and colour."""
    shapes = [s for s in SHAPES if reserved or s not in RESERVED_SHAPES]
    colours = [c for c in COLOURS if reserved or c not in RESERVED_COLOURS]
    number = {
        "single": 1,
        "two": 2,
        "count": int(rng.integers(2, 5)),
        "mixed": int(rng.integers(3, 5)),
    }[kind]
    num_sizes = len(radius_of) if number <= 2 else 2 if number == 3 else 1
    sizes = dict(list(radius_of.items())[:num_sizes])
    first = _sample_look(rng, shapes, colours, sizes)
    if kind == "count":
        return [first] * number
    looks = [first]
    while len(looks) < number:
        look = _sample_look(rng, shapes, colours, sizes)
        if all((look.shape, look.colour) != (other.shape, other.colour) for other in looks):
            looks.append(look)
    return looks


def _sample_look(
    rng: np.random.Generator, shapes: list[str], colours: list[str], sizes: dict[str, float]
) -> SceneObject:
    """One object at the origin."""
    shape, colour, size = (str(rng.choice(names)) for names in (shapes, colours, list(sizes)))
    pose = None
    if shape == "figure":
        pose = (str(rng.choice(ARMS)), str(rng.choice(ARMS)), str(rng.choice(LEGS)))
    return SceneObject(shape, colour, size, 0.0, 0.0, sizes[size], pose)


def _place(
    rng: np.random.Generator, looks: list[SceneObject], kind: str, width_px: int, height_px: int
) -> tuple[SceneObject, ...] | None:
    """Put the objects on the grid, clear of each other; None when they do not fit this time.

    A scene of two shows a clear relation, drawn uniformly from those that fit the canvas.
    """
    side_px = sqrt(width_px * height_px)
    wanted = str(rng.choice(RELATIONS)) if kind == "two" else None
    for _ in range(40):
        placed: list[SceneObject] = []
        for look in looks:
            reach = look.radius * side_px + MARGIN_PX
            x_px = _grid_point(rng, reach, width_px)
            y_px = _grid_point(rng, reach, height_px)
            if x_px is None or y_px is None:
                return None
            here = replace(
                look, x=(x_px - width_px / 2) / side_px, y=(y_px - height_px / 2) / side_px
            )
            if any(
                hypot(here.x - o.x, here.y - o.y) < GAP * (here.radius + o.radius) for o in placed
            ):
                break
            placed.append(here)
        if len(placed) == len(looks) and (
            wanted is None or relation(placed[0], placed[1]) == wanted
        ):
            return tuple(placed)
    return None


def _grid_point(rng: np.random.Generator, reach_px: float, length_px: int) -> int | None:
    """A multiple of GRID_PX at least `reach_px` from both ends of `length_px`, or None."""
    low, high = -(-reach_px // GRID_PX), (length_px - reach_px) // GRID_PX
    return None if high < low else int(rng.integers(int(low), int(high) + 1)) * GRID_PX
