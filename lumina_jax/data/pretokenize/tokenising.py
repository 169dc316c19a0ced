"""Examples to shards: read in worker processes, encoded in batches of one size, written one shard after the other."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lumina_jax.data.pretokenize.conversations import Words, record_of, record_of_ids
from lumina_jax.data.pretokenize.examples import BadInput, Example, Source
from lumina_jax.data.pretokenize.folder import Bad, Shard, keep_shard
from lumina_jax.data.pretokenize.image_loading import Fit, Loaded, load_examples
from lumina_jax.data.records import EncodeBatch, encode_images, pack_record
from lumina_jax.data.shards import in_order, one_by_one, shard_name, shard_range

CHUNK = 8  # examples that a worker reads at a time
AHEAD = 3  # chunks a worker that wait, or are worked on
KILLED = (
    "the process that read it was killed, by its decoder or for its memory (smaller --max-pixels)"
)


class Work(NamedTuple):
    """What is tokenised, and how."""

    source: Source
    fit: Fit
    words: Words
    encode: EncodeBatch
    batch_size: int  # images
    num_shards: int
    num_workers: int


class Ready(NamedTuple):
    """An example that was read, with its images' shapes; their codes are still to come."""

    index: int
    example: Example | BadInput
    loaded: Loaded
    num_images: list[int]  # of every target size


def tokenise_shards(
    work: Work, shards: list[int], folder: Path, on_progress: Callable[[int, list[Bad]], Any]
) -> None:
    """Write some shards of a folder; `on_progress` hears of every example done, and at a shard's end of bad ones."""
    stream = _loaded(work, shards)
    try:
        for shard in shards:
            examples = shard_range(shard, work.num_shards, work.source.count)
            packed, kept = _tokenise(work, examples, stream, on_progress)
            keep_shard(folder, shard_name(shard, work.num_shards), packed, kept)
            on_progress(0, kept.bad)
    finally:
        stream.close()  # ends the workers


def _loaded(work: Work, shards: list[int]) -> Any:
    """(example or what is wrong with it, what a worker made of it), in the order of the shards.

    Where a worker dies, what was in work then is read again one by one: only what kills again is bad.
    """
    flight: dict[int, Example | BadInput] = {}  # what workers have now
    numbers: list[range] = []  # the examples of every chunk they have

    def chunks() -> Iterator[tuple[list[tuple[int, Example]], Fit]]:
        for shard in shards:
            part = shard_range(shard, work.num_shards, work.source.count)
            for start in range(part.start, part.stop, CHUNK):
                indices = range(start, min(start + CHUNK, part.stop))
                flight.update((index, _read(work.source, index)) for index in indices)
                numbers.append(indices)
                yield _readable(indices, flight), work.fit

    coming, broken = chunks(), True
    while broken:
        broken = False
        ahead = AHEAD * work.num_workers + 1
        results = in_order(load_examples, coming, work.num_workers, ahead, False)
        try:
            for found in results:
                by_index = {loaded.index: loaded for loaded in found}
                for index in numbers.pop(0):
                    yield flight.pop(index), by_index.get(index, Loaded(index))
        except BrokenProcessPool as error:
            broken = True
            yield from _load_alone(flight, work.fit, error)
            flight.clear()
            numbers.clear()
        finally:
            results.close()


def _load_alone(
    flight: dict[int, Example | BadInput], fit: Fit, error: BrokenProcessPool
) -> Iterator[tuple[Example | BadInput, Loaded]]:
    """The examples that workers had when one died, each read alone; OSError where the process dies without any."""
    readable = [([one], fit) for one in _readable(flight, flight)]
    results = one_by_one(load_examples, [([], fit), *readable])
    if not flight or isinstance(next(results), BrokenProcessPool):
        places = (
            ", ".join(str(example.where) for example in [*flight.values()][:CHUNK]) or "nothing yet"
        )
        raise OSError(
            "a process that reads images was killed, for its memory perhaps: start the command again, with fewer "
            f"--workers or smaller --max-pixels; it read {places}"
        ) from error
    for index, example in flight.items():
        found = next(results) if isinstance(example, Example) else [Loaded(index)]
        if isinstance(found, BrokenProcessPool):
            found = [Loaded(index, problem=KILLED)]
        yield example, found[0]


def _readable(
    indices: Iterable[int], flight: dict[int, Example | BadInput]
) -> list[tuple[int, Example]]:
    found = ((index, flight[index]) for index in indices)
    return [(index, example) for index, example in found if isinstance(example, Example)]


def _read(source: Source, index: int) -> Example | BadInput:
    try:
        return source.read(index)
    except BadInput as error:
        return error


def _tokenise(
    work: Work, examples: range, stream: Iterator[Any], on_progress: Callable[[int, list[Bad]], Any]
) -> tuple[list[bytes], Shard]:
    """The packed records of one shard, and what its sidecar says."""
    ready: list[Ready] = []

    def images() -> Iterator[np.ndarray]:
        for _ in examples:
            example, loaded = next(stream)
            counts = [len(of_target) for of_target in loaded.images]
            if isinstance(example, Example):
                example = example._replace(images=())  # a dataset's are their bytes
            ready.append(Ready(loaded.index, example, loaded._replace(images=()), counts))
            for of_target in loaded.images:
                yield from of_target
            on_progress(1, [])

    codes = iter(encode_images(images(), work.encode, work.batch_size))
    packed: list[bytes] = []
    shard = Shard([], [], 0)
    for item in ready:
        of_targets = [[next(codes) for _ in range(count)] for count in item.num_images]
        records, reasons = _records(work.words, item, of_targets)
        packed += [content for content, _ in records]
        shard.lengths.extend(length for _, length in records)
        where = item.example.where
        shard.bad.extend(Bad(where.file, where.line, reason) for reason in reasons)
    return packed, shard._replace(num_bytes=sum(map(len, packed)))


def _records(
    words: Words, item: Ready, of_targets: list[list[np.ndarray]]
) -> tuple[list[tuple[bytes, int]], list[str]]:
    """(packed, tokens) of every record of an example, and why others could not be made."""
    index, example = item.index, item.example
    if isinstance(example, BadInput):
        return [], [example.reason]
    if item.loaded.problem:
        return [], [item.loaded.problem]
    records, reasons = [], []
    for target, codes in enumerate(of_targets or [[]]):
        try:
            if item.loaded.ids is not None:
                record = record_of_ids(words, index, example, *item.loaded.ids)
            else:
                record = record_of(words, index, target, example, codes)
            records.append((pack_record(record), len(record.tokens)))
        except ValueError as error:
            reasons.append(" ".join(str(error).split()))
    return records, list(dict.fromkeys(reasons))
