"""Which records stand in every row of a stage's batches: planned ahead, a pure function of (config, step).

Grain supplies the index arithmetic: shuffled epochs, sources interleaved by weight, at any place.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Literal, NamedTuple

import grain
import numpy as np

from lumina_jax.data.packing import Bins, best_bin, efficiency, plan_bins, plan_groups
from lumina_jax.data.stepwise import seed_of, shares
from lumina_jax.dims import pick
from lumina_jax.experiment import Stage

NAMED = 5  # records that a message names
ENOUGH_BINS = 100  # to say how full they are
FULL_ENOUGH = 0.97  # bins below it: a line says which size would be fuller


class Row(NamedTuple):
    """The records of one row of a batch, in their order."""

    source: str
    records: np.ndarray  # int64: places in the source
    position: int  # of the row in its stage


class RowPlan(NamedTuple):
    """The rows of every step of a stage."""

    # (step of the stage, row numbers) -> those rows, and the tokens of a row
    at: Callable[[int, Sequence[int]], tuple[list[Row], int]]
    notes: list[str]  # what the reader of a log should know


class _Unit(NamedTuple):
    """What a mixture interleaves: the records of a row, or with "buckets" of a batch."""

    source: str
    records: np.ndarray


def plan_rows(
    stage: Stage,
    counts: Mapping[str, int],
    lengths: Mapping[str, np.ndarray],
    seed: tuple[int, int],
    too_long: Literal["error", "skip"] = "error",
    longest: int | None = None,
) -> RowPlan:
    """The plan of one stage.

    `counts`: records of every source by its name; `lengths`: their tokens, at least of the sources of a stage that
    `needs_lengths`; `seed`: the run's and the stage's number; `longest`: the tokens of a record, at most, where a row
    may have more.
    """
    limit = min(stage.max_tokens, longest or stage.max_tokens)
    parts, notes = [], []
    for name, _ in stage.mixture:
        count = pick(counts, name, "source of the mixture")
        units, source_notes = _units(stage, name, count, lengths.get(name), seed, too_long, limit)
        notes += [f"stage {seed[1]}: {note}" for note in source_notes]
        parts.append(units.seed(seed_of(*seed, name)).shuffle().repeat().map(partial(_Unit, name)))
    weights = shares([weight for _, weight in stage.mixture])
    mixed = parts[0] if len(parts) == 1 else grain.MapDataset.mix(parts, weights)
    if stage.layout == "buckets":
        return RowPlan(partial(_bucketed, stage, lengths, mixed), notes)
    return RowPlan(partial(_rows, stage, mixed), notes)


def needs_lengths(stage: Stage, too_long: Literal["error", "skip"]) -> bool:
    """Whether the stage's plan depends on how long the records are."""
    return stage.layout != "padded" or too_long == "skip"


@cache
def say(note: str) -> None:
    """Print a note of a plan, once in a process."""
    print(note, file=sys.stderr)


def _rows(
    stage: Stage, mixed: grain.MapDataset, step: int, rows: Sequence[int]
) -> tuple[list[Row], int]:
    positions = [step * stage.batch_size + row for row in rows]
    units: list[_Unit] = [mixed[position] for position in positions]
    found = [Row(*unit, position) for unit, position in zip(units, positions, strict=True)]
    return found, stage.max_tokens


def _bucketed(
    stage: Stage,
    lengths: Mapping[str, np.ndarray],
    mixed: grain.MapDataset,
    step: int,
    rows: Sequence[int],
) -> tuple[list[Row], int]:
    """Rows of one group; their width depends on the whole group, of which every host knows the lengths."""
    source, group = mixed[step]
    longest = lengths[source][group].max()
    width = next(size for size in stage.buckets if size >= longest)
    first = step * stage.batch_size
    return [Row(source, group[row : row + 1], first + row) for row in rows], width


def _units(
    stage: Stage,
    name: str,
    count: int,
    lengths: np.ndarray | None,
    seed: tuple[int, int],
    too_long: Literal["error", "skip"],
    limit: int,
) -> tuple[grain.MapDataset, list[str]]:
    """The records of every row (with "buckets": batch) of one epoch of a source."""
    if lengths is None and not needs_lengths(stage, too_long):
        return grain.MapDataset.range(count).map(_alone), []
    if lengths is None or len(lengths) != count:
        found = "none" if lengths is None else f"{len(lengths)}"
        raise ValueError(
            f"stage {seed[1]}: source {name} has {count} records and {found} lengths; "
            f"layout {stage.layout!r} with too_long {too_long!r} wants one each"
        )
    kept, notes = _that_fit(limit, name, lengths, seed[1], too_long)
    if not needs_lengths(stage, too_long):
        return grain.MapDataset.range(count).map(_alone), []
    if stage.layout == "padded":
        return grain.MapDataset.source(Bins(np.arange(len(kept) + 1), kept)), notes
    plan_seed = seed_of(*seed, name, stage.layout)
    if stage.layout == "buckets":
        plan = plan_groups(lengths[kept], stage.batch_size, plan_seed)
    else:
        plan = plan_bins(lengths[kept], stage.max_tokens, plan_seed)
        notes += _fullness(plan, lengths[kept], stage.max_tokens, name)
    return grain.MapDataset.source(Bins(plan.offsets, kept[plan.records])), notes


def _that_fit(
    limit: int, name: str, lengths: np.ndarray, index: int, too_long: Literal["error", "skip"]
) -> tuple[np.ndarray, list[str]]:
    """Places of the records of at most `limit` tokens, and a note of the others; ValueError where they are an error."""
    longer = np.flatnonzero(lengths > limit)
    kept = np.flatnonzero(lengths <= limit)
    if not len(longer):
        return kept, []
    named = ", ".join(f"{name}#{place} ({lengths[place]} tokens)" for place in longer[:NAMED])
    more = ", …" if len(longer) > NAMED else ""
    found = (
        f"{len(longer)} of {len(lengths)} records of source {name} are longer than max_tokens "
        f"{limit}: {named}{more}"
    )
    if too_long == "error" or not len(kept):
        raise ValueError(
            f"stage {index}: {found}; raise max_tokens (the stage's and the model's), or leave them out with "
            "too_long='skip' (--data.too-long skip)"
        )
    return kept, [f"warning: {found}; left out"]


def _fullness(bins: Bins, lengths: np.ndarray, bin_tokens: int, name: str) -> list[str]:
    """A note where another size of bins would be much fuller; a few bins say nothing."""
    share = efficiency(bins, lengths, bin_tokens)
    if share >= FULL_ENOUGH or len(bins) < ENOUGH_BINS:
        return []
    other, better = best_bin(lengths, max(bin_tokens // 2, int(lengths.max())), 2 * bin_tokens)
    if better < share + 0.01:
        return []
    return [
        f"bins of source {name} are {share:.1%} full at max_tokens {bin_tokens}; at {other} they would be "
        f"{better:.1%} full"
    ]


def _alone(index: int) -> np.ndarray:
    return np.array([index])
