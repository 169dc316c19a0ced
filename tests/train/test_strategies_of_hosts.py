"""One run on two and four processes in turn, whose meshes split a row's model over them, goes as on one process.

Such processes load the same rows. Meshes that split rows alone: test_kill.py, test_elastic.py.
"""

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from lumina_jax.experiment import Experiment, MeshConfig
from lumina_jax.train.signals import STOPPED_CODE
from tests.train.processes import STOP_AT, finish, losses, rows_of, start, start_cluster

NUM_STEPS, DEVICES = 16, 4
STEPS_OF_A_LIFE = 3  # and a few more, until all processes agree on where to stop
STOP = STOP_AT.format(batch=STEPS_OF_A_LIFE, number=int(signal.SIGTERM))


class Life(NamedTuple):
    """A part of the run."""

    processes: int
    strategy: str
    axes: tuple[tuple[str, int], ...]
    blocks: tuple[tuple[int, ...], ...]  # of a batch, that each process loads


LIVES = (
    Life(2, "fsdp_tensor", (("tensor", 2), ("fsdp", 2)), ((0, 1), (0, 1))),
    Life(4, "fsdp_tensor", (("fsdp", 2), ("tensor", 2)), ((0,), (0,), (1,), (1,))),
)


def loaded_by(rows: list[int], life: Life) -> list[list[int]]:
    """Of a batch's rows, those that each process loads."""
    count = 1 + max(block for blocks in life.blocks for block in blocks)
    share = len(rows) // count
    parts = [rows[block * share : (block + 1) * share] for block in range(count)]
    return [[row for block in blocks for row in parts[block]] for blocks in life.blocks]


@pytest.mark.multihost
def test_processes_and_meshes_in_turn_equal_one_process(
    tiny_run: Callable[..., Experiment], tmp_path: Path
):
    plain = tiny_run()
    stages = tuple(
        replace(stage, steps=NUM_STEPS // 2, learning_rate=1e-3) for stage in plain.train.stages
    )
    transformer = replace(plain.model.transformer, num_heads=4, num_kv_heads=4, head_size=4)
    model = replace(plain.model, transformer=transformer)
    whole, chain = tmp_path / "whole", tmp_path / "chain"

    def of(strategy: str, axes: tuple[tuple[str, int], ...]) -> Experiment:
        run = tiny_run(stages=stages, save_every=100, mesh=MeshConfig(strategy, axes))
        return replace(run, model=model)

    finish(start(of("fsdp", (("fsdp", DEVICES),)), whole), whole)
    for life in LIVES:
        before = len(losses(chain))
        experiment = of(life.strategy, life.axes)
        for file in tmp_path.glob("chain-*.rows"):
            file.unlink()
        last = life is LIVES[-1]
        stop, code = ("", 0) if last else (STOP, STOPPED_CODE)
        for process in start_cluster(experiment, chain, life.processes, DEVICES, stop):
            finish(process, chain, code)
        loaded, expected = rows_of(chain, life.processes), rows_of(whole)[before:]
        assert STEPS_OF_A_LIFE <= len(loaded) and (before + len(loaded) == NUM_STEPS) == last
        for found, rows in zip(loaded, expected, strict=False):
            assert found == [row for part in loaded_by(rows, life) for row in part], life
    found, expected = losses(chain), losses(whole)
    assert [step for step, _ in found] == list(range(1, NUM_STEPS + 1))
    assert [loss for _, loss in found] == pytest.approx([loss for _, loss in expected], rel=1e-5)
