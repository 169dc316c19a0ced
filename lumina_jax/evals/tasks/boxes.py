"""Detection: the boxes drawn into a picture, read back, against those of the named objects.

A box is read where the colour of `maps.BOX_RGB` fills most of a rectangle's four sides. Long straight strokes give
the sides' possible places; of the rectangles that they span, those that explain most strokes are taken in turn.
"""

from collections.abc import Sequence
from itertools import product
from math import sqrt
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from lumina_jax.data.scenes import maps
from lumina_jax.data.scenes.maps import BOX_PX, Box
from lumina_jax.data.scenes.scene import SIZES
from lumina_jax.evals.intervals import mean, share
from lumina_jax.evals.tasks.common import Size, Summary, Truth, check_size

LEAST_TINT = (
    70,
    10,
    0.46,
)  # of a line's px: green - blue, green - red, red / green on any background
LEAST_SIDE = 0.14  # of a box, in scene units; the shortest stroke that can be one
LARGEST_SIDE = 2.4 * max(
    SIZES.values()
)  # of an object's box and its lines; larger ones only as a last resort
SQUARE = 0.8  # shorter side / longer side from which a box is as likely as a square
DENSE = 0.5  # share of the px along LEAST_SIDE that must be drawn for a stroke
FILLED = 0.6  # share of the outline that must be drawn
NEW = 0.25  # share of a box's outline that no box before it explains
MOST_STROKES = 12  # of each direction that are looked at, the longest
MOST_BOXES = 8


class BoxScore(NamedTuple):
    """`score`: the IoU of found and true boxes, paired for the best, over the larger of their numbers."""

    score: float
    half: bool  # whether every true box is found with an IoU of at least 0.5, and no other
    found: int
    wanted: int


def score_boxes(truth: Truth, answer: np.ndarray) -> BoxScore:
    """Boxes in a picture against the outer edges of those that `phrase` asks for."""
    check_size(answer, truth.size)
    wanted, found = true_boxes(truth), find_boxes(answer)
    table = np.array([[iou(a, b) for b in found] for a in wanted]).reshape(len(wanted), len(found))
    best = table[linear_sum_assignment(table, maximize=True)]
    larger = max(len(wanted), len(found))
    half = len(wanted) == len(found) and bool((best >= 0.5).all())
    return BoxScore(float(best.sum() / larger), half, len(found), len(wanted))


def summarise_boxes(results: Sequence[BoxScore]) -> Summary:
    """Mean IoU, and how often all boxes are right by half."""
    return {
        "metric": "mean IoU",
        **mean([each.score for each in results]),
        "higher_is_better": True,
        "iou_0.5": share([each.half for each in results]),
        "no_box": share([each.found == 0 for each in results]),
    }


def true_boxes(truth: Truth) -> list[Box]:
    """The outer edges of the boxes that `maps.boxes_drawn` draws, lines included."""
    line, (width, height) = line_px(truth.size), truth.size
    seen = maps.boxes(truth.scene, *truth.size)
    boxes = [seen[index] for index in maps.select(truth.scene, truth.phrase)]
    return [
        (
            max(b[0] - line, 0),
            max(b[1] - line, 0),
            min(b[2] + line, width),
            min(b[3] + line, height),
        )
        for b in boxes
        if b is not None
    ]


def line_px(size: Size) -> int:
    """Width of a drawn box's lines."""
    return max(1, round(BOX_PX * sqrt(size[0] * size[1]) / 128))


def iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    both = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return both / (sum(areas) - both)


def find_boxes(picture: np.ndarray) -> list[Box]:
    """The outer edges of the boxes drawn in uint8[Y, X, 3], those that explain most of the lines first."""
    height, width = picture.shape[:2]
    side_px = sqrt(width * height)
    line, least = line_px((width, height)), round(LEAST_SIDE * side_px)
    drawn = lines_drawn(picture)
    boxes = _candidates(drawn, line, least)
    if not len(boxes):
        return []
    sides = boxes[:, 2:] - boxes[:, :2]
    likely = np.minimum(sides.min(axis=1) / sides.max(axis=1) / SQUARE, 1)
    likely = likely * np.where(sides.max(axis=1) > LARGEST_SIDE * side_px, 0.5, 1.0)
    left, found = drawn, []
    while len(found) < MOST_BOXES:
        new = _in_outlines(left, boxes, line) / _in_outlines(np.ones_like(left), boxes, line)
        best = int(np.lexsort((-sides.prod(axis=1), -np.round(new * likely, 2)))[0])
        if new[best] < NEW:
            break
        found.append(best)
        left = left & ~ndimage.binary_dilation(
            _outline(boxes[best], left.shape, line), iterations=2
        )
    settled = _settled(boxes, found, drawn, line)
    return [(int(x0), int(y0), int(x1), int(y1)) for x0, y0, x1, y1 in settled]


