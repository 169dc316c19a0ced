"""Batches as a pure function of (config, step): no state to save, the same order for any worker or host count.

Grain supplies the index arithmetic (shuffled epochs, mixtures) and reading ahead in threads; every batch is
looked up by its step, so a resumed run asks for step n and gets what the uninterrupted one would have had.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import grain
import numpy as np

from lumina_jax.data.images import unpack_image
from lumina_jax.data.records import Record, unpack_record
from lumina_jax.dims import pick
from lumina_jax.experiment import Stage
from lumina_jax.unirep.vocab import Vocab

CROP_STEP_PX = 8  # crops start on this grid: the scenes' own, so objects keep their place relative to the patches
READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)


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
    """The part of every batch that this process loads: rows [start, stop) of 0 … 1."""

    index: int = 0
    count: int = 1

    def of(self, batch_size: int) -> range:
        """Row numbers of this process."""
        if batch_size % self.count:
            raise ValueError(
                f"batch_size {batch_size} does not divide over {self.count} processes: use a multiple"
            )
        share = batch_size // self.count
        return range(self.index * share, (self.index + 1) * share)


class PixelSource(NamedTuple):
    """The drawn images of one source, in the order of its cycle of sizes."""

    records: Any  # random access to packed images
    num_sizes: int
    crop_px: int = 0


def token_batches(
    sources: Mapping[str, Any],
    curriculum: Curriculum,
    seed: int,
    vocab: Vocab,
    context_dropout: float,
    start_step: int = 0,
    rows: Rows = Rows(),
) -> Iterator[dict[str, np.ndarray]]:
    """{"tokens", "labels", "segment_ids", "positions"}, each int32[B,S], from `start_step` to the run's end.

    `sources`: random access to packed records by source name.
    """

    def stage_batches(index: int, stage: Stage) -> Callable[[int], dict[str, np.ndarray]]:
        records = mix_records(sources, stage, (seed, index))

        def batch(step: int) -> dict[str, np.ndarray]:
            chosen = []
            for row in rows.of(stage.batch_size):
                position = step * stage.batch_size + row
                record = unpack_record(records[position])
                if drops_context(context_dropout, (seed, index, position)):
                    record = without_context(record, vocab)
                chosen.append(record)
            return pad_records(chosen, stage.max_tokens, vocab.pad_id)

        return batch

    return _by_stage(curriculum, start_step, stage_batches)


def record_ids(
    sources: Mapping[str, Any], curriculum: Curriculum, seed: int, step: int
) -> list[str]:
    """["source#index", …]: the records of the whole batch of `step` (0, 1, …), row by row."""
    index = int(curriculum.stage_of_steps()[step])
    stage = curriculum.stages[index]
    records = mix_records(sources, stage, (seed, index))
    first = (step - curriculum.stage_starts()[index]) * stage.batch_size
    found = [unpack_record(records[first + row]) for row in range(stage.batch_size)]
    return [f"{record.source}#{record.index}" for record in found]


def pixel_batches(
    sources: Mapping[str, PixelSource],
    curriculum: Curriculum,
    seed: int,
    start_step: int = 0,
    rows: Rows = Rows(),
) -> Iterator[dict[str, np.ndarray]]:
    """{"pixels": uint8[B,Y,X,3]} from `start_step` to the run's end; all images of a batch have one size."""

    def stage_batches(index: int, stage: Stage) -> Callable[[int], dict[str, np.ndarray]]:
        images = partial(_image_group, seed=seed, stage_index=index, rows=rows.of(stage.batch_size))
        groups, weights = [], []
        for name, weight in stage.mixture:
            source = pick(sources, name, "source of the mixture")
            num_groups = 1 if source.crop_px else source.num_sizes
            for group in range(num_groups):
                records = source.records
                chosen = grain.MapDataset.source(records)[group::num_groups]
                shuffled = chosen.seed(_seed(seed, index, name, group)).shuffle().repeat()
                whole = grain.MapDataset.range(2**40)
                groups.append(
                    whole.map(partial(images, shuffled, source.crop_px, stage.batch_size))
                )
                weights.append(weight / num_groups)
        mixed = groups[0] if len(groups) == 1 else grain.MapDataset.mix(groups, _shares(weights))
        return mixed.__getitem__

    return _by_stage(curriculum, start_step, stage_batches)


def mix_records(sources: Mapping[str, Any], stage: Stage, seed: tuple[int, int]) -> Any:
    """An endless random-access sequence of packed records: each source's epochs shuffled, sources interleaved."""
    parts = []
    for name, _ in stage.mixture:
        source = grain.MapDataset.source(pick(sources, name, "source of the mixture"))
        parts.append(source.seed(_seed(*seed, name)).shuffle().repeat())
    if len(parts) == 1:
        return parts[0]
    return grain.MapDataset.mix(parts, _shares([weight for _, weight in stage.mixture]))


