"""Loops and collectives of small programs in the forms that compilers write."""

from pathlib import Path

import numpy as np
import pytest

from lumina_jax.plan.collectives import collectives, received, replica_groups
from lumina_jax.plan.loops import Program

PROGRAMS = Path(__file__).parent / "programs"
# A loop over 6 layers as libtpu writes it: no trip count, one gather in three places, another windowed.
TPU = (PROGRAMS / "tpu.hlo").read_text()
SHARD, GATHERED = 128 * 64 * 2, 2048 * 64 * 2

# As XLA writes for GPUs: starts with tuples of operands and results, a wrapped collective, a told trip count.
GPU = (PROGRAMS / "gpu.hlo").read_text()


def test_trips_of_nested_loops_without_a_told_count() -> None:
    """The inner counter goes up by 2 to 16; both are read off condition, body and start."""
    loops = Program(TPU).loops
    assert {name: (loop.trips, loop.around) for name, loop in loops.items()} == {
        "layer_body": (6, ""),
        "window_body": (8, "layer_body"),
    }
    assert Program(GPU).loops["body"].trips == 32


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("direction=LT", "direction=NE"),
        ("add(%copy.7, %constant.6)", "add(%copy.7, %step)"),
        ("constant(16)", "parameter(1)"),
    ],
)
def test_a_count_that_cannot_be_read_is_none(old: str, new: str) -> None:
    program = Program(TPU.replace(old, new))
    assert program.loops["window_body"].trips is None
    assert received(program, collectives(program), "layer_body") is None


def test_a_counter_that_starts_later_runs_less_often() -> None:
    start = "%constant.11 = s32[]{:T(128)} constant"
    program = Program(TPU.replace(f"{start}(0)", f"{start}(2)"))
    assert program.loops["layer_body"].trips == 4


def test_collectives_of_a_tpu_are_counted_once_where_they_start() -> None:
    program = Program(TPU)
    found = {c.name: c for c in collectives(program)}
    assert {name: (c.kind, c.loop, c.asynchronous) for name, c in found.items()} == {
        "all-gather.1": ("all-gather", "layer_body", True),
        "all-reduce.4": ("reduce-scatter", "layer_body", False),
        "collective-permute-start.6": ("collective-permute", "window_body", True),
        "all-gather.9": ("all-gather", "layer_body", False),
        "all-reduce.11": ("all-reduce", "", False),
    }
    gathered = found["all-gather.1"]
    assert (gathered.operand_bytes, gathered.result_bytes) == (SHARD, GATHERED)
    assert gathered.received == GATHERED * 15 / 16
    assert found["all-reduce.4"].result_bytes == 64 * 32 * 4 // 16
    assert found["collective-permute-start.6"].received == SHARD
    assert found["all-reduce.11"].group_size == 16  # of an empty list: all


def test_bytes_of_a_trip_hold_those_of_inner_loops() -> None:
    program = Program(TPU)
    of_one = GATHERED * 15 / 16 + 32 * 64 * 2 * 3 / 4 + 64 * 32 * 4 * 15 / 16 + 8 * SHARD
    assert received(program, collectives(program), "layer_body") == of_one
    assert program.inside("layer_body") == {"layer_body", "window_body"}


def test_tuples_of_asynchronous_starts() -> None:
    found = {c.name: c for c in collectives(Program(GPU), devices_per_slice=4)}
    assert all(c.asynchronous and c.loop == "body" for c in found.values())
    gathered, scattered = found["all-gather-start.2"], found["reduce-scatter.1"]
    assert (gathered.operand_bytes, gathered.result_bytes) == (64 + 64, 256 + 256)
    assert (scattered.operand_bytes, scattered.result_bytes) == (2048, 256)
    assert scattered.received == 2048 * 7 / 8
    assert found["all-reduce-start.2"].received == 2 * 64 / 2
    assert [c.crosses_slices for c in (gathered, scattered, found["all-reduce-start.2"])] == [
        False,
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("line", "groups"),
    [
        ("replica_groups={{0,2},{1,3}}, to_apply", [[0, 2], [1, 3]]),
        ("replica_groups=[2,2]<=[4], dimensions", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0), dimensions", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}, dimensions", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'b','a'}, dimensions", [[0, 2, 1, 3]]),
        ("source_target_pairs={{0,1},{1,0}}, metadata", [[0, 1], [1, 0]]),
        ("replica_groups={}, to_apply", [[0, 1, 2, 3]]),
        ("to_apply", [[0, 1, 2, 3]]),
    ],
)
def test_replica_groups_in_every_form(line: str, groups: list[list[int]]) -> None:
    np.testing.assert_array_equal(replica_groups(line, 4), groups)


def test_transfers_between_tpu_slices_are_sends_to_the_runtime() -> None:
    (found,) = collectives(Program((PROGRAMS / "slices.hlo").read_text()))
    assert (found.kind, found.loop, found.group_size) == ("all-reduce", "body", 2)
    assert found.crosses_slices and found.asynchronous
    assert found.operand_bytes == found.received == 688 * 8 * 128 * 2


def test_sums_on_sparse_cores_run_beside_products() -> None:
    """As jax 0.11 writes them: a computation of their own, started by a custom call."""
    text = GPU.replace("async-start(%g), calls=%wrapped", "custom-call-start(%g), calls=%wrapped")
    found = {c.name: c for c in collectives(Program(text))}
    assert found["reduce-scatter.1"].asynchronous and found["reduce-scatter.1"].loop == "body"
    apart = GPU.replace("async-start(%g), calls=%wrapped", "custom-call(%g), calls=%wrapped")
    found = {c.name: c for c in collectives(Program(apart))}
    assert not found["reduce-scatter.1"].asynchronous
