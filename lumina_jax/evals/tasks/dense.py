"""Segmentation, depth and normals against the exact maps of a scene.

Pixels that an outline only partly covers are void, as VOC leaves borders out: their true value is a blend of two.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lumina_jax.data.scenes import maps
from lumina_jax.data.scenes.render import frontal_canvas, paint
from lumina_jax.data.scenes.scene import Scene
from lumina_jax.evals.intervals import mean, pooled
from lumina_jax.evals.tasks.common import Size, Summary, Truth, check_size

CLASSES = tuple(maps.SEGMENT_RGB)  # "background" first
MAX_RATIO = 1.25  # of two depths that count as equal: the field's first threshold, delta < 1.25
MAX_ANGLE_DEG = 11.25  # between two normals that count as equal: the field's first threshold
VOID = -1


class SegmentationScore(NamedTuple):
    """`score`: the picture's own mean IoU over the classes that its truth shows."""

    score: float
    confusion: np.ndarray  # int64[true class, answered class], in pixels, by CLASSES


class DepthScore(NamedTuple):
    """`score`: the share of pixels whose depth is right to within MAX_RATIO (delta 1)."""

    score: float
    abs_rel: float  # mean of |answer - truth| / truth
    background: float  # share of the background's pixels that are right to within MAX_RATIO


class NormalsScore(NamedTuple):
    """`score`: the mean angle in degrees between answer and truth."""

    score: float
    within: float  # share of pixels whose angle is under MAX_ANGLE_DEG
    background: float  # the same of the background's pixels


def score_segmentation(truth: Truth, answer: np.ndarray) -> SegmentationScore:
    """Each pixel as the nearest colour of `maps.SEGMENT_RGB`, against the shape that is seen there."""
    check_size(answer, truth.size)
    confusion = confusion_matrix(true_classes(truth.scene, truth.size), nearest_class(answer))
    return SegmentationScore(float(mean_iou(confusion)), confusion)


def summarise_segmentation(results: Sequence[SegmentationScore]) -> Summary:
    """mIoU of all pixels of all pictures together; the pictures' own mean beside it."""
    return {
        "metric": "mIoU",
        **pooled_iou([each.confusion for each in results]),
        "higher_is_better": True,
        "mean_of_pictures": mean([each.score for each in results]),
        "classes": class_iou(np.sum([each.confusion for each in results], axis=0)),
    }


def score_depth(truth: Truth, answer: np.ndarray) -> DepthScore:
    """Grey as the distance above the far end of `maps.DEPTH_RANGE`, where truth or answer leaves the background.

    A background pixel of the truth enters when its answer is off by MAX_RATIO or more: as an error, so that relief
    painted where none is costs something and a background that is right earns nothing.
    """
    check_size(answer, truth.size)
    far, near = maps.DEPTH_RANGE
    found = answer.mean(axis=-1) / 255 * (near - far)
    wanted = np.clip(maps.depth_map(truth.scene, *truth.size), far, near) - far
    least = (near - far) / 255 / 2  # half a grey level stands for black
    found, wanted = np.maximum(found, least), np.maximum(wanted, least)
    close = np.maximum(found / wanted, wanted / found) < MAX_RATIO
    relief, ground = _relief_and_ground(truth)
    used = relief | (ground & ~close)
    off = np.abs(found - wanted) / wanted
    return DepthScore(_mean(close, used), _mean(off, used), _mean(close, ground))


def summarise_depth(results: Sequence[DepthScore]) -> Summary:
    """Means over pictures, as the depth benchmarks take them."""
    return {
        "metric": "delta1",
        **mean([each.score for each in results]),
        "higher_is_better": True,
        "abs_rel": mean([each.abs_rel for each in results]),
        "background": mean([each.background for each in results]),
    }


