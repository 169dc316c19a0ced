"""Pose: joints read from the coloured bones of a skeleton, against those of the figure (PCK).

As PCK is taken, each true figure's box says where to look: within it, every bone is the largest area of its colour,
and its ends on the area's long axis are its joints. Which end is which follows from the rest of the skeleton.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import hypot, sqrt
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from lumina_jax.data.scenes import maps
from lumina_jax.data.scenes.maps import BONE_RADIUS, BONES
from lumina_jax.data.scenes.scene import ARMS, LEGS, Scene
from lumina_jax.evals.intervals import mean, ratio
from lumina_jax.evals.tasks.common import Summary, Truth, check_size

ALPHA = 0.1  # tolerance of a joint, as a share of the longer side of its figure's box
REACH = 1.25  # radii of a figure around its centre within which its skeleton is sought
LEAST_BONE = 2.5  # px of a bone's area, in squares of half its width; less is no bone
COLOURS = tuple(dict.fromkeys(BONES.values()))
LIMBS = ("left_hand", "right_hand", "left_foot", "right_foot")  # the joints that a pose moves

Point = tuple[float, float]
Joints = dict[str, Point]


class PoseScore(NamedTuple):
    """`score`: the share of the true joints that are found within ALPHA."""

    score: float
    right: int
    wanted: int
    missing: int  # joints whose bone is not seen
    limbs_right: int  # hands and feet alone: the other joints stand where the figure does
    limbs: int


def score_pose(truth: Truth, answer: np.ndarray) -> PoseScore:
    """Joints of every figure of the scene; ValueError where there is none."""
    check_size(answer, truth.size)
    wanted = maps.keypoints(truth.scene, *truth.size)
    if not wanted:
        raise ValueError("a scene without a figure has no pose: score scenes with one")
    boxes = maps.boxes(truth.scene, *truth.size)
    found = read_joints(truth, answer)
    right = missing = limbs_right = 0
    for index, joints in wanted.items():
        box = boxes[index] or (0, 0, 0, 0)
        tolerance = ALPHA * max(box[2] - box[0], box[3] - box[1])
        for name, (x, y) in joints.items():
            at = found[index].get(name)
            missing += at is None
            close = at is not None and hypot(at[0] - x, at[1] - y) <= tolerance
            right += close
            limbs_right += close and name in LIMBS
    total, limbs = sum(map(len, wanted.values())), len(LIMBS) * len(wanted)
    return PoseScore(right / total, right, total, missing, limbs_right, limbs)


def summarise_pose(results: Sequence[PoseScore]) -> Summary:
    """PCK of all joints together, with a bootstrap over pictures."""
    total = [each.wanted for each in results]
    return {
        "metric": f"PCK@{ALPHA}",
        **ratio([each.right for each in results], total),
        "higher_is_better": True,
        "limbs": ratio([each.limbs_right for each in results], [each.limbs for each in results]),
        "missing": ratio([each.missing for each in results], total),
        "mean_of_pictures": mean([each.score for each in results]),
    }


def another_pose(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with every figure where it is, in a random pose."""
    objects = []
    for thing in scene.objects:
        if thing.shape == "figure":
            pose = (str(rng.choice(ARMS)), str(rng.choice(ARMS)), str(rng.choice(LEGS)))
            thing = replace(thing, pose=pose)
        objects.append(thing)
    return replace(scene, objects=tuple(objects))


