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
from typing import Any, NamedTuple

import numpy as np

from lumina_jax.data.scenes.scene import Scene

Size = tuple[int, int]  # (width, height) px

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
