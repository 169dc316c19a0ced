"""Every task on the embedded dataset with its evaluator; `evals.tasks.common` tells the interface."""

from collections.abc import Callable
from typing import Any

import numpy as np

from lumina_jax.data.recipes import VIEWS_YAW_DEG
from lumina_jax.data.scenes import maps
from lumina_jax.data.scenes.captions import caption
from lumina_jax.data.scenes.render import render
from lumina_jax.evals.tasks.boxes import score_boxes, summarise_boxes
from lumina_jax.evals.tasks.captions import score_caption, summarise_captions
from lumina_jax.evals.tasks.common import Evaluator, Truth
from lumina_jax.evals.tasks.conditions import (
    score_condition,
    score_painted,
    summarise_conditions,
    summarise_painted,
)
from lumina_jax.evals.tasks.dense import (
    score_depth,
    score_normals,
    score_segmentation,
    summarise_depth,
    summarise_normals,
    summarise_segmentation,
)
from lumina_jax.evals.tasks.edits import score_edit, summarise_edits
from lumina_jax.evals.tasks.keypoints import score_pose, summarise_pose
from lumina_jax.evals.tasks.questions import score_question, summarise_questions
from lumina_jax.evals.tasks.views import score_views, summarise_views


def _map(name: str) -> Callable[[Truth], np.ndarray]:
    """The scene's answer image of a map."""
    return lambda truth: maps.ANSWERS[name](truth.scene, *truth.size)


def _picture(truth: Truth) -> np.ndarray:
    """The scene itself."""
    return render(truth.scene, *truth.size)


def _boxed(truth: Truth) -> np.ndarray:
    """The scene with its named objects in boxes."""
    return maps.boxes_drawn(truth.scene, *truth.size, truth.phrase)


def _views(truth: Truth) -> list[np.ndarray]:
    """The scene from all sides."""
    return [render(truth.scene, *truth.size, yaw) for yaw in VIEWS_YAW_DEG]


def _sentence(truth: Truth) -> str:
    """A true caption, always the same of a scene."""
    return caption(truth.scene, np.random.default_rng(0))


def _words(truth: Truth) -> Any:
    """The true answer."""
    return truth.answer


_SEGMENTATION = Evaluator(score_segmentation, summarise_segmentation, _map("segmentation"), "mIoU")
_NORMALS = Evaluator(
    score_normals, summarise_normals, _map("normals"), "mean angle in degrees", False
)
_EDIT = Evaluator(score_edit, summarise_edits, _picture, "edit success")
_PAINTED = Evaluator(score_painted, summarise_painted, _picture, "as asked")

EVALUATORS = {
    "text_to_image": _PAINTED,
    "text_to_image_any_size": _PAINTED,
    "multi_view": Evaluator(score_views, summarise_views, _views, "objects that stay"),
    "image_condition": Evaluator(score_condition, summarise_conditions, _picture, "mIoU"),
    "segmentation": _SEGMENTATION,
    "depth": Evaluator(score_depth, summarise_depth, _map("depth"), "delta1"),
    "normals": _NORMALS,
    "pose": Evaluator(score_pose, summarise_pose, _map("pose"), "PCK@0.1"),
    "detection": Evaluator(score_boxes, summarise_boxes, _boxed, "mean IoU"),
    "describe": Evaluator(score_caption, summarise_captions, _sentence, "F1 of objects"),
    "question": Evaluator(score_question, summarise_questions, _words, "exact match"),
    "edit": _EDIT,
    "next_edit": _EDIT,
}