def read_joints(truth: Truth, answer: np.ndarray) -> dict[int, Joints]:
    """Joints (px) by figure that a picture shows where the truth has figures; those not seen are left out."""
    width, height = truth.size
    side_px = sqrt(width * height)
    nearest = bone_colours(answer)
    figures = {i: o for i, o in enumerate(truth.scene.objects) if o.shape == "figure"}
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    distance = {
        index: np.hypot(columns - o.x * side_px - width / 2, rows - o.y * side_px - height / 2)
        / (o.radius * side_px)
        for index, o in figures.items()
    }
    closest = np.min(list(distance.values()), axis=0)
    found = {}
    for index, thing in figures.items():
        own = (distance[index] <= REACH) & (distance[index] == closest)
        radius_px = max(BONE_RADIUS * thing.radius * side_px, 1.0)
        areas = {
            rgb: _largest(own & (nearest == place), LEAST_BONE * radius_px**2)
            for place, rgb in enumerate(COLOURS)
        }
        found[index] = skeleton({rgb: a for rgb, a in areas.items() if a is not None}, radius_px)
    return found


def bone_colours(picture: np.ndarray) -> np.ndarray:
    """int [Y, X]: index into COLOURS of the hue of every pixel, -1 where less than half of any covers the black."""
    pixels, palette = picture.astype(np.float32), np.array(COLOURS, np.float32)
    cover = pixels @ palette.T / np.square(palette).sum(axis=-1)
    off = pixels[..., None, :] - np.clip(cover, 0, 1)[..., None] * palette
    best = np.square(off).sum(axis=-1).argmin(axis=-1)
    chosen = np.take_along_axis(cover, best[..., None], axis=-1)[..., 0]
    return np.where(chosen >= 0.5, best, -1)


def skeleton(areas: dict[tuple[int, int, int], np.ndarray], radius_px: float) -> Joints:
    """The joints that bones' areas (float [n, 2], the (x, y) of their px, by colour) show."""
    ends = {rgb: _ends(points, radius_px) for rgb, points in areas.items()}
    joints: Joints = {}
    if not areas:
        return joints
    middle = tuple(np.concatenate(list(areas.values())).mean(axis=0))
    torso, head = BONES["neck", "left_hip"], BONES["head", "neck"]
    if torso in ends:  # both sides of the torso have one colour: a V, whose narrow end is down
        joints["neck"] = min(ends[torso], key=lambda end: end[1])
    elif head in ends:
        joints["neck"] = _nearer(ends[head], middle)[0]
    centre = joints.get("neck", middle)
    if head in ends:
        joints["head"] = _nearer(ends[head], centre)[1]
    for side in ("left", "right"):
        for inner, outer in (("shoulder", "hand"), ("hip", "foot")):
            rgb = BONES[f"{side}_{inner}", f"{side}_{outer}"]
            if rgb in ends:
                near, far = _nearer(ends[rgb], centre)
                joints[f"{side}_{inner}"], joints[f"{side}_{outer}"] = near, far
    return joints


def _nearer(ends: tuple[Point, Point], centre: Point) -> tuple[Point, Point]:
    """Both ends, the one nearer to `centre` first."""
    first, second = sorted(ends, key=lambda end: hypot(end[0] - centre[0], end[1] - centre[1]))
    return first, second


def _ends(points: np.ndarray, radius_px: float) -> tuple[Point, Point]:
    """The middles of both round caps of a bone: its extent along its long axis, less half its width."""
    centre = points.mean(axis=0)
    axis = np.linalg.svd(points - centre, full_matrices=False)[2][0]
    along = (points - centre) @ axis
    low, high = along.min() - 0.5 + radius_px, along.max() + 0.5 - radius_px
    first, second = (centre + step * axis for step in (min(low, 0.0), max(high, 0.0)))
    return (float(first[0]), float(first[1])), (float(second[0]), float(second[1]))


def _largest(mask: np.ndarray, least_px: float) -> np.ndarray | None:
    """float [n, 2]: (x, y) of the px of the largest connected area, or None under `least_px`."""
    areas, count = ndimage.label(mask, np.ones((3, 3), bool))[:2]
    if count == 0:
        return None
    sizes = np.bincount(areas.ravel())[1:]
    if sizes.max() < least_px:
        return None
    rows, columns = np.nonzero(areas == sizes.argmax() + 1)
    return np.stack([columns, rows], axis=-1) + 0.5
