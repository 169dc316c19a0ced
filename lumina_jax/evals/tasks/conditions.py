"""Painted pictures: do they obey the map that was given, and do they show what the caption asks?

What the detector sees in a picture is redrawn as a segmentation: the pixels of a known object's colour within its
radius are its shape's. That is held against the labels of the scene that the map was drawn from.
"""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from lumina_jax.data.scenes.colours import COLOURS, UNKNOWN, colour_labels, find_background, grown
from lumina_jax.data.scenes.detector import DetectedObject, Detection, detect
from lumina_jax.evals.intervals import mean, share
from lumina_jax.evals.judge import relations_of
from lumina_jax.evals.tasks.captions import Mention, Said, parse
from lumina_jax.evals.tasks.common import Summary, Truth, check_size, pairs
from lumina_jax.evals.tasks.dense import (
    CLASSES,
    VOID,
    class_iou,
    confusion_matrix,
    mean_iou,
    pooled_iou,
    soft_edges,
    true_classes,
)

REACH = 1.1  # radii around a seen object within which px of its colour are its own
BORDER_PX = (
    1  # void px around outlines, as VOC's borders: the detector's own outlines are ragged by one
)


class ConditionScore(NamedTuple):
    """`score`: mean IoU of the picture's own classes between the map's labels and what is seen."""

    score: float
    confusion: np.ndarray  # int64[true class, seen class], in pixels, by dense.CLASSES
    kind: str  # the map that was given
    as_asked: bool | None  # whether the caption is obeyed; None where it cannot be read


class PaintedScore(NamedTuple):
    """`score`: whether the picture shows what its caption asks."""

    score: bool


def score_condition(truth: Truth, answer: np.ndarray) -> ConditionScore:
    """A skeleton tells of figures alone: with the map "pose" all else counts as background."""
    check_size(answer, truth.size)
    seen = detect(answer)
    wanted, found = true_classes(truth.scene, truth.size), seen_classes(answer, seen)
    wanted = np.where(grown(soft_edges(truth.scene, truth.size), BORDER_PX), VOID, wanted)
    if truth.kind == "pose":
        figure = CLASSES.index("figure")
        wanted = np.where((wanted == figure) | (wanted == VOID), wanted, 0)
        found = np.where(found == figure, found, 0)
    confusion = confusion_matrix(wanted, found)
    said = parse(truth.caption)
    asked = None if said is None else shows(said, seen)
    return ConditionScore(float(mean_iou(confusion)), confusion, truth.kind, asked)


def summarise_conditions(results: Sequence[ConditionScore]) -> Summary:
    """mIoU of all pixels of all pictures together, by map too; how often the caption is obeyed."""
    kinds = dict.fromkeys(each.kind for each in results)
    asked = [each.as_asked for each in results if each.as_asked is not None]
    return {
        "metric": "mIoU",
        **pooled_iou([each.confusion for each in results]),
        "higher_is_better": True,
        "mean_of_pictures": mean([each.score for each in results]),
        "kinds": {
            kind: pooled_iou([each.confusion for each in results if each.kind == kind])
            for kind in kinds
        },
        "classes": class_iou(np.sum([each.confusion for each in results], axis=0)),
        "as_asked": share(asked) if asked else None,
    }


def score_painted(truth: Truth, answer: np.ndarray) -> PaintedScore:
    """A picture against its caption alone; ValueError when that is none of the captions' grammar."""
    check_size(answer, truth.size)
    return PaintedScore(shows(asked_by(truth.caption), detect(answer)))


def summarise_painted(results: Sequence[PaintedScore]) -> Summary:
    """The share of pictures that show what was asked."""
    return {
        "metric": "as asked",
        **share([each.score for each in results]),
        "higher_is_better": True,
    }


def asked_by(caption: str) -> Said:
    """What a caption asks for; ValueError when the grammar has no such sentence."""
    said = parse(caption)
    if said is None:
        raise ValueError(f"caption {caption!r}: want a sentence of data.scenes.captions")
    return said


def seen_classes(picture: np.ndarray, seen: Detection) -> np.ndarray:
    """int [Y, X]: index into dense.CLASSES of the known object that is seen at every pixel."""
    classes = np.zeros(picture.shape[:2], int)
    known = [o for o in seen.objects if UNKNOWN not in (o.shape, o.colour)]
    if not known:
        return classes
    planes = np.ascontiguousarray(picture.transpose(2, 0, 1), np.float32)
    labels = colour_labels(planes, find_background(planes)[1])
    rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]] + 0.5
    nearest = np.full(classes.shape, REACH)
    for thing in known:
        away = np.hypot(rows - thing.y_px, columns - thing.x_px) / thing.radius_px
        own = (labels == COLOURS.index(thing.colour)) & (away < nearest)
        classes[own], nearest[own] = CLASSES.index(thing.shape), away[own]
    return classes


def shows(said: Said, seen: Detection) -> bool:
    """Whether everything that a caption says is seen; other objects do no harm, as in GenEval.

    Every mention is matched by a different object of its shape, and colour and size where it names one; a relation
    holds, by `judge.relations_of`, between two objects that match; poses are not looked at.
    """
    if said.background is not None and seen.background != said.background:
        return False
    mentions = said.single
    fits = [[matches(each, thing) for thing in seen.objects] for each in mentions]
    if len(pairs(fits)) < len(mentions):
        return False
    if said.where is None:
        return True
    first, second = said.mentions
    return any(
        matches(first, a) and matches(second, b) and said.where in relations_of(a, b)
        for a, b in product(seen.objects, seen.objects)
    )


def matches(mention: Mention, thing: DetectedObject) -> bool:
    """Whether a seen object has what a mention names."""
    return (
        mention.shape == thing.shape
        and mention.colour in (None, thing.colour)
        and mention.size in (None, thing.size)
        and thing.colour != UNKNOWN
    )
