"""The curriculum: two schedules from one table of stages."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from lumina_jax.experiment import Stage
from lumina_jax.train.curriculum import Curriculum

STAGES = (
    Stage(10, 8, 1.0, (("a", 1.0),), warmup_steps=4),
    Stage(6, 8, 0.5, (("b", 1.0),), warmup_steps=2, final_ratio=0.1),
    Stage(4, 8, 0.2, (("c", 1.0),), final_ratio=0.5),
)


def test_stage_index_counts_boundaries():
    curriculum = Curriculum(STAGES)
    assert curriculum.boundaries == (10, 16)
    assert curriculum.total_steps == 20
    expected = [0] * 10 + [1] * 6 + [2] * 4
    assert curriculum.stage_of_steps().tolist() == expected
    assert [int(curriculum.stage_index(step)) for step in range(20)] == expected


def test_learning_rate_follows_the_table():
    rate = Curriculum(STAGES).learning_rate
    found = {step: float(rate(step)) for step in (0, 2, 4, 9, 10, 11, 12, 15, 16, 19)}
    half_cosine = 0.2 * (0.5 + 0.5 * 0.5 * (1 + np.cos(np.pi * 3 / 4)))
    wanted = {0: 0.0, 2: 0.5, 4: 1.0, 9: 1.0, 10: 1.0, 11: 0.75, 12: 0.5, 16: 0.2, 19: half_cosine}
    assert found == pytest.approx({**wanted, 15: found[15]}, abs=1e-6)
    assert 0.05 < found[15] < 0.15


def test_a_warm_up_may_begin_at_a_rate_of_its_own():
    """At 0, as where every stage is a run of its own; the steps before and after are as they were."""
    alone = Curriculum((STAGES[0], replace(STAGES[1], warmup_from=0.0), STAGES[2])).learning_rate
    rate = Curriculum(STAGES).learning_rate
    assert [float(alone(step)) for step in (9, 10, 11, 12)] == [1.0, 0.0, 0.25, 0.5]
    assert [float(alone(step)) for step in (13, 16)] == [float(rate(step)) for step in (13, 16)]
    with pytest.raises(ValueError, match="warmup_from -0.1: want 0 or more"):
        replace(STAGES[1], warmup_from=-0.1)


def test_moving_a_boundary_moves_both_schedules():
    moved = Curriculum((replace(STAGES[0], steps=12), *STAGES[1:]))
    assert moved.boundaries == (12, 18)
    assert [int(moved.stage_index(step)) for step in (11, 12)] == [0, 1]
    before, after = Curriculum(STAGES).learning_rate, moved.learning_rate
    assert [float(after(12 + i)) for i in range(8)] == [float(before(10 + i)) for i in range(8)]
    assert float(after(11)) == 1.0


def test_schedules_agree_inside_jit():
    curriculum = Curriculum(STAGES)
    both = jax.jit(lambda step: (curriculum.stage_index(step), curriculum.learning_rate(step)))
    for step in (0, 9, 10, 15, 16):
        index, rate = both(step)
        assert int(index) == curriculum.stage_of_steps()[step]
        assert float(rate) == pytest.approx(float(curriculum.learning_rate(step)), rel=1e-6)


def test_no_stage_is_an_error():
    with pytest.raises(ValueError, match="at least one Stage"):
        Curriculum(())