def score_normals(truth: Truth, answer: np.ndarray) -> NormalsScore:
    """(Red, green, blue) as (x, y, z), where truth or answer leaves the background as in `score_depth`."""
    check_size(answer, truth.size)
    found = answer / 127.5 - 1
    found /= np.maximum(np.linalg.norm(found, axis=-1, keepdims=True), 1e-6)
    cosine = (found * maps.normal_map(truth.scene, *truth.size)).sum(axis=-1)
    angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    close = angle < MAX_ANGLE_DEG
    relief, ground = _relief_and_ground(truth)
    used = relief | (ground & ~close)
    return NormalsScore(_mean(angle, used), _mean(close, used), _mean(close, ground))


def summarise_normals(results: Sequence[NormalsScore]) -> Summary:
    """Means over pictures."""
    return {
        "metric": "mean angle in degrees",
        **mean([each.score for each in results]),
        "higher_is_better": False,
        "within_11.25": mean([each.within for each in results]),
        "background": mean([each.background for each in results]),
    }


def soft_edges(scene: Scene, size: Size) -> np.ndarray:
    """bool [Y, X]: pixels that an outline covers in part, so that answer images blend there."""
    canvas = frontal_canvas(scene, *size)
    drawn = [
        paint(
            scene,
            canvas,
            np.zeros((size[1], size[0], 1), np.float32),
            lambda index, item, stamp: np.array([index + 1.0], np.float32),
            hard=hard,
        )[..., 0]
        for hard in (False, True)
    ]
    return np.abs(drawn[0] - drawn[1]) > 1e-3


def true_classes(scene: Scene, size: Size) -> np.ndarray:
    """int [Y, X]: index into CLASSES of what is seen at every pixel, VOID on soft edges."""
    of_object = [CLASSES.index(thing.shape) for thing in scene.objects]
    classes = np.array([*of_object, 0])[maps.instance_map(scene, *size)]  # -1 is the last one
    return np.where(soft_edges(scene, size), VOID, classes)


def nearest_class(picture: np.ndarray) -> np.ndarray:
    """int [Y, X]: index into CLASSES of the colour nearest to every pixel's."""
    palette = np.array(list(maps.SEGMENT_RGB.values()), np.int32)
    return np.square(picture[..., None, :].astype(np.int32) - palette).sum(axis=-1).argmin(axis=-1)


def confusion_matrix(wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
    """int64 [true class, answered class], in pixels; VOID ones of `wanted` are left out."""
    kept = wanted != VOID
    pairs = wanted[kept] * len(CLASSES) + found[kept]
    return np.bincount(pairs, minlength=len(CLASSES) ** 2).reshape(len(CLASSES), len(CLASSES))


def mean_iou(confusion: np.ndarray) -> np.ndarray:
    """[..., class, class] -> [...]: the mean IoU over the classes that the truth shows."""
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    wanted, found = confusion.sum(axis=-1), confusion.sum(axis=-2)
    occurs = wanted > 0
    iou = right / np.maximum(wanted + found - right, 1e-12)
    return (iou * occurs).sum(axis=-1) / np.maximum(occurs.sum(axis=-1), 1)


def pooled_iou(confusions: Sequence[np.ndarray]) -> dict[str, float]:
    """mIoU of all pixels together, with a bootstrap over pictures."""
    flat = np.array([each.ravel() for each in confusions], np.float64)
    side = len(CLASSES)
    return pooled(flat, lambda means: mean_iou(means.reshape(*means.shape[:-1], side, side)))


def class_iou(confusion: np.ndarray) -> dict[str, float]:
    """The IoU of every class that the truth shows, by name."""
    found = {}
    for index, name in enumerate(CLASSES):
        wanted = confusion[index].sum()
        if wanted:
            right = confusion[index, index]
            found[name] = float(right / (wanted + confusion[:, index].sum() - right))
    return found


def _relief_and_ground(truth: Truth) -> tuple[np.ndarray, np.ndarray]:
    """The pixels of objects and those of the background, soft edges in neither."""
    classes = true_classes(truth.scene, truth.size)
    return classes > 0, classes == 0


def _mean(values: np.ndarray, where: np.ndarray) -> float:
    """The mean over some pixels; 1 where there are none (a canvas is never without objects or background)."""
    return float(values[where].mean()) if where.any() else 1.0
