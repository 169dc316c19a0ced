"""Which records share a row: bins filled ahead of time, a pure function of lengths and seed.

Bins are filled greedily, as best-fit decreasing does, but by distinct lengths instead of by records: a filling is
repeated as long as the counts of its lengths last, which is what the greedy rule would do again.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

WINDOW = 2**16  # records that are packed together
GROUPS_A_WINDOW = 500  # batches of one window are sorted together, as Lumina-mGPT's sampler does
STEP = 128  # bins that `best_bin` tries are multiples of it: accelerators' kernels like them

Filling = tuple[dict[int, int], int]  # (place of a distinct length -> records of it in a bin, bins)


@dataclass(frozen=True, eq=False)
class Bins:
    """A random-access sequence: bin b is records[offsets[b]:offsets[b + 1]], places of records in their source."""

    offsets: np.ndarray  # int64[bins + 1]
    records: np.ndarray  # int64[records]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        return self.records[self.offsets[index] : self.offsets[index + 1]]


def plan_bins(lengths: np.ndarray, bin_tokens: int, seed: int, window: int = WINDOW) -> Bins:
    """Every record in one bin of at most `bin_tokens`; the records of a bin and the bins are shuffled by `seed`.

    Lengths 5, 3, 2 and a bin of 5: [[0], [1, 2]], in one order or another. Raises ValueError for a record
    longer than a bin.
    """
    if len(lengths) and lengths.max() > bin_tokens:
        raise ValueError(f"a record of {lengths.max()} tokens in bins of {bin_tokens}")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(lengths))
    parts: list[np.ndarray] = []
    sizes: list[np.ndarray] = []
    for start in range(0, len(order), window):
        for rows in _packed_window(order[start : start + window], lengths, bin_tokens):
            parts.append(rows.ravel())
            sizes.append(np.full(len(rows), rows.shape[1]))
    if not parts:
        return Bins(np.zeros(1, np.int64), np.zeros(0, np.int64))
    return _shuffled(np.concatenate(parts), np.concatenate(sizes), rng)


def plan_groups(lengths: np.ndarray, group_size: int, seed: int) -> Bins:
    """Records in groups of `group_size` of similar length, shuffled; sorted within windows of shuffled records.

    What is missing to the last group is filled with records that stand in another one too.
    """
    rng = np.random.default_rng(seed)
    num_groups = -(-len(lengths) // group_size)
    order = np.resize(rng.permutation(len(lengths)), num_groups * group_size)
    window = GROUPS_A_WINDOW * group_size
    for start in range(0, len(order), window):
        part = order[start : start + window]
        order[start : start + window] = part[np.argsort(lengths[part], kind="stable")]
    return _shuffled(order, np.full(num_groups, group_size), rng)


def efficiency(bins: Bins, lengths: np.ndarray, bin_tokens: int) -> float:
    """The share of the bins' places that hold a token."""
    return float(lengths[bins.records].sum() / max(1, len(bins) * bin_tokens))


def best_bin(
    lengths: np.ndarray, smallest: int, largest: int, sample: int = 4096
) -> tuple[int, float]:
    """The size from `smallest` to `largest` whose bins a sample of the records fills best, and how full they are.

    Multiples of 128 are tried, below 1024 tokens of 8.
    """
    some = lengths[:: -(-len(lengths) // sample)]
    step = STEP if smallest >= 8 * STEP else STEP // 16
    sizes = range(-(-smallest // step) * step, max(smallest + step, largest + 1), step)
    shares = {size: efficiency(plan_bins(some, size, 0), some, size) for size in sizes}
    best = max(shares, key=shares.__getitem__)
    return best, shares[best]


def _packed_window(order: np.ndarray, lengths: np.ndarray, bin_tokens: int) -> Iterator[np.ndarray]:
    """Records [bins, records a bin] of every filling of one window, by the rule that needs the fewest bins."""
    here = lengths[order]
    by_length = order[np.argsort(here, kind="stable")]
    distinct, counts = np.unique(here, return_counts=True)
    next_of = np.cumsum(counts) - counts
    mean = max(1.0, float(here.mean()))
    even_share = bin_tokens / max(1, int(bin_tokens / mean))
    plans = [
        list(_fillings(distinct.tolist(), counts.tolist(), bin_tokens, share))
        for share in (even_share, None)
    ]
    for used, times in min(plans, key=lambda plan: sum(times for _, times in plan)):
        columns = []
        for place, count in used.items():
            start = next_of[place]
            next_of[place] += times * count
            columns.append(by_length[start : next_of[place]].reshape(times, count))
        yield np.concatenate(columns, axis=1)


def _fillings(
    distinct: list[int], counts: list[int], bin_tokens: int, share: float | None
) -> Iterator[Filling]:
    """Bins filled until no record is left.

    The next record of a bin is the longest that fits. With `share`, the tokens of a bin a record, it is the
    longest that leaves as much to each of those still to come: records of similar lengths then end where bins do.
    """
    values, places, left = list(distinct), list(range(len(distinct))), list(counts)
    while values:
        used: dict[int, int] = {}
        room = bin_tokens
        while True:
            still = 1 if share is None or not used else max(1, round(room / share))
            at = _longest(values, left, used, room // still)
            if at < 0 and still > 1:
                at = _longest(values, left, used, room)
            if at < 0:
                break
            used[at] = used.get(at, 0) + 1
            room -= values[at]
        times = min(left[at] // count for at, count in used.items())
        yield {places[at]: count for at, count in used.items()}, times
        for at in sorted(used, reverse=True):
            left[at] -= times * used[at]
            if not left[at]:
                del values[at], places[at], left[at]


def _longest(values: list[int], left: list[int], used: dict[int, int], limit: int) -> int:
    """The place of the largest of the sorted `values` up to `limit` that is not used up; -1: there is none."""
    at = bisect_right(values, limit) - 1
    while at >= 0 and used.get(at, 0) >= left[at]:
        at -= 1
    return at


def _shuffled(records: np.ndarray, sizes: np.ndarray, rng: np.random.Generator) -> Bins:
    """Bins of `sizes` cut from `records`, in another order."""
    starts = np.cumsum(sizes) - sizes
    order = rng.permutation(len(sizes))
    offsets = np.concatenate([[0], np.cumsum(sizes[order])]).astype(np.int64)
    within = np.arange(len(records)) - np.repeat(offsets[:-1], sizes[order])
    return Bins(offsets, records[np.repeat(starts[order], sizes[order]) + within])