def drops_context(probability: float, position: Sequence[int]) -> bool:
    """Whether the record at `position` (seed, stage, place in the stage) loses its context."""
    return bool(np.random.default_rng((*position, 0xC0)).random() < probability)


def without_context(record: Record, vocab: Vocab) -> Record:
    """The image alone, start to end token, all predicted: what the unguided pass sees (arXiv 2408.02657, App. F).

    Only for a record whose answer is one image: exactly one end of image, predicted, last before the separator.
    [bos, text, sep, boi, h, w, …, eoi, sep] -> [boi, h, w, …, eoi]. Any other record is returned as it is.
    """
    tokens, labels = record.tokens, record.labels()
    end = vocab.image_end_id
    single = len(tokens) > 2 and tokens[-2] == labels[-2] == end and (tokens == end).sum() == 1
    if not single:
        return record
    kept = labels[labels >= 0][:-1].astype(tokens.dtype)
    return record._replace(tokens=kept, spans=((0, len(kept)),))


def pad_records(records: Sequence[Record], max_tokens: int, pad_id: int) -> dict[str, np.ndarray]:
    """Records as rows of int32[B,S], padded on the right; segment 1 is the record, 0 the padding.

    Raises ValueError naming a record longer than `max_tokens`.
    """
    shape = (len(records), max_tokens)
    batch = {
        "tokens": np.full(shape, pad_id, np.int32),
        "labels": np.full(shape, -100, np.int32),
        "segment_ids": np.zeros(shape, np.int32),
        "positions": np.broadcast_to(np.arange(max_tokens, dtype=np.int32), shape).copy(),
    }
    for row, record in enumerate(records):
        length = len(record.tokens)
        if length > max_tokens:
            raise ValueError(
                f"record {record.source}#{record.index} has {length} tokens, the stage's max_tokens is "
                f"{max_tokens}: raise it or take the record out"
            )
        batch["tokens"][row, :length] = record.tokens
        batch["labels"][row, :length] = record.labels()
        batch["segment_ids"][row, :length] = 1
    return batch


def _by_stage(
    curriculum: Curriculum, start_step: int, stage_batches: Callable[[int, Stage], Callable]
) -> Iterator[dict[str, np.ndarray]]:
    """The batches of every stage from `start_step` on, read ahead across its boundaries."""
    loaders = [stage_batches(index, stage) for index, stage in enumerate(curriculum.stages)]
    starts, stage_of_step = curriculum.stage_starts(), curriculum.stage_of_steps()

    def load(step: int) -> dict[str, np.ndarray]:
        stage = int(stage_of_step[step])
        return loaders[stage](step - starts[stage])

    if start_step >= curriculum.total_steps:
        return iter(())
    steps = grain.MapDataset.range(start_step, curriculum.total_steps)
    return iter(steps.map(load).to_iter_dataset(READ))


def _image_group(
    records: Any,
    crop_px: int,
    batch_size: int,
    group_step: int,
    *,
    seed: int,
    stage_index: int,
    rows: range,
) -> dict[str, np.ndarray]:
    """Batch number `group_step` of one group of equally large images."""
    images = []
    for row in rows:
        position = group_step * batch_size + row
        image = unpack_image(records[position])
        images.append(_crop(image, crop_px, (seed, stage_index, position)) if crop_px else image)
    return {"pixels": np.stack(images)}


def _crop(image: np.ndarray, crop_px: int, position: tuple[int, ...]) -> np.ndarray:
    """A random square crop whose corner lies on the grid of CROP_STEP_PX."""
    height, width = image.shape[:2]
    if min(height, width) < crop_px:
        raise ValueError(f"crop_px {crop_px} is larger than an image of {width}x{height} px")
    rng = np.random.default_rng((*position, 0xC1))
    y = int(rng.integers((height - crop_px) // CROP_STEP_PX + 1)) * CROP_STEP_PX
    x = int(rng.integers((width - crop_px) // CROP_STEP_PX + 1)) * CROP_STEP_PX
    return image[y : y + crop_px, x : x + crop_px]


def _shares(weights: Sequence[float]) -> list[float]:
    return [weight / sum(weights) for weight in weights]


def _seed(*parts: int | str) -> int:
    """One 32-bit seed of several parts."""
    numbers = [int.from_bytes(str(part).encode(), "little") for part in parts]
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
