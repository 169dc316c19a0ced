"""Read a picture back into objects, with colour classes and silhouette templates and nothing learned.

The background is one of the known gradients; what differs from it is sorted by colour; every colour's area is
explained by silhouettes, the best first. An area that no silhouette explains well is reported as "unknown".
"""

from dataclasses import dataclass
from functools import cache
from itertools import product
from math import hypot
from typing import NamedTuple

import numpy as np
from scipy import fft, ndimage

from lumina_jax.data.scenes.colours import COLOURS, UNKNOWN, colour_labels, find_background, grown
from lumina_jax.data.scenes.scene import SIZES
from lumina_jax.data.scenes.templates import (
    Template,
    bank,
    coarse_factor,
    largest_window,
    shrink,
    spectra,
)
from lumina_jax.dims import UInt8, typed

LEAST_AREA = 0.45  # of an area worth reporting, in squared radii of the smallest size
MISS = 1.2  # cost of a template's px on the background; a px on the colour's area gains 1
RIM = 0.7  # cost of a px of the colour's area just outside of the template
REPEAT = 0.4  # cost of a template's px on an area that is explained already
MOST_OBJECTS = 12  # of one colour
LEAST_SCORE = 0.45  # of a template's score, per px of its area, to be tried at all
LEAST_AGREEMENT = 0.88  # see `DetectedObject.agreement`; below it the shape is unknown
LEAST_VISIBLE = 0.6  # share of a silhouette not hidden by other colours
CANDIDATES = 6  # at most so many coarse matches are compared at full resolution
CLEAR = 0.8  # coarse matches below this share of the best are not


class Placed(NamedTuple):
    """A template with its centre at the upper left corner of a pixel."""

    template: Template
    row: int
    column: int


@dataclass(frozen=True)
class DetectedObject:
    """One object read from a picture; `shape`, `colour` and `size` may be "unknown"."""

    shape: str
    colour: str
    size: str
    x_px: float
    y_px: float
    radius_px: float
    box: tuple[int, int, int, int]  # x0, y0, x1, y1 in px, the last two exclusive
    agreement: float  # 1 - wrong px near the silhouette / its visible px; the outline itself may be ragged by 1 px


@dataclass(frozen=True)
class Detection:
    """A picture's reading; without a known background there are no objects."""

    objects: tuple[DetectedObject, ...]
    background: str


@typed
def detect(image: UInt8[np.ndarray, "Y X 3"]) -> Detection:
    """The objects and the background of a picture."""
    planes = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)
    name, away = find_background(planes)
    if name == UNKNOWN:
        return Detection((), UNKNOWN)
    labels = colour_labels(planes, away)
    least_px = LEAST_AREA * (min(SIZES.values()) ** 2) * labels.size
    areas = np.bincount(labels.ravel() + 1, minlength=len(COLOURS) + 1)[1:]
    found: list[DetectedObject] = []
    for colour in np.flatnonzero(areas >= least_px):
        found += _read_colour(labels, int(colour), least_px)
    return Detection(tuple(found), name)


def _read_colour(labels: np.ndarray, colour: int, least_px: float) -> list[DetectedObject]:
    """Explain one colour's area by silhouettes, the best first; what is left over is unknown.

    Objects that touch may look like one larger object: an unclear reading is tried again with fewer sizes.
    """
    if COLOURS[colour] == UNKNOWN:
        return _leftovers(labels == colour, least_px, UNKNOWN)
    best: list[DetectedObject] = []
    for sizes in (tuple(SIZES), *((size,) for size in SIZES)):
        found = _explained(labels, colour, least_px, sizes)
        if all(item.shape != UNKNOWN for item in found):
            return found
        best = best or found
    return best


def _explained(
    labels: np.ndarray, colour: int, least_px: float, sizes: tuple[str, ...]
) -> list[DetectedObject]:
    """One colour's objects, from silhouettes of some sizes."""
    mask = labels == colour
    hidden = (labels >= 0) & ~mask
    left = mask.copy()
    placed: list[Placed] = []
    while left.sum() >= least_px and len(placed) < MOST_OBJECTS:
        best = _best_template(left, mask, hidden, sizes)
        if best is None:
            break
        placed.append(best)
        rows, columns, inner = _window(best, mask.shape)
        left[rows, columns] &= ~grown(best.template.mask[inner] >= 0.5, 1)
    found = [
        _judged(item, mask, hidden, placed[:index] + placed[index + 1 :], COLOURS[colour])
        for index, item in enumerate(placed)
    ]
    return found + _leftovers(left, least_px, COLOURS[colour])


def _best_template(
    left: np.ndarray, mask: np.ndarray, hidden: np.ndarray, sizes: tuple[str, ...]
) -> Placed | None:
    """The template and centre that explain most of `left`, or None when none explains enough."""
    explained = np.where(mask, -REPEAT, np.where(hidden, 0.0, -MISS))
    inside = np.where(left, 1.0, explained).astype(np.float32)
    around = left.astype(np.float32)
    candidates = _coarse_places(inside, around, sizes)
    if not candidates:
        return None
    refined = [_refine(placed, inside, around) for placed in candidates]
    score, placed = max(refined, key=lambda item: item[0])
    return placed if score >= LEAST_SCORE * placed.template.area else None


