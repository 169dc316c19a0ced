"""Workers: what kills one costs itself alone, and what they read is what one process reads."""

import itertools
import re
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest

from lumina_jax.data.pretokenize import tokenising
from tests.data.pretokenize.pictures import load_or_die
from tests.data.pretokenize.test_command import FEW, captioned, shards_of


def test_what_kills_a_worker_is_a_bad_input(tmp_path, pretokenize, monkeypatch):
    source = captioned(tmp_path / "src", 14)

    def in_order(function: Any, arguments: Any, *_: Any) -> Iterator[Any]:
        for examples, fit in list(itertools.islice(arguments, 3)):  # of which the last is killed
            if any(index == 9 for index, _ in examples):
                raise BrokenProcessPool
            yield function(examples, fit)

    def one_by_one(function: Any, arguments: Any) -> Iterator[Any]:
        for examples, fit in arguments:
            killed = any(index == 9 for index, _ in examples)
            yield BrokenProcessPool() if killed else function(examples, fit)

    monkeypatch.setattr(tokenising, "in_order", in_order)
    monkeypatch.setattr(tokenising, "one_by_one", one_by_one)
    found = pretokenize(source, *FEW, "--examples-per-shard", 4)
    assert [record.index for record in found.records] == [*range(9), *range(10, 14)]
    assert f"{source}:10: the process that read it was killed" in found.err
    monkeypatch.setattr(
        tokenising, "one_by_one", lambda *_: iter([BrokenProcessPool()])
    )  # not the fault of any input
    found = pretokenize(source, *FEW, "--examples-per-shard", 4, dst="none")
    assert found.code == 2 and re.search(f"killed, .*; it read .*{source}:10", found.err)


@pytest.mark.slow
@pytest.mark.parametrize("count", [12, 40])  # in the last chunk, or amid others
def test_a_real_process_is_killed_and_the_rest_is_read(tmp_path, pretokenize, monkeypatch, count):
    source = captioned(tmp_path / "src", count)
    monkeypatch.setattr(tokenising, "load_examples", load_or_die)
    found = pretokenize(source, *FEW, "--workers", 2, "--examples-per-shard", 16)
    assert [record.index for record in found.records] == [i for i in range(count) if i != 11]
    assert f"{source}:12: the process that read it was killed" in found.err


def test_a_killed_worker_is_told_in_one_line(tmp_path, pretokenize, monkeypatch):
    def broken(*arguments: Any) -> Iterator[Any]:
        raise BrokenProcessPool("a child process terminated abruptly")
        yield

    monkeypatch.setattr(tokenising, "in_order", broken)
    found = pretokenize(captioned(tmp_path / "src", 2), *FEW)
    assert found.code == 2 and "was killed, for its memory perhaps" in found.err


def test_workers_read_what_one_process_does(tmp_path, pretokenize, monkeypatch):
    source = captioned(tmp_path / "src", 20)
    with monkeypatch.context() as here:
        here.setattr(
            tokenising, "in_order", lambda load, chunks, *_: (load(*one) for one in chunks)
        )
        alone = pretokenize(source, *FEW, dst="alone")
    found = pretokenize(source, *FEW, "--workers", 2)
    assert found.code == 0 and shards_of(found.folder) == shards_of(alone.folder)
