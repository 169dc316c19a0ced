"""The reliefs: silhouette and height of every shape in its own radius, rasterised into cached stamps.

Object coordinates (u, v) run from -1 to 1 over the object's radius, v down; heights and distances are in radii too.
"""

from collections.abc import Callable
from functools import lru_cache
from math import ceil, floor
from typing import NamedTuple

import numpy as np

from lumina_jax.dims import pick

Grid = np.ndarray  # float32, any shape
Point = tuple[float, float]
Pose = tuple[str, str, str]  # left arm, right arm (as seen), legs

HANDS = {
    "down": (0.65, 0.36),
    "out": (0.80, -0.18),
    "up": (0.63, -0.53),
}  # of the right arm, as seen
FEET = {"together": (0.13, 0.78), "apart": (0.48, 0.62)}  # of the right leg, as seen
HEAD, NECK, SHOULDER, HIP = (0.0, -0.72), (0.0, -0.36), (0.22, -0.26), (0.13, 0.14)
HEAD_RADIUS, TORSO_RADIUS, ARM_RADIUS, LEG_RADIUS = 0.275, 0.27, 0.17, 0.205


class Stamp(NamedTuple):
    """One object rasterised at one scale and sub-pixel offset, in a window around its centre."""

    coverage: np.ndarray  # float32 [y, x], share of the pixel inside the silhouette
    height: np.ndarray  # float32 [y, x], above the background plane, in radii
    normal: np.ndarray  # float32 [y, x, 3], unit; x right, y down, z towards the viewer
    before: int  # pixels from the window's first row and column to the pixel that holds the centre


def stamp(shape: str, pose: Pose | None, radius_px: float, x_px: float, y_px: float) -> Stamp:
    """The stamp of a shape centred at (x_px, y_px); only the fractions of the centre matter."""
    fractions = round(x_px - floor(x_px), 3), round(y_px - floor(y_px), 3)
    return _stamp(shape, pose, round(radius_px, 3), *fractions)


