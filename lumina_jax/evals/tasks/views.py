"""Several views of one scene: each shows what was asked, all show the same objects, and these move as a camera turns.

A point at (x, z) over the middle of the ground appears at x cos(yaw) + z sin(yaw), at the same height in all views
(`scenes.render.camera_matrix`). Each object is followed through the views and fitted by an x and a z: what is left
over must be small, and z a height that its relief can have. Pictures that do not turn have z near 0; in the wrong
order it is negative.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from math import hypot, sqrt
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from lumina_jax.data.recipes import VIEWS_YAW_DEG
from lumina_jax.data.scenes.detector import DetectedObject, Detection, detect
from lumina_jax.evals.intervals import mean, share
from lumina_jax.evals.tasks.common import Summary, Truth, check_size
from lumina_jax.evals.tasks.conditions import asked_by, shows

# What the detector reads off turned truths sets these: it sees the silhouette's middle, to one px.
PLACE_TOLERANCE = 0.02  # scene units that a place in a view may be off the fit, 2.6 px of 128
HEIGHT_RANGE = (0.1, 0.8)  # z of a true object, in its radii


class ViewsScore(NamedTuple):
    """`score`: whether all of it holds."""

    score: bool
    asked: float  # share of the views that show what the caption asks
    same: bool  # whether all views show the same shapes in the same colours
    turned: float  # share of the objects that move as the camera does; 0 where `same` does not hold


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
    same = bool(looks[0]) and all(each == looks[0] for each in looks)
    turned = float(np.mean([_turns(each, truth) for each in _followed(seen)])) if same else 0.0
    return ViewsScore(asked == 1 and same and turned == 1, asked, same, turned)


def summarise_views(results: Sequence[ViewsScore]) -> Summary:
    """The share of sets of views in which all holds, and each of the parts."""
    return {
        "metric": "right and consistent views",
        **share([each.score for each in results]),
        "higher_is_better": True,
        "asked": mean([each.asked for each in results]),
        "same_objects": share([each.same for each in results]),
        "turned": mean([each.turned for each in results]),
    }


def _followed(seen: Sequence[Detection]) -> list[list[DetectedObject]]:
    """The objects through views that show the same looks: each with the nearest of its look in the next view."""
    tracks = [[thing] for thing in seen[0].objects]
    for _, after in pairwise(seen):
        cost = np.array([[_distance(track[-1], o) for o in after.objects] for track in tracks])
        for row, column in zip(*linear_sum_assignment(cost), strict=True):
            tracks[row].append(after.objects[column])
    return tracks


def _distance(first: DetectedObject, second: DetectedObject) -> float:
    """Px between two objects' centres; far where their looks differ."""
    away = hypot(first.x_px - second.x_px, first.y_px - second.y_px)
    return away if (first.shape, first.colour) == (second.shape, second.colour) else 1e6


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
    low, high = HEIGHT_RANGE
    close = off_px <= PLACE_TOLERANCE * sqrt(truth.size[0] * truth.size[1])
    return close and low <= z_px / radius_px <= high
