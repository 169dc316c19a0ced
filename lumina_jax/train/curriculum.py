"""The weak-to-strong curriculum (arXiv 2408.02657, 2.2): one table of stages, two schedules, the same boundaries."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import optax

from lumina_jax.experiment import Stage


class Curriculum:
    """Which stage a step belongs to and at which rate it learns.

    With stages of 10 and 5 steps: `boundaries == (10,)`, `total_steps == 15`,
    `stage_index(9) == 0`, `stage_index(10) == 1`.
    """

    def __init__(self, stages: Sequence[Stage]):
        if not stages:
            raise ValueError("train.stages is empty: a run needs at least one Stage")
        self.stages = tuple(stages)
        starts = (0, *itertools.accumulate(stage.steps for stage in self.stages))
        self.boundaries = starts[1:-1]
        self.total_steps = starts[-1]
        self.stage_index = optax.join_schedules(
            [optax.constant_schedule(index) for index in range(len(self.stages))], self.boundaries
        )
        self.learning_rate = optax.join_schedules(
            list(map(_stage_rate, (None, *self.stages[:-1]), self.stages)), self.boundaries
        )

    def stage_of_steps(self) -> np.ndarray:
        """int32[total_steps]: `stage_index` of every step of the run, on the host."""
        steps = np.arange(self.total_steps)
        return np.broadcast_to(np.asarray(self.stage_index(steps), np.int32), steps.shape)

    def stage_starts(self) -> tuple[int, ...]:
        """The first step of every stage."""
        return (0, *self.boundaries)


def _stage_rate(previous: Stage | None, stage: Stage) -> Callable:
    """The rate within `stage`: linear from `warmup_from` or the previous stage's last rate, then half a cosine."""
    start = stage.warmup_from
    if start is None:
        start = 0.0 if previous is None else previous.learning_rate * previous.final_ratio
    decay_steps = max(1, stage.steps - stage.warmup_steps)
    decay = optax.cosine_decay_schedule(stage.learning_rate, decay_steps, stage.final_ratio)
    if stage.warmup_steps == 0:
        return decay
    rise = optax.linear_schedule(start, stage.learning_rate, stage.warmup_steps)
    return optax.join_schedules([rise, decay], [stage.warmup_steps])