@lru_cache(maxsize=384)
def _stamp(shape: str, pose: Pose | None, radius_px: float, x_px: float, y_px: float) -> Stamp:
    before = ceil(radius_px) + 1
    steps = np.arange(-before, before + 2, dtype=np.float32) + np.float32(0.5)
    u, v = np.meshgrid((steps - x_px) / radius_px, (steps - y_px) / radius_px)
    half = 0.5 / radius_px
    distance, height = relief(shape, u, v, pose)
    outward_u, outward_v = _slope(shape, u, v, pose, half, 0)
    length = np.maximum(np.hypot(outward_u, outward_v), 1e-6)
    # The outline's pixels take the slope found just inside it, so that no flat rim is drawn.
    inward = np.maximum(distance + 1.5 * half, 0) / length
    slope_u, slope_v = _slope(shape, u - inward * outward_u, v - inward * outward_v, pose, half, 1)
    normal = np.stack([-slope_u, -slope_v, np.ones_like(u)], axis=-1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    coverage = np.clip(0.5 - distance * radius_px, 0, 1)
    drawn = Stamp(*(a.astype(np.float32) for a in (coverage, height, normal)), before=before)
    for array in drawn[:3]:
        array.flags.writeable = False
    return drawn


def relief(shape: str, u: Grid, v: Grid, pose: Pose | None = None) -> tuple[Grid, Grid]:
    """Signed distance to the silhouette (negative inside) and height (0 outside), both in radii.

    The height falls to 0 at the silhouette, so that reliefs have slopes and no walls. Raises ValueError for an
    unknown shape and for a figure without a pose.
    """
    if shape == "figure":
        if pose is None:
            raise ValueError("a figure without a pose: want (left arm, right arm, legs)")
        return _figure(u, v, pose)
    return pick(RELIEFS, shape, "shape")(u, v)


def keypoints(pose: Pose) -> dict[str, Point]:
    """Named joints of a figure in object coordinates; left and right as seen in the picture."""
    left_arm, right_arm, legs = pose
    right = {"shoulder": SHOULDER, "hand": HANDS[right_arm], "hip": HIP, "foot": FEET[legs]}
    left = {"shoulder": SHOULDER, "hand": HANDS[left_arm], "hip": HIP, "foot": FEET[legs]}
    points = {"head": HEAD, "neck": NECK}
    points |= {f"left_{name}": (-x, y) for name, (x, y) in left.items()}
    return points | {f"right_{name}": point for name, point in right.items()}


def segment_distance(u: Grid, v: Grid, start: Point, end: Point) -> Grid:
    """Distance of the points (u, v) to the segment from `start` to `end`."""
    along_u, along_v = end[0] - start[0], end[1] - start[1]
    squared = along_u * along_u + along_v * along_v
    if squared == 0:
        return np.hypot(u - start[0], v - start[1])
    share = np.clip(((u - start[0]) * along_u + (v - start[1]) * along_v) / squared, 0, 1)
    return np.hypot(u - start[0] - share * along_u, v - start[1] - share * along_v)


def _slope(
    shape: str, u: Grid, v: Grid, pose: Pose | None, step: float, part: int
) -> tuple[Grid, Grid]:
    """Central differences of `relief(...)[part]` over `step` either side."""
    du = relief(shape, u + step, v, pose)[part] - relief(shape, u - step, v, pose)[part]
    dv = relief(shape, u, v + step, pose)[part] - relief(shape, u, v - step, pose)[part]
    return du / (2 * step), dv / (2 * step)


def _bevelled(distance: Grid, width: float, top: float) -> tuple[Grid, Grid]:
    """A flat top at height `top` behind a bevel of `width`."""
    return distance, top * np.clip(-distance / width, 0, 1)


def _faceted(distance: Grid, steepness: float) -> tuple[Grid, Grid]:
    """Planes that rise from every edge and meet in ridges."""
    return distance, steepness * np.maximum(-distance, 0)


def _dome(u: Grid, v: Grid) -> tuple[Grid, Grid]:
    """A flattened hemisphere."""
    squared = u * u + v * v
    return np.sqrt(squared) - 1, 0.7 * np.sqrt(np.maximum(1 - squared, 0))


def _slab(u: Grid, v: Grid) -> tuple[Grid, Grid]:
    """A square with rounded corners and a flat top."""
    side, rounding = 0.742, 0.12
    return _bevelled(_box(u, v, side - rounding, side - rounding) - rounding, 0.2, 0.36)


def _pyramid(u: Grid, v: Grid) -> tuple[Grid, Grid]:
    """An upright triangle with three facets."""
    rounding = 0.08
    inner = (1 - rounding) / 2
    half_base = inner * 3**0.5
    corners = ((0.0, -2 * inner), (half_base, inner), (-half_base, inner))
    return _faceted(_polygon(u, v, corners) - rounding, 1.1)


def _gem(u: Grid, v: Grid) -> tuple[Grid, Grid]:
    """A square on its corner with four facets."""
    rounding = 0.06
    tip = 1 - rounding
    return _faceted(_polygon(u, v, ((0, -tip), (tip, 0), (0, tip), (-tip, 0))) - rounding, 0.85)


def _ring(u: Grid, v: Grid) -> tuple[Grid, Grid]:
    """A torus whose hole is 44 % of its diameter."""
    tube = 0.28
    across = np.abs(np.hypot(u, v) - (1 - tube))
    return across - tube, 1.3 * np.sqrt(np.maximum(tube * tube - across * across, 0))


def _cross(u: Grid, v: Grid) -> tuple[Grid, Grid]:
    """A plus sign with thick bars."""
    length, half_bar = 0.95, 0.31
    return _bevelled(
        np.minimum(_box(u, v, length, half_bar), _box(u, v, half_bar, length)), 0.16, 0.32
    )


def _arch(u: Grid, v: Grid) -> tuple[Grid, Grid]:
    """A round arch with flat feet and an opening below."""
    outer, inner, centre, feet = 0.8, 0.3, -0.2, 0.6
    from_axis = np.hypot(u, np.minimum(v - centre, 0))
    inside = np.maximum(from_axis - outer, v - feet)
    return _bevelled(np.maximum(inside, inner - from_axis), 0.18, 0.34)


def _figure(u: Grid, v: Grid, pose: Pose) -> tuple[Grid, Grid]:
    """A person built from round capsules."""
    joints = keypoints(pose)
    parts = [(HEAD, HEAD, HEAD_RADIUS), (NECK, (0.0, 0.08), TORSO_RADIUS)]
    for side in ("left", "right"):
        parts.append((joints[f"{side}_shoulder"], joints[f"{side}_hand"], ARM_RADIUS))
        parts.append((joints[f"{side}_hip"], joints[f"{side}_foot"], LEG_RADIUS))
    distance = np.full_like(u, np.inf)
    height = np.zeros_like(u)
    for start, end, radius in parts:
        away = segment_distance(u, v, start, end)
        distance = np.minimum(distance, away - radius)
        height = np.maximum(height, 1.2 * np.sqrt(np.maximum(radius * radius - away * away, 0)))
    return distance, height


def _box(u: Grid, v: Grid, half_width: float, half_height: float) -> Grid:
    """Signed distance to an upright rectangle."""
    du, dv = np.abs(u) - half_width, np.abs(v) - half_height
    return np.hypot(np.maximum(du, 0), np.maximum(dv, 0)) + np.minimum(np.maximum(du, dv), 0)


def _polygon(u: Grid, v: Grid, corners: tuple[Point, ...]) -> Grid:
    """Signed distance to a convex polygon whose corners run clockwise as seen (v down)."""
    nearest = np.full_like(u, np.inf)
    inside = np.full_like(u, -np.inf)
    for start, end in zip(corners, corners[1:] + corners[:1], strict=True):
        nearest = np.minimum(nearest, segment_distance(u, v, start, end))
        along_u, along_v = end[0] - start[0], end[1] - start[1]
        side = (u - start[0]) * along_v - (v - start[1]) * along_u
        inside = np.maximum(inside, side)
    return np.where(inside <= 0, -nearest, nearest)


RELIEFS: dict[str, Callable[[Grid, Grid], tuple[Grid, Grid]]] = {
    "dome": _dome,
    "slab": _slab,
    "pyramid": _pyramid,
    "ring": _ring,
    "cross": _cross,
    "gem": _gem,
    "arch": _arch,
}
