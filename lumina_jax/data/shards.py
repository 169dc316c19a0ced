"""Folders of ArrayRecord shards: written by worker processes, complete or absent, read at random.

ArrayRecord reads and writes local files only: shards that belong into a bucket are worked on in the local cache.
"""

import hashlib
import io
import itertools
import json
import multiprocessing
import os
import platform
import re
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lumina_jax.paths import (
    as_path,
    cache_folder,
    copy_folder,
    is_remote,
    local_files,
    make_folder,
    write_bytes,
)

OPTIONS = "group_size:1,zstd:1"  # one record a chunk: random access reads nothing else
INDEX = "index.json"  # written last: a folder that has it is complete
LENGTHS = "lengths.npy"  # tokens of every record


def shard_name(shard: int, num_shards: int) -> str:
    """ "00003-of-00010.array_record"."""
    return f"{shard:05d}-of-{num_shards:05d}.array_record"


def is_complete(folder: Path) -> bool:
    """Whether every shard of `folder` is there."""
    return (folder / INDEX).is_file()


def missing_shards(folder: Path, num_shards: int) -> list[int]:
    """The shards still to be written; what a killed writer left half done is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob("*.writing"):
        host, _, process_id = leftover.suffixes[-2][1:].rpartition("-")
        if host == _host() and not _is_running(int(process_id)):
            leftover.unlink(missing_ok=True)
    return [s for s in range(num_shards) if not (folder / shard_name(s, num_shards)).exists()]


def write_shard(file: Path, records: Iterable[bytes]) -> None:
    """Write one shard under a temporary name, then rename it: a kill leaves no half shard."""
    from array_record.python.array_record_module import ArrayRecordWriter

    temporary = temporary_name(file)
    writer = ArrayRecordWriter(str(temporary), OPTIONS)
    for record in records:
        writer.write(record)
    writer.close()
    os.replace(temporary, file)


def temporary_name(file: Path) -> Path:
    """What a file is called while this process writes it."""
    return file.with_name(f"{file.name}.{_host()}-{os.getpid()}.writing")


def _link(file: Path, target: Path) -> None:
    """The same file under another name; another process may be doing it too."""
    temporary = temporary_name(target)
    os.link(file, temporary)
    os.replace(temporary, target)


def finish(
    folder: Path, num_records: int, notes: dict[str, Any], lengths: Sequence[int] | None = None
) -> None:
    """Mark `folder` as complete; `lengths`: the tokens of every record, for `read_lengths`."""
    if lengths is not None:
        content = io.BytesIO()
        np.save(content, np.asarray(lengths, np.int32))
        replace_file(folder / LENGTHS, content.getvalue())
    index = json.dumps({"num_records": num_records, **notes}, indent=1) + "\n"
    replace_file(folder / INDEX, index.encode())


def read_lengths(folder: str | Path) -> np.ndarray:
    """int32[num_records]: the tokens of every record of a complete folder, in the order of `open_shards`.

    Raises FileNotFoundError where its writer left none.
    """
    file = as_path(folder) / LENGTHS
    if not file.exists():
        raise FileNotFoundError(f"{file}: not there; write the records again to pack them")
    return np.load(io.BytesIO(file.read_bytes()))


def replace_file(file: Path, content: bytes) -> None:
    """Write a file of a folder so that a reader sees the old one or the new one."""
    temporary = temporary_name(file)
    temporary.write_bytes(content)
    os.replace(temporary, file)


def open_shards(folder: str | Path) -> Any:
    """A random-access source of the records (bytes) of a folder's shards, in order."""
    from grain.sources import ArrayRecordDataSource

    folder = as_path(folder)
    files = local_files(folder, "*.array_record")
    if not files:
        raise FileNotFoundError(f"{folder}: no *.array_record shards there")
    return ArrayRecordDataSource([str(file) for file in files])


def folder_to_fill(data_dir: str | Path, name: str) -> Path:
    """Where the shards `name` of a data folder are read and written: in it, for one in a bucket in the local cache.

    What the bucket holds complete is copied there first.
    """
    home = as_path(data_dir) / name
    if not is_remote(home):
        return home
    folder = (
        cache_folder() / "data" / f"{name}-{hashlib.sha256(str(home).encode()).hexdigest()[:8]}"
    )
    if not is_complete(folder) and is_complete(home):
        make_folder(folder)
        for file in local_files(home):
            if file.name != INDEX:
                _link(file, folder / file.name)
        write_bytes(folder / INDEX, (home / INDEX).read_bytes())
    return folder


def share(folder: Path, data_dir: str | Path, name: str) -> Path:
    """See that a complete folder of `folder_to_fill` is where it belongs; returns the folder to read."""
    home = as_path(data_dir) / name
    if is_remote(home) and not is_complete(home):
        copy_folder(folder, home, last=INDEX)
    return folder


def shard_range(shard: int, num_shards: int, num_records: int) -> range:
    """The records of one shard: contiguous, all shards as equal as they can be."""
    return range(shard * num_records // num_shards, (shard + 1) * num_records // num_shards)


def default_workers(num_workers: int) -> int:
    """`num_workers`, or where it is 0 one process a core that this one may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return num_workers or len(os.sched_getaffinity(0))
    return num_workers or os.cpu_count() or 1


def in_processes(
    function: Callable[..., Any], arguments: list[tuple], num_workers: int
) -> Iterator[Any]:
    """Results of `function(*arguments[i])` as they are ready, in any order, from spawned processes."""
    if len(arguments) <= 1:
        yield from (function(*item) for item in arguments)
        return
    with _pool(min(num_workers, len(arguments))) as pool:
        for future in as_completed([pool.submit(function, *item) for item in arguments]):
            yield future.result()


def in_order(
    function: Callable[..., Any],
    arguments: Iterable[tuple],
    num_workers: int,
    ahead: int = 4,
    single_here: bool = True,
) -> Generator[Any, None, None]:
    """As `in_processes`, in the order of `arguments`, which are taken as needed: at most `ahead` results wait.

    `single_here`: a single call is made in this process; otherwise what kills its process never kills this one.
    """
    coming = iter(arguments)
    first = list(itertools.islice(coming, max(ahead, 2)))
    if len(first) <= single_here:
        yield from (function(*item) for item in first)
        return
    with _pool(num_workers) as pool:
        waiting = deque(pool.submit(function, *item) for item in first)
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, *item) for item in itertools.islice(coming, 1))
            yield result


def one_by_one(function: Callable[..., Any], arguments: Iterable[tuple]) -> Iterator[Any]:
    """As `in_order` in a single process; for what ends that process the error itself, and a new one goes on."""
    coming = iter(arguments)
    item = next(coming, None)
    while item is not None:
        with _pool(1) as pool:
            try:
                while item is not None:
                    yield pool.submit(function, *item).result()
                    item = next(coming, None)
            except BrokenProcessPool as error:
                yield error
                item = next(coming, None)


@contextmanager
def _pool(num_workers: int) -> Iterator[ProcessPoolExecutor]:
    """Spawned processes that leave Ctrl-C to their parent; what is still queued at the end is dropped."""
    # a fork of a process with JAX's threads may hang
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, context, initializer=follow_parent)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def follow_parent(*_: int) -> None:
    """Begin a worker process: leave Ctrl-C to the parent, and end when that is killed.

    Who waits for work alone would wait for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _host() -> str:
    """The name of this machine, of letters and digits."""
    return re.sub(r"[^A-Za-z0-9]", "", platform.node()) or "host"


def _is_running(process_id: int) -> bool:
    """Whether a process of this machine still lives."""
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