def _settled(boxes: np.ndarray, found: list[int], drawn: np.ndarray, line: int) -> np.ndarray:
    """The found boxes, each moved by up to two lines to where it explains most that no other does."""
    found = list(found)
    missing = _in_outlines(~drawn, boxes, line)
    for place in (*range(len(found)), *range(len(found))):
        left = drawn.copy()
        for other in found[:place] + found[place + 1 :]:
            left &= ~_outline(boxes[other], drawn.shape, line)
        near = np.abs(boxes - boxes[found[place]]).max(axis=1) <= 2 * line
        gain = np.where(near, _in_outlines(left, boxes, line) - missing, -np.inf)
        found[place] = int(gain.argmax())
    return boxes[found]


def lines_drawn(picture: np.ndarray) -> np.ndarray:
    """bool [Y, X]: pixels that are at least half of BOX_RGB, by their hue; a yellow or green object's are not."""
    red, green, blue = np.moveaxis(picture.astype(np.float32), -1, 0)
    over_blue, over_red, share = LEAST_TINT
    return (green - blue >= over_blue) & (green - red >= over_red) & (red >= share * green)


def _candidates(drawn: np.ndarray, line: int, least: int) -> np.ndarray:
    """int [n, 4]: rectangles that are FILLED on the whole, and on three sides of four at least."""
    rows, columns_ends = _strokes(drawn, least)
    columns, rows_ends = _strokes(drawn.T, least)
    spans_x = _spans(columns, columns_ends, line, least, drawn.shape[1])
    spans_y = _spans(rows, rows_ends, line, least, drawn.shape[0])
    if not spans_x or not spans_y:
        return np.zeros((0, 4), int)
    x0, x1 = np.array(spans_x).T[:, None]
    y0, y1 = np.array(spans_y).T[:, :, None]
    along_y, along_x = _cumulated(drawn.T, line), _cumulated(drawn, line)
    filled = [(along_y[x, y1] - along_y[x, y0]) / (y1 - y0) for x in (x0, x1 - line)]
    filled += [(along_x[y, x1] - along_x[y, x0]) / (x1 - x0) for y in (y0, y1 - line)]
    right = (np.mean(filled, axis=0) >= FILLED) & (np.sort(filled, axis=0)[1] >= FILLED)
    down, across = np.nonzero(right)
    return np.stack([x0[0, across], y0[down, 0], x1[0, across], y1[down, 0]], axis=-1)


def _strokes(drawn: np.ndarray, least: int) -> tuple[set[int], set[int]]:
    """The rows of horizontal strokes, and the columns of both their ends (px that are drawn)."""
    dense = ndimage.uniform_filter1d(drawn.astype(np.float32), least, axis=1, mode="constant")
    areas, count = ndimage.label(dense >= DENSE)[:2]
    found = [box for box in ndimage.find_objects(areas, count) if box is not None]
    rows, ends = set(), set()
    for box in sorted(found, key=lambda box: box[1].start - box[1].stop)[:MOST_STROKES]:
        start = max(box[1].start - least // 2, 0)
        window = drawn[box[0], start : box[1].stop + least // 2]
        columns = np.flatnonzero(window.any(axis=0)) + start
        rows |= set(range(box[0].start, box[0].stop))
        ends |= {int(columns[0]), int(columns[-1])}
    return rows, ends


def _spans(
    places: set[int], ends: set[int], line: int, least: int, length: int
) -> list[tuple[int, int]]:
    """(first, last + 1) of the sides that a box may have: from line to line, or to where other lines end."""
    every = sorted(places | ends)
    return [
        (first, last + 1)
        for first, last in product(every, every)
        if last + 1 - first >= least and (first in places or last in places)
    ]


def _cumulated(drawn: np.ndarray, line: int) -> np.ndarray:
    """int [Y, X + 1]: how many of the first columns are drawn anywhere in the `line` rows from a row on."""
    shifted = [np.roll(drawn, -step, axis=0) for step in range(line)]
    for step, rows in enumerate(shifted):
        rows[len(rows) - step :] = False
    return np.pad(np.any(shifted, axis=0).cumsum(axis=1), ((0, 0), (1, 0)))


def _in_outlines(drawn: np.ndarray, boxes: np.ndarray, line: int) -> np.ndarray:
    """int [n]: how many drawn pixels lie in the outline of each box."""
    table = np.pad(drawn.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    inner = boxes + np.array([line, line, -line, -line])
    outside, inside = (
        table[b[:, 3], b[:, 2]]
        - table[b[:, 1], b[:, 2]]
        - table[b[:, 3], b[:, 0]]
        + table[b[:, 1], b[:, 0]]
        for b in (boxes, inner)
    )
    return outside - inside


def _outline(box: np.ndarray, shape: tuple[int, ...], line: int) -> np.ndarray:
    """bool [Y, X]: a box's lines."""
    x0, y0, x1, y1 = (int(edge) for edge in box)
    mask = np.zeros(shape, bool)
    mask[y0:y1, x0:x1] = True
    mask[y0 + line : y1 - line, x0 + line : x1 - line] = False
    return mask
