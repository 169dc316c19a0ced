"""Batches looked up by their step: no state to save, the same order for any worker or host count.

Grain reads ahead, in threads or in processes; a resumed run asks for step n and gets what the uninterrupted one
would have had.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import NamedTuple, Protocol

import grain
import numpy as np
from absl import flags

from lumina_jax.data.shards import follow_parent
from lumina_jax.experiment import Stage

READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)
BATCHES_AHEAD = 4  # of every worker process

Batch = dict[str, np.ndarray]


class Curriculum(Protocol):
    """What is asked of `train.curriculum.Curriculum`."""

    stages: tuple[Stage, ...]
    total_steps: int

    def stage_starts(self) -> tuple[int, ...]:
        """The first step of every stage."""
        ...

    def stage_of_steps(self) -> np.ndarray:
        """int32[total_steps]: the stage of every step."""
        ...


class Rows(NamedTuple):
    """The part of every batch that this process loads: some of the `count` equal blocks that its rows are cut into."""

    blocks: tuple[int, ...] = (0,)
    count: int = 1

    def of(self, batch_size: int) -> list[int]:
        """Row numbers of this process, block by block."""
        if batch_size % self.count:
            raise ValueError(
                f"batch_size {batch_size} does not divide over {self.count} parts of the mesh: use a multiple"
            )
        share = batch_size // self.count
        return [row for block in self.blocks for row in range(block * share, (block + 1) * share)]


def by_stage(
    curriculum: Curriculum,
    start_step: int,
    stage_batches: Callable[[int, Stage], Callable[[int], Batch]],
    num_workers: int = 0,
) -> Generator[Batch, None, None]:
    """The batches of every stage from `start_step` on, read ahead across its boundaries.

    `stage_batches` makes the lookup of a stage, by the step within it; stages that are over are not asked for.
    """
    if start_step >= curriculum.total_steps:
        return (batch for batch in ())
    starts, stage_of_step = curriculum.stage_starts(), curriculum.stage_of_steps()
    first = int(stage_of_step[start_step])
    loaders = [
        stage_batches(index, stage) if index >= first else None
        for index, stage in enumerate(curriculum.stages)
    ]

    def load(step: int) -> Batch:
        stage = int(stage_of_step[step])
        loader = loaders[stage]
        assert loader is not None
        return loader(step - starts[stage])

    steps = grain.MapDataset.range(start_step, curriculum.total_steps).map(load)
    return _read_ahead(steps, num_workers)


def shares(weights: Sequence[float]) -> list[float]:
    """Weights that sum to 1."""
    return [weight / sum(weights) for weight in weights]


def seed_of(*parts: int | str) -> int:
    """One 32-bit seed of several parts."""
    numbers = [int.from_bytes(str(part).encode(), "little") for part in parts]
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _read_ahead(batches: grain.MapDataset, num_workers: int) -> Generator[Batch, None, None]:
    """The batches in order; the processes end with the iterator."""
    read = batches.to_iter_dataset(READ)
    if num_workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain 0.2.18 reads flags of absl, which our commands do not parse
        options = grain.MultiprocessingOptions(num_workers, BATCHES_AHEAD)
        read = read.mp_prefetch(options, worker_init_fn=follow_parent)
    with closing(iter(read)) as iterator:
        yield from iterator
