"""Several views of one scene: each shows what was asked, all show the same objects, and these move as a camera turns.

A point at (x, z) over the middle of the ground appears at x cos(yaw) + z sin(yaw), at the same height in all views
(`scenes.render.camera_matrix`). Outlines lie on the ground, z = 0: each object is followed through the views and its
places must be x cos(yaw) but for little. The relief within the outline moves across it: its shading in the last view
must be that of the first one shifted to the right. Pictures that do not turn have no shift; in the wrong order it is
negative.
"""

from collections import Counter
from collections.abc import Sequence
from math import hypot, sqrt
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from lumina_jax.data.recipes import VIEWS_YAW_DEG
from lumina_jax.data.scenes.colours import SHADES, UNKNOWN
from lumina_jax.data.scenes.detector import DetectedObject, Detection, detect
from lumina_jax.data.scenes.render import COLOUR_RGB
from lumina_jax.evals.intervals import mean, share
from lumina_jax.evals.tasks.common import Summary, Truth, check_size, pairs
from lumina_jax.evals.tasks.conditions import asked_by, matches, shows

# Measured on turned truths: places are off the fit by up to 0.55 px, and heights by up to 0.07 radii.
PLACE_TOLERANCE = 0.02  # scene units that a place in a view may be off the fit, 2.6 px of 128
HEIGHT_TOLERANCE = 0.2  # of an outline, in its radii
INSIDE = 0.8  # radii around an object's centre within which its shading is compared
HUE_DISTANCE = 25.0  # RGB distance of a px from the shades of its object's colour
FAR = 1e6  # px, no distance within a picture
LARGEST_SHIFT = 0.5  # radii
LEAST_SHIFT = 0.03  # radii, of the shading, on the mean over a scene's objects: a px of one of 30


class ViewsScore(NamedTuple):
    """`score`: objects that are asked for and stay through all views, over the most that are asked for or seen."""

    score: float
    right: bool  # whether all of the following holds
    asked: float  # share of the views that show what the caption asks
    same: bool  # whether all views show the same shapes in the same colours
    placed: float  # share of the first view's objects that stay and whose places turn as the camera does
    shift: float  # of the shading from the first view to the last, in radii, mean of the objects that stay


def score_views(truth: Truth, answer: Sequence[np.ndarray]) -> ViewsScore:
    """Pictures at the yaws of `recipes.VIEWS_YAW_DEG`, in that order; ValueError for another number of them."""
    if len(answer) != len(VIEWS_YAW_DEG):
        raise ValueError(f"{len(answer)} views, want {len(VIEWS_YAW_DEG)}, one a yaw")
    for picture in answer:
        check_size(picture, truth.size)
    said = asked_by(truth.caption)
    seen = [detect(picture) for picture in answer]
    asked = float(np.mean([shows(said, each) for each in seen]))
    looks = [Counter((o.shape, o.colour) for o in each.objects) for each in seen]
    known = bool(looks[0]) and not any(UNKNOWN in look for look in looks[0])
    same = known and all(each == looks[0] for each in looks)
    tracks = [track for track in _followed(seen) if _turns(track, truth)]
    found = pairs([[matches(each, track[0]) for track in tracks] for each in said.single])
    most = max(len(said.single), *(len(each.objects) for each in seen))
    placed = len(tracks) / max(len(seen[0].objects), 1)
    shifts = [shading_shift(each, answer[0], answer[-1]) for each in tracks]
    shift = float(np.mean(shifts)) if shifts else 0.0
    right = asked == 1 and same and placed == 1 and shift >= LEAST_SHIFT
    return ViewsScore(len(found) / most, right, asked, same, placed, shift)


def summarise_views(results: Sequence[ViewsScore]) -> Summary:
    """How much is asked for and stays; the share of sets of views in which all holds, and each of the parts."""
    return {
        "metric": "objects that stay",
        **mean([each.score for each in results]),
        "higher_is_better": True,
        "all_right": share([each.right for each in results]),
        "asked": mean([each.asked for each in results]),
        "same_objects": share([each.same for each in results]),
        "placed": mean([each.placed for each in results]),
        "turned": share([each.shift >= LEAST_SHIFT for each in results]),
    }


