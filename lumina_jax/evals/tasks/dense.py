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
    """`score`: the share of the objects' pixels whose depth is right to within MAX_RATIO (delta 1)."""

    score: float
    abs_rel: float  # mean of |answer - truth| / truth over the objects' pixels
    background: float  # share of the background's pixels that are right to within MAX_RATIO
    background_abs_rel: float
    all_pixels: float  # `score` of objects and background together, as the field takes it
    all_pixels_abs_rel: float


class NormalsScore(NamedTuple):
    """`score`: the mean angle in degrees between answer and truth over the objects' pixels."""

    score: float
    within: float  # share of the objects' pixels whose angle is under MAX_ANGLE_DEG
    background: float  # the mean angle over the background's pixels
    background_within: float
    all_pixels: float  # the mean angle over objects and background together, as the field takes it
    all_pixels_within: float


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
    """Grey as the distance above the far end of `maps.DEPTH_RANGE`.

    The main numbers are over the truth's object pixels, whatever is answered elsewhere: most of a picture is flat
    background. Relief painted where none is shows in the numbers of the background and of all pixels.
    """
    check_size(answer, truth.size)
    far, near = maps.DEPTH_RANGE
    found = answer.mean(axis=-1) / 255 * (near - far)
    wanted = np.clip(maps.depth_map(truth.scene, *truth.size), far, near) - far
    least = (near - far) / 255 / 2  # half a grey level stands for black
    found, wanted = np.maximum(found, least), np.maximum(wanted, least)
    close = np.maximum(found / wanted, wanted / found) < MAX_RATIO
    off = np.abs(found - wanted) / wanted
    return DepthScore(*_by_area(truth, close, off))


def summarise_depth(results: Sequence[DepthScore]) -> Summary:
    """Means over pictures, as the depth benchmarks take them."""
    return {"metric": "delta1", **_means(results), "higher_is_better": True}


def score_normals(truth: Truth, answer: np.ndarray) -> NormalsScore:
    """(Red, green, blue) as (x, y, z), over the same pixels as `score_depth`."""
    check_size(answer, truth.size)
    found = answer / 127.5 - 1
    found /= np.maximum(np.linalg.norm(found, axis=-1, keepdims=True), 1e-6)
    cosine = (found * maps.normal_map(truth.scene, *truth.size)).sum(axis=-1)
    angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    return NormalsScore(*_by_area(truth, angle, angle < MAX_ANGLE_DEG))


def summarise_normals(results: Sequence[NormalsScore]) -> Summary:
    """Means over pictures."""
    return {"metric": "mean angle in degrees", **_means(results), "higher_is_better": False}


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


def _by_area(truth: Truth, first: np.ndarray, second: np.ndarray) -> list[float]:
    """Means of two numbers a pixel over the objects, the background and both; soft edges in none.

    No canvas is without objects or background.
    """
    classes = true_classes(truth.scene, truth.size)
    areas = (classes > 0, classes == 0, classes != VOID)
    return [float(values[area].mean()) for area in areas for values in (first, second)]


def _means(results: Sequence[DepthScore] | Sequence[NormalsScore]) -> Summary:
    """The mean of every number of the results, that of `score` as the main one."""
    names = type(results[0])._fields
    found = {name: mean([getattr(each, name) for each in results]) for name in names}
    return {**found.pop("score"), **found}
