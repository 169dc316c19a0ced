"""One run on one, two and four processes in turn, under every kind of mesh, goes as on one process.

Of these meshes some split a row's model over processes, which then load the same rows.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from lumina_jax.experiment import Experiment, MeshConfig
from tests.train.processes import finish, losses, rows_of, start, start_cluster

NUM_STEPS, DEVICES = 24, 4
STEPS_OF_A_LIFE = 3  # and a few more, until all processes agree on where to stop
STOP = f"""
import os, signal
counted, begun = Report.next, []

def stopping(self, batches):
    begun.append(1)
    if len(begun) == {STEPS_OF_A_LIFE} and index == "0":
        os.kill(os.getpid(), signal.SIGTERM)
    return counted(self, batches)

Report.next = stopping
"""


class Life(NamedTuple):
    """A part of the run."""

    processes: int
    strategy: str
    axes: tuple[tuple[str, int], ...]
    blocks: tuple[tuple[int, ...], ...]  # of a batch, that each process loads


LIVES = (
    Life(2, "fsdp", (("fsdp", 4),), ((0, 1), (2, 3))),
    Life(4, "data_fsdp", (("data", 2), ("fsdp", 2)), ((0,), (1,), (2,), (3,))),
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

    single = of("fsdp", (("fsdp", DEVICES),))
    finish(start(single, whole), whole)
    finish(start(single, chain, first=STOP), chain)
    for life in LIVES:
        before = len(losses(chain))
        experiment = of(life.strategy, life.axes)
        for file in tmp_path.glob("chain-*.rows"):
            file.unlink()
        for process in start_cluster(experiment, chain, life.processes, DEVICES, STOP):
            finish(process, chain)
        loaded, expected = rows_of(chain, life.processes), rows_of(whole)[before:]
        assert before + STEPS_OF_A_LIFE <= before + len(loaded) < NUM_STEPS
        for found, rows in zip(loaded, expected, strict=False):
            assert found == [row for part in loaded_by(rows, life) for row in part], life
    finish(start(single, chain), chain)
    found, expected = losses(chain), losses(whole)
    assert [step for step, _ in found] == list(range(1, NUM_STEPS + 1))
    assert [loss for _, loss in found] == pytest.approx([loss for _, loss in expected], rel=1e-5)