def _followed(seen: Sequence[Detection]) -> list[list[DetectedObject]]:
    """The objects that are in all views: each with the nearest of its look in the next view."""
    tracks = [[thing] for thing in seen[0].objects if UNKNOWN not in (thing.shape, thing.colour)]
    for place, after in enumerate(seen[1:], 1):
        cost = [[_distance(track[-1], o) for o in after.objects] for track in tracks]
        table = np.array(cost).reshape(len(tracks), len(after.objects))
        for row, column in zip(*linear_sum_assignment(table), strict=True):
            if table[row, column] < FAR:
                tracks[row].append(after.objects[column])
        tracks = [track for track in tracks if len(track) > place]
    return tracks


def _distance(first: DetectedObject, second: DetectedObject) -> float:
    """Px between two objects' centres; FAR where their looks differ."""
    away = hypot(first.x_px - second.x_px, first.y_px - second.y_px)
    return away if (first.shape, first.colour) == (second.shape, second.colour) else FAR


def fit_turn(track: Sequence[DetectedObject], width_px: int) -> tuple[float, float]:
    """z of the point that an object's places follow best, and the largest distance (px) of one from it, x and y."""
    yaw = np.radians(VIEWS_YAW_DEG)
    across = np.array([thing.x_px - width_px / 2 for thing in track])
    down = np.array([thing.y_px for thing in track])
    turns = np.stack([np.cos(yaw), np.sin(yaw)], axis=-1)
    place = np.linalg.lstsq(turns, across, rcond=None)[0]
    off = np.hypot(turns @ place - across, down - np.median(down))
    return float(place[1]), float(off.max())


def _turns(track: Sequence[DetectedObject], truth: Truth) -> bool:
    """Whether an object's places are those of a relief under the turning camera."""
    z_px, off_px = fit_turn(track, truth.size[0])
    radius_px = float(np.median([thing.radius_px for thing in track]))
    close = off_px <= PLACE_TOLERANCE * sqrt(truth.size[0] * truth.size[1])
    return close and abs(z_px) <= HEIGHT_TOLERANCE * radius_px


def shading_shift(track: Sequence[DetectedObject], first: np.ndarray, last: np.ndarray) -> float:
    """By how much (radii, to the right) the shading within an object's outline moves from the first view to the last.

    Px whose hue is not the object's in both are left out: its outline stays, and would hold the shading back.
    """
    radius_px = track[0].radius_px
    reach, most = round(INSIDE * radius_px), round(LARGEST_SHIFT * radius_px)
    before, after = (
        _patch(picture, thing, reach, most)
        for picture, thing in ((first, track[0]), (last, track[-1]))
    )
    middle = before[:, most:-most]
    costs = []
    for shift in range(-most, most + 1):
        moved = after[:, most + shift : most + shift + middle.shape[1]]
        both = ~(np.isnan(middle) | np.isnan(moved))
        off = np.abs(middle - moved)[both]
        costs.append(off.mean() if both.sum() >= middle.size / 5 else np.inf)
    return (int(np.argmin(costs)) - most) / radius_px


def _patch(picture: np.ndarray, thing: DetectedObject, reach: int, margin: int) -> np.ndarray:
    """Brightness around an object's centre relative to its colour, NaN beyond its colour and the picture."""
    away = margin + reach
    padded = np.pad(picture.astype(np.float32), ((reach, reach), (away, away), (0, 0)))
    row, column = round(thing.y_px), round(thing.x_px)
    patch = padded[row : row + 2 * reach, column : column + 2 * away]
    colour = np.array(COLOUR_RGB[thing.colour], np.float32)
    shade = patch @ colour / (colour @ colour)
    off = np.linalg.norm(patch - np.clip(shade, *SHADES)[..., None] * colour, axis=-1)
    return np.where(off <= HUE_DISTANCE, shade, np.nan)
