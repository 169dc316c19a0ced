"""Shards: complete or absent, and read in order."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lumina_jax.data.shards import (
    default_workers,
    finish,
    in_order,
    in_processes,
    is_complete,
    missing_shards,
    open_shards,
    read_lengths,
    shard_name,
    shard_range,
    temporary_name,
    write_shard,
)


def test_shards_read_back_in_order(tmp_path: Path):
    for shard in (1, 0):
        records = [f"{shard}-{i}".encode() for i in range(3)]
        write_shard(tmp_path / shard_name(shard, 2), records)
    source = open_shards(tmp_path)
    assert len(source) == 6
    assert [source[i] for i in range(6)] == [f"{s}-{i}".encode() for s in (0, 1) for i in range(3)]


def test_lengths_come_back_with_the_folder(tmp_path: Path):
    finish(tmp_path, 3, {}, lengths=[5, 70_000, 1])
    assert read_lengths(tmp_path).tolist() == [5, 70_000, 1]
    with pytest.raises(FileNotFoundError, match=r"lengths.npy: not there; write the records again"):
        read_lengths(tmp_path / "elsewhere")


def test_a_killed_writer_leaves_no_shard(tmp_path: Path):
    def records():
        yield b"one"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path / shard_name(0, 2), records())
    assert missing_shards(tmp_path, 2) == [0, 1]
    write_shard(tmp_path / shard_name(1, 2), [b"two"])
    assert missing_shards(tmp_path, 2) == [0]


def test_leftovers_go_unless_their_writer_lives_or_is_on_another_machine(tmp_path: Path):
    mine = temporary_name(tmp_path / shard_name(0, 1))
    process, far = f"-{os.getpid()}.", f"-{2**22 + 1}."  # above Linux's largest process id
    dead = mine.with_name(mine.name.replace(process, far))
    elsewhere = dead.with_name(f"{shard_name(0, 1)}.elsewhere{far}writing")
    for file in (mine, dead, elsewhere):
        file.write_bytes(b"")
    missing_shards(tmp_path, 1)
    assert mine.exists() and elsewhere.exists() and not dead.exists()


def test_only_a_finished_folder_is_complete(tmp_path: Path):
    write_shard(tmp_path / shard_name(0, 1), [b"one"])
    assert not is_complete(tmp_path)
    finish(tmp_path, 1, {})
    assert is_complete(tmp_path)


def test_an_empty_folder_is_one_clear_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no \\*.array_record shards"):
        open_shards(tmp_path)


@pytest.mark.parametrize(("num_shards", "num_records"), [(1, 5), (3, 10), (4, 4)])
def test_shard_ranges_cover_every_record_once(num_shards: int, num_records: int):
    ranges = [shard_range(shard, num_shards, num_records) for shard in range(num_shards)]
    assert [i for part in ranges for i in part] == list(range(num_records))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


def test_a_worker_for_every_core_that_may_be_used(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert (default_workers(0), default_workers(7)) == (2, 7)
    monkeypatch.delattr(os, "sched_getaffinity")
    assert default_workers(0) == 64


def test_processes_return_every_result_in_order():
    arguments = [(base, 2) for base in range(7)]
    assert list(in_order(pow, iter(arguments), num_workers=2)) == [base**2 for base in range(7)]
    assert sorted(in_processes(pow, arguments[:3], num_workers=2)) == [0, 1, 4]


PARENT = """
import os, sys, time
from lumina_jax.data.shards import in_order
results = in_order(os.getpid, [(), (), ()], 1, ahead=1)
print(next(results), flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = Path("/proc") / parent.stdout.readline().strip() / "stat"
    assert worker.exists()
    parent.kill()
    for _ in range(100):
        if not worker.exists() or worker.read_text().split()[2] == "Z":
            return  # gone, or not yet collected by whoever adopted it
        time.sleep(0.1)
    raise AssertionError("the worker still waits for work")
