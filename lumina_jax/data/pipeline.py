"""The transformer's batches as a pure function of (config, step): records to rows of tokens.

`mixture.py` says which records stand in a row, `stepwise.py` reads ahead; see docs/data.md.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np

from lumina_jax.data.mixture import Row, RowPlan, plan_rows, say
from lumina_jax.data.records import Record, unpack_record
from lumina_jax.data.stepwise import Batch, Curriculum, Rows, by_stage
from lumina_jax.experiment import Stage
from lumina_jax.unirep.kinds import area_index, task_index
from lumina_jax.unirep.vocab import Vocab

_area_index = lru_cache(area_index)  # a source has few sizes


def token_batches(
    sources: Mapping[str, Any],
    curriculum: Curriculum,
    seed: int,
    vocab: Vocab,
    context_dropout: float,
    start_step: int = 0,
    rows: Rows = Rows(),
    *,
    lengths: Mapping[str, np.ndarray] | None = None,
    too_long: Literal["error", "skip"] = "error",
    longest: int | None = None,
    num_workers: int = 0,
    image_layout: str = "uni_rep",
) -> Generator[Batch, None, None]:
    """The batches of `rows_of_records` from `start_step` to the run's end; S is the stage's, or a bucket of it.

    `sources`: random access to packed records by source name; `lengths`: the tokens of each of their records,
    where they are known; `longest`: the tokens that a record of any stage may have; `num_workers`: processes that
    load, 0 for threads of this one; `image_layout`: what an image without its context begins with.
    """
    counts = {name: len(records) for name, records in sources.items()}

    def stage_batches(index: int, stage: Stage) -> Callable[[int], Batch]:
        plan = plan_rows(stage, counts, lengths or {}, (seed, index), too_long, longest)
        if 0 in rows.blocks:
            for note in plan.notes:
                say(note)
        mine = rows.of(stage.batch_size)
        drop = partial(_with_dropout, context_dropout, vocab, (seed, index), image_layout)
        return partial(_batch, sources, plan, mine, drop, vocab.pad_id)

    return by_stage(curriculum, start_step, stage_batches, num_workers)


def record_ids(
    sources: Mapping[str, Any],
    curriculum: Curriculum,
    seed: int,
    *,
    lengths: Mapping[str, np.ndarray] | None = None,
    too_long: Literal["error", "skip"] = "error",
    longest: int | None = None,
) -> Callable[[int], list[str]]:
    """Step (0, 1, …) -> the records of its whole batch, row by row: "pairs#17 (captions.jsonl#204)".

    Source and place in it, and what a record says of where it comes from, if that is something else. A stage is planned
    when the first of its steps is asked for.
    """
    counts = {name: len(given) for name, given in sources.items()}
    stage_of_step, starts = curriculum.stage_of_steps(), curriculum.stage_starts()

    @lru_cache(1)
    def plan_of(index: int) -> RowPlan:
        stage = curriculum.stages[index]
        return plan_rows(stage, counts, lengths or {}, (seed, index), too_long, longest)

    def ids(step: int) -> list[str]:
        index = int(stage_of_step[step])
        rows, _ = plan_of(index).at(
            step - starts[index], range(curriculum.stages[index].batch_size)
        )
        names = [f"{row.source}#{place}" for row in rows for place in row.records]
        found = [record for row in rows for record in _read(sources, row)]
        origins = [f"{record.source}#{record.index}" for record in found]
        return [
            name if name == origin else f"{name} ({origin})"
            for name, origin in zip(names, origins, strict=True)
        ]

    return ids


def drops_context(probability: float, position: Sequence[int], count: int = 1) -> np.ndarray:
    """bool[count]: which records of the row at `position` (seed, stage, place in the stage) lose their context."""
    return np.random.default_rng((*position, 0xC0)).random(count) < probability


def without_context(record: Record, vocab: Vocab, image_layout: str = "uni_rep") -> Record:
    """The image alone, start to end token, all predicted: what the unguided pass sees (arXiv 2408.02657, App. F).

    Only for a record whose answer is one image: exactly one end of image, predicted, last before the separator.
    [bos, text, sep, boi, h, w, …, eoi, sep] -> [boi, h, w, …, eoi]. In the layout "plain" the unguided pass reads
    [bos, boi] before the first code: [bos, boi, …, eoi], these two given. Any other record is returned as it is.
    """
    tokens, labels = record.tokens, record.labels()
    end = vocab.image_end_id
    single = len(tokens) > 2 and tokens[-2] == labels[-2] == end and (tokens == end).sum() == 1
    if not single:
        return record
    kept = labels[labels >= 0][:-1].astype(tokens.dtype)
    if image_layout == "plain":
        kept = np.concatenate([tokens[:1], kept])
        return record._replace(tokens=kept, spans=((2, len(kept)),))
    return record._replace(tokens=kept, spans=((0, len(kept)),))


def rows_of_records(rows: Sequence[Sequence[Record]], max_tokens: int, pad_id: int) -> Batch:
    """Rows of records one behind the other, padded on the right, each array int32[B,S].

    "tokens"; "labels" (not shifted, -100: not predicted); "segment_ids" (1, 2, … of the row's records, 0 of the
    padding); "positions" (from 0 in every record; the padding goes on counting); "tasks" and "areas" (every
    token's record by `unirep/kinds.py`, 0 in the padding). Records of 3 and 2 tokens in a row of 6:

        segment_ids [1, 1, 1, 2, 2, 0], positions [0, 1, 2, 0, 1, 2]

    Raises ValueError naming a record that does not fit.
    """
    shape = (len(rows), max_tokens)
    batch = {name: np.zeros(shape, np.int32) for name in ("segment_ids", "tasks", "areas")}
    batch["tokens"] = np.full(shape, pad_id, np.int32)
    batch["labels"] = np.full(shape, -100, np.int32)
    batch["positions"] = np.empty(shape, np.int32)
    count = np.arange(max_tokens, dtype=np.int32)
    for row, records in enumerate(rows):
        _fill_row({name: array[row] for name, array in batch.items()}, records, count)
    return batch


def _fill_row(row: Batch, records: Sequence[Record], count: np.ndarray) -> None:
    """Write the records of one row; `count`: 0 … S - 1."""
    at = start = 0
    tokens, labels = row["tokens"], row["labels"]
    for segment, record in enumerate(records, 1):
        start, at = at, at + len(record.tokens)
        if at > len(count):
            raise ValueError(
                f"record {record.source}#{record.index} has {at - start} tokens, the stage's max_tokens is "
                f"{len(count)}{f', {start} of them taken' if start else ''}: raise it or take the record out"
            )
        tokens[start:at] = record.tokens
        for first, last in record.spans:
            labels[start + first : start + last] = record.tokens[first:last]
        row["segment_ids"][start:at] = segment
        row["positions"][start:at] = count[: at - start]
        row["tasks"][start:at] = task_index(record.task)
        row["areas"][start:at] = _area_index(record.size)
    row["positions"][at:] = count[at - start : len(count) - start]


def _batch(
    sources: Mapping[str, Any],
    plan: RowPlan,
    mine: Sequence[int],
    drop: Callable[[Row, list[Record]], list[Record]],
    pad_id: int,
    step: int,
) -> Batch:
    """The rows `mine` of one step of a stage."""
    rows, width = plan.at(step, mine)
    return rows_of_records([drop(row, _read(sources, row)) for row in rows], width, pad_id)


def _read(sources: Mapping[str, Any], row: Row) -> list[Record]:
    records = sources[row.source]
    return [unpack_record(records[int(place)]) for place in row.records]


def _with_dropout(
    probability: float,
    vocab: Vocab,
    seed: tuple[int, int],
    image_layout: str,
    row: Row,
    records: list[Record],
) -> list[Record]:
    """The records of a row, some without context: drawn by the row's position in the stage and the place in it."""
    if probability <= 0:
        return records
    dropped = drops_context(probability, (*seed, row.position), len(records))
    return [
        without_context(record, vocab, image_layout) if drop else record
        for record, drop in zip(records, dropped, strict=True)
    ]