def _coarse_places(inside: np.ndarray, around: np.ndarray, sizes: tuple[str, ...]) -> list[Placed]:
    """The best place of each template that matches about as well as the best one, to a coarse cell."""
    factor, templates = coarse_factor(*inside.shape), bank(*inside.shape)
    window = largest_window(*inside.shape)
    spans = []
    for axis in (1, 0):
        filled = np.flatnonzero(around.any(axis=axis))
        low, high = int(filled[0]) - window // 4, int(filled[-1]) + window // 4
        halves = max(-(-(high - low) // (window // 2)), 2)  # few lengths, whose spectra stay cached
        spans.append((low, halves * window // (2 * factor)))
    (top, rows), (start, columns) = spans
    known = spectra(*inside.shape, rows, columns)
    area = (top, start, rows * factor, columns * factor)
    gain = np.asarray(fft.rfft2(shrink(_cut(inside, *area, -MISS), factor)))
    loss = np.asarray(fft.rfft2(shrink(_cut(around, *area, 0.0), factor))) * RIM
    scores = np.asarray(fft.irfft2(gain * known.masks - loss * known.rims, s=(rows, columns)))
    scores = scores.reshape(len(templates), -1)
    scores[[template.size not in sizes for template in templates]] = -np.inf
    best = scores.max(axis=1)
    order = [k for k in np.argsort(-best)[:CANDIDATES] if best[k] >= max(CLEAR * best.max(), 0)]
    cells = [divmod(int(scores[k].argmax()), columns) for k in order]
    return [
        Placed(templates[k], top + row * factor, start + column * factor)
        for k, (row, column) in zip(order, cells, strict=True)
    ]


def _refine(coarse: Placed, inside: np.ndarray, around: np.ndarray) -> tuple[float, Placed]:
    """The best centre within a coarse cell of the given one, by halving steps, with its score."""
    template, half = coarse.template, len(coarse.template.mask) // 2

    @cache
    def score(row: int, column: int) -> float:
        area = (row - half, column - half, 2 * half, 2 * half)
        gain = np.vdot(_cut(inside, *area, -MISS), template.mask)
        return float(gain - RIM * np.vdot(_cut(around, *area, 0.0), template.rim))

    step, best = coarse_factor(*inside.shape), (coarse.row, coarse.column)
    while step >= 1:
        shifts = product((0, -step, step), repeat=2)
        best = max(((best[0] + dy, best[1] + dx) for dy, dx in shifts), key=lambda at: score(*at))
        step //= 2
    return score(*best), Placed(template, *best)


def _cut(
    values: np.ndarray, top: int, left: int, height: int, width: int, fill: float
) -> np.ndarray:
    """A window that may reach beyond the array."""
    window = np.full((height, width), fill, np.float32)
    rows = slice(max(top, 0), max(min(top + height, values.shape[0]), 0))
    columns = slice(max(left, 0), max(min(left + width, values.shape[1]), 0))
    inner = slice(rows.start - top, rows.stop - top)
    window[inner, columns.start - left : columns.stop - left] = values[rows, columns]
    return window


def _window(placed: Placed, shape: tuple[int, ...]) -> tuple[slice, slice, tuple[slice, slice]]:
    """Rows and columns under a template, and the template's part that lies on the picture."""
    half = len(placed.template.mask) // 2
    slices, inner = [], []
    for centre, length in zip((placed.row, placed.column), shape, strict=True):
        low, high = max(centre - half, 0), min(centre + half, length)
        slices.append(slice(low, high))
        inner.append(slice(low - centre + half, high - centre + half))
    return slices[0], slices[1], (inner[0], inner[1])


def _judged(
    placed: Placed, mask: np.ndarray, hidden: np.ndarray, others: list[Placed], colour: str
) -> DetectedObject:
    """The object, its shape "unknown" where silhouette and picture disagree.

    Pixels of other objects do not count, nor does the mask beyond the rim.
    """
    visible = ~hidden
    for other in others:
        rows, columns, inner = _window(other, mask.shape)
        visible[rows, columns] &= other.template.mask[inner] < 0.5
    template = placed.template
    rows, columns, inner = _window(placed, mask.shape)
    silhouette = template.mask[inner] >= 0.5
    near = silhouette | (template.rim[inner] > 0) | grown(silhouette, 1)
    seen = visible[rows, columns] & near
    here = mask[rows, columns]
    outline = grown(silhouette, 1) & grown(~silhouette, 1)
    wrong = ((here != silhouette) & seen & ~outline).sum()
    agreement = float(1 - wrong / max((silhouette & seen).sum(), 1))
    enough = (silhouette & seen).sum() >= LEAST_VISIBLE * silhouette.sum()
    known = agreement >= LEAST_AGREEMENT and bool(enough)
    covered_rows, covered_columns = np.nonzero(silhouette)
    box = (
        columns.start + int(covered_columns.min()),
        rows.start + int(covered_rows.min()),
        columns.start + int(covered_columns.max()) + 1,
        rows.start + int(covered_rows.max()) + 1,
    )
    shape, size = (template.shape, template.size) if known else (UNKNOWN, UNKNOWN)
    return DetectedObject(
        shape,
        colour,
        size,
        float(placed.column),
        float(placed.row),
        template.radius_px,
        box,
        agreement,
    )


def _leftovers(left: np.ndarray, least_px: float, colour: str) -> list[DetectedObject]:
    """Connected areas that nothing explained."""
    areas = np.zeros(left.shape, np.int32)
    ndimage.label(left, np.ones((3, 3), bool), areas)
    found = []
    for index, box in enumerate(ndimage.find_objects(areas), start=1):
        if box is not None and (areas[box] == index).sum() >= least_px:
            y0, y1, x0, x1 = box[0].start, box[0].stop, box[1].start, box[1].stop
            radius = hypot(x1 - x0, y1 - y0) / 2
            found.append(
                DetectedObject(
                    UNKNOWN,
                    colour,
                    UNKNOWN,
                    (x0 + x1) / 2,
                    (y0 + y1) / 2,
                    radius,
                    (x0, y0, x1, y1),
                    0.0,
                )
            )
    return found
