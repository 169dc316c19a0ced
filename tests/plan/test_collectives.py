"""Loops and collectives of small programs in the forms that compilers write."""

import numpy as np
import pytest

from lumina_jax.plan.collectives import collectives, received, replica_groups
from lumina_jax.plan.loops import Program

# A loop over 6 layers as libtpu writes it: no trip count, one gather in three places, another windowed.
TPU = """HloModule jit_step, is_scheduled=true, num_partitions=16
%started (p.1: bf16[128,64]) -> (bf16[128,64], bf16[2048,64], u32[]) {
  %p.1 = bf16[128,64]{1,0} parameter(0)
  %all-gather.1 = bf16[2048,64]{1,0:T(8,128)(2,1)} all-gather(%p.1), channel_id=7, replica_groups=mesh['axis_0'=16] {'axis_0'}, dimensions={0}
  ROOT %custom-call.1 = (bf16[128,64]{1,0}, bf16[2048,64]{1,0}, u32[]{:S(2)}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.5 (p.2: bf16[128,64], p.3: f32[8,8]) -> (f32[8,8], bf16[2048,64]) {
  %p.2 = bf16[128,64]{1,0} parameter(0)
  %p.3 = f32[8,8]{1,0} parameter(1)
  %all-gather.2 = bf16[2048,64]{1,0} all-gather(%p.2), channel_id=7, replica_groups=mesh['axis_0'=16] {'axis_0'}, dimensions={0}
  ROOT %tuple.2 = (f32[8,8]{1,0}, bf16[2048,64]{1,0}) tuple(%p.3, %all-gather.2)
}

%all-reduce-scatter.1 (p.4: f32[64,32]) -> f32[4,32] {
  %p.4 = f32[64,32]{1,0} parameter(0)
  %all-reduce.4 = f32[64,32]{1,0} all-reduce(%p.4), channel_id=9, replica_groups=[1,16]<=[16], to_apply=%add
  ROOT %dynamic-slice.4 = f32[4,32]{1,0} dynamic-slice(%all-reduce.4, %c, %c), dynamic_slice_sizes={4,32}
}

%window_condition (p.5: (bf16[128,64], u32[])) -> pred[] {
  %constant.5 = u32[]{:T(128)} constant(16)
  %p.5 = (bf16[128,64]{1,0}, u32[]{:T(128)}) parameter(0)
  %get-tuple-element.5 = u32[]{:T(128)} get-tuple-element(%p.5), index=1
  ROOT %compare.5 = pred[]{:T(512)} compare(%get-tuple-element.5, %constant.5), direction=LT
}

%window_body (p.6: (bf16[128,64], u32[])) -> (bf16[128,64], u32[]) {
  %constant.6 = u32[]{:T(128)} constant(2)
  %p.6 = (bf16[128,64]{1,0}, u32[]{:T(128)}) parameter(0)
  %get-tuple-element.6 = bf16[128,64]{1,0} get-tuple-element(%p.6), index=0
  %get-tuple-element.7 = u32[]{:T(128)} get-tuple-element(%p.6), index=1
  %collective-permute-start.6 = (bf16[128,64]{1,0}, bf16[128,64]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%get-tuple-element.6), channel_id=11, source_target_pairs={{0,1},{1,2},{15,0}}
  %collective-permute-done.6 = bf16[128,64]{1,0} collective-permute-done(%collective-permute-start.6)
  %fusion.6 = (f32[8,8]{1,0}, bf16[2048,64]{1,0}) fusion(%get-tuple-element.6, %x), kind=kOutput, calls=%async_collective_fusion.5
  %copy.7 = u32[]{:T(128)} copy(%get-tuple-element.7)
  %add.6 = u32[]{:T(128)} add(%copy.7, %constant.6)
  ROOT %tuple.6 = (bf16[128,64]{1,0}, u32[]{:T(128)}) tuple(%collective-permute-done.6, %add.6)
}

%layer_condition (p.8: (s32[], bf16[128,64])) -> pred[] {
  %constant.8 = s32[]{:T(128)} constant(6)
  %p.8 = (s32[]{:T(128)}, bf16[128,64]{1,0}) parameter(0)
  %get-tuple-element.8 = s32[]{:T(128)} get-tuple-element(%p.8), index=0
  ROOT %compare.8 = pred[]{:T(512)} compare(%get-tuple-element.8, %constant.8), direction=LT
}

%layer_body (p.9: (s32[], bf16[128,64])) -> (s32[], bf16[128,64]) {
  %constant.9 = s32[]{:T(128)} constant(1)
  %constant.10 = u32[]{:T(128)} constant(0)
  %p.9 = (s32[]{:T(128)}, bf16[128,64]{1,0}) parameter(0)
  %get-tuple-element.9 = s32[]{:T(128)} get-tuple-element(%p.9), index=0
  %w = bf16[128,64]{1,0} get-tuple-element(%p.9), index=1
  %async-collective-start.1 = (bf16[128,64]{1,0}, bf16[2048,64]{1,0}, u32[]{:S(2)}) fusion(%w), kind=kCustom, calls=%started
  %tuple.9 = (bf16[128,64]{1,0}, u32[]{:T(128)}) tuple(%w, %constant.10)
  %while.9 = (bf16[128,64]{1,0}, u32[]{:T(128)}) while(%tuple.9), condition=%window_condition, body=%window_body, metadata={op_name="jit(step)/layers/dot_general"}
  %all-gather.9 = bf16[32,64]{1,0} all-gather(%y), channel_id=13, replica_groups=[4,4]<=[4,4]T(1,0), dimensions={0}
  %fusion.9 = f32[4,32]{1,0} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.1
  %add.9 = s32[]{:T(128)} add(%get-tuple-element.9, %constant.9)
  ROOT %tuple.10 = (s32[]{:T(128)}, bf16[128,64]{1,0}) tuple(%add.9, %w)
}

ENTRY %main (p: bf16[128,64]) -> bf16[128,64] {
  %p = bf16[128,64]{1,0} parameter(0)
  %constant.11 = s32[]{:T(128)} constant(0)
  %tuple.11 = (s32[]{:T(128)}, bf16[128,64]{1,0}) tuple(%constant.11, %p)
  %while.11 = (s32[]{:T(128)}, bf16[128,64]{1,0}) while(%tuple.11), condition=%layer_condition, body=%layer_body, metadata={op_name="jit(step)/while"}
  ROOT %all-reduce.11 = f32[]{:T(128)} all-reduce(%z), channel_id=15, replica_groups={}, to_apply=%add
}
"""
SHARD, GATHERED = 128 * 64 * 2, 2048 * 64 * 2

