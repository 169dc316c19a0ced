"""What the evaluators share: the truth that an answer is held against, and the form of their results.

The interface for a runner, with the table in `evals.tasks.table`:

    evaluator = EVALUATORS[task]                       # a key of data.recipes.RECIPES, but for "chat"
    result = evaluator.score(truth, answer)            # a NamedTuple whose field `score` is the main number
    summary = evaluator.summarise([result, …])         # see `Summary`
    evaluator.true_answer(truth)                       # what the truth itself would answer: the ceiling's input

`answer` is uint8[Y, X, 3] of the truth's size (tasks that paint), a list of such for "multi_view", or str (tasks that
write). A `Truth` needs `scene` and `size`, and beside them for

    segmentation, depth, normals, pose    nothing (pose: a scene with a figure)
    detection                             phrase, as in the prompt: "the red dome"
    edit                                  before, kind (a key of data.scenes.edits.EDIT_KINDS); `scene` is after it.
                                          A second turn is a truth of its own: its before is the first one's scene
    question                              kind (a key of data.scenes.questions.QUESTION_KINDS) and answer, the true one
    describe                              nothing
    image_condition                       kind (a key of data.recipes.MAPS, the given map) and caption
    text_to_image, text_to_image_any_size, multi_view    caption
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import hypot, sqrt
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from lumina_jax.data.scenes.detector import DetectedObject
from lumina_jax.data.scenes.scene import Scene, SceneObject

Size = tuple[int, int]  # (width, height) px

PLACE_TOLERANCE = 0.03  # scene units by which an object's centre may be off: 4 px of 128

# {"metric": its name, "score", "low", "high", "n", "higher_is_better": bool, and other numbers by name: each a dict
# with score, low, high and n, a dict of such dicts by kind, or a plain count}
Summary = dict[str, Any]


@dataclass(frozen=True)
class Truth:
    """What an answer is held against; the module's docstring says which fields a task needs."""

    scene: Scene  # what the answer should show or speak of
    size: Size
    before: Scene | None = None
    kind: str = ""
    phrase: str = ""
    caption: str = ""
    answer: str = ""


class Evaluator(NamedTuple):
    """How one task is scored. Every result of `score` is a NamedTuple with a field `score`."""

    score: Callable[[Truth, Any], Any]
    summarise: Callable[[Sequence[Any]], Summary]
    true_answer: Callable[[Truth], Any]
    metric: str
    higher_is_better: bool = True


def check_size(answer: np.ndarray, size: Size) -> None:
    """Raise ValueError unless a picture is uint8[Y, X, 3] of (width, height) px."""
    want = (size[1], size[0], 3)
    if answer.dtype != np.uint8 or answer.shape != want:
        raise ValueError(
            f"answer is {answer.dtype}{list(answer.shape)}, want uint8{list(want)}: "
            "score pictures of the size that was asked for"
        )


def pairs(fits: Sequence[Sequence[bool]]) -> list[tuple[int, int]]:
    """The largest set of (row, column) that fit, no row and no column twice."""
    table = np.array(fits, bool)
    if table.size == 0:
        return []
    rows, columns = linear_sum_assignment(table, maximize=True)
    return [(int(r), int(c)) for r, c in zip(rows, columns, strict=True) if table[r, c]]


def near(
    thing: SceneObject, seen: DetectedObject, size: Size, tolerance: float = PLACE_TOLERANCE
) -> bool:
    """Whether a seen object's centre is within `tolerance` scene units of an object's."""
    side_px = sqrt(size[0] * size[1])
    x_px, y_px = thing.x * side_px + size[0] / 2, thing.y * side_px + size[1] / 2
    return hypot(seen.x_px - x_px, seen.y_px - y_px) <= tolerance * side_px


def looks_like(thing: SceneObject, seen: DetectedObject) -> bool:
    """Whether a seen object has an object's shape and colour."""
    return (seen.shape, seen.colour) == (thing.shape, thing.colour)
