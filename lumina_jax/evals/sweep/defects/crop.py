"""The random crop at inference: what its name calls a centre crop takes an image from anywhere in the picture."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from lumina_jax.data.scenes.render import render
from lumina_jax.data.scenes.scene import Scene, scene_size
from lumina_jax.evals.answering import answers, encoded
from lumina_jax.evals.example import Example
from lumina_jax.evals.grading import evaluator_of, grade
from lumina_jax.evals.intervals import mean, within_noise
from lumina_jax.evals.sweep.points import Point, Sweep
from lumina_jax.evals.sweep.sentences import some_examples
from lumina_jax.evals.tasks.common import Size
from lumina_jax.unirep.image_tokens import resize_and_crop

TASKS = ("segmentation", "depth")
# of the picture's longer side that the crop leaves out: a 16:9 photograph cut to 160x96 px
SLACK = 1 / 16
EDGE = 1e-9  # scene units: centres lie on the edges of pixels, where rounding would draw them a pixel off


def random_crop(sweep: Sweep) -> Point:
    """The score of `segmentation` where pictures of no allowed size are cut at random, less that of the centre's.

    Each picture is the example's with more of its ground along the longer side, so the centre crop is the example's own
    and the truth is that of the protocol. "depth" and the share of codes that change stand beside it.
    """
    found = {task: _of_task(sweep, task) for task in TASKS}
    main = found[TASKS[0]]
    told = "within noise" if within_noise(main["gain"]) else "beyond noise"
    return {
        "metric": f"{main['metric']} of {TASKS[0]}, mean of pictures, random less centre crop",
        **main["gain"],
        "sentence": (
            f"Cut at random, a picture keeps {1 - main['codes_changed']['score']:.0%} of the codes that its centre "
            f"has, and {TASKS[0]} scores {main['random']['score']:.3f} instead of "
            f"{main['centre']['score']:.3f}: {told}."
        ),
        "tasks": found,
    }


def _of_task(sweep: Sweep, task: str) -> dict[str, Any]:
    model, asked = sweep.model, some_examples(task, sweep.amounts.examples)
    centre, random = [cut(each, False) for each in asked], [cut(each, True) for each in asked]
    graded = [
        grade(asked, [answer.last for answer in answers(model, shown, progress=False)])
        for shown in (centre, random)
    ]
    scores = [[float(result.score) for result in each.results] for each in graded]
    is_code = model.tokenizer.vocab.is_code
    sign = 1 if evaluator_of(task).higher_is_better else -1
    pairs = zip(_sentences(model, centre), _sentences(model, random), strict=True)
    return {
        "metric": evaluator_of(task).metric,
        "centre": mean(scores[0]),
        "random": mean(scores[1]),
        "gain": mean([sign * (b - a) for a, b in zip(*scores, strict=True)]),
        "codes_changed": mean([float(np.mean((a != b)[is_code(a)])) for a, b in pairs]),
    }


def cut(example: Example, at_random: bool) -> Example:
    """The example, shown the crop of a picture that is wider, or taller, than any allowed size near it."""
    rng = np.random.default_rng((example.index, 1)) if at_random else None
    turn, size = example.turns[0], example.truth.size
    picture = Image.fromarray(longer_picture(example.truth.scene, size))
    shown = (np.asarray(resize_and_crop(picture, size, rng)),)
    return replace(example, turns=(replace(turn, shown=shown),))


def longer_picture(scene: Scene, size: Size) -> np.ndarray:
    """A render, uint8[Y, X, 3], whose centre is that of `scene` at `size`, with SLACK more along the longer side."""
    more = 2 * round(max(size) * SLACK / (1 - SLACK) / 2)
    wider = size[0] >= size[1]
    width_px, height_px = (size[0] + more, size[1]) if wider else (size[0], size[1] + more)
    shrunk = (size[0] * size[1] / (width_px * height_px)) ** 0.5
    things = tuple(
        replace(o, x=o.x * shrunk + EDGE, y=o.y * shrunk + EDGE, radius=o.radius * shrunk)
        for o in scene.objects
    )
    width, height = scene_size(width_px, height_px)
    return render(replace(scene, width=width, height=height, objects=things), width_px, height_px)


def _sentences(model: Any, shown: Sequence[Example]) -> list[np.ndarray]:
    return list(encoded(model, [each.turns[0].shown[0] for each in shown]))