# As XLA writes for GPUs: starts with tuples of operands and results, a wrapped collective, a told trip count.
GPU = """HloModule jit_step, replica_count=1, num_partitions=8
%wrapped (p.1: f32[64,8]) -> f32[8,8] {
  %p.1 = f32[64,8]{1,0} parameter(0)
  ROOT %reduce-scatter.1 = f32[8,8]{1,0} reduce-scatter(%p.1), channel_id=1, replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}, to_apply=%add
}

%body (p.2: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %p.2 = (s32[], bf16[4,8]{1,0}) parameter(0)
  %a = bf16[4,8]{1,0} get-tuple-element(%p.2), index=1
  %b = f32[2,8]{1,0} get-tuple-element(%p.2), index=2
  %all-gather-start.2 = ((bf16[4,8]{1,0}, f32[2,8]{1,0}), (bf16[16,8]{1,0}, f32[8,8]{1,0})) all-gather-start(%a, %b), channel_id=2, replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
  %all-gather-done.2 = (bf16[16,8]{1,0}, f32[8,8]{1,0}) all-gather-done(%all-gather-start.2)
  %g = f32[64,8]{1,0} fusion(%a), kind=kLoop, calls=%gradient
  %reduce-scatter-start.2 = ((f32[64,8]{1,0}), f32[8,8]{1,0}) async-start(%g), calls=%wrapped
  %reduce-scatter-done.2 = f32[8,8]{1,0} async-done(%reduce-scatter-start.2)
  %all-reduce-start.2 = f32[2,8]{1,0} all-reduce-start(%b), channel_id=3, replica_groups={{0,4},{1,5},{2,6},{3,7}}, to_apply=%add
  ROOT %tuple.2 = (s32[], bf16[4,8]{1,0}) tuple(%i, %a)
}

ENTRY %main (p: bf16[4,8]) -> bf16[4,8] {
  ROOT %while.3 = (s32[], bf16[4,8]{1,0}) while(%t), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"32"},"known_init_step":{"init":"0","step":"1"}}
}
"""


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
    assert (
        Program(
            TPU.replace(
                "constant.11 = s32[]{:T(128)} constant(0)",
                "constant.11 = s32[]{:T(128)} constant(2)",
            )
        )
        .loops["layer_body"]
        .trips
        == 4
    )


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
