"""Reading compiled programs: what counts as a copy as large as a weight, and what does not."""

from lumina_jax.plan.hlo import collectives, large_buffers, large_copies, shape_bytes

TURN = """
%fused_turn (param_0: bf16[64,32]) -> bf16[32,64] {
  %param_0 = bf16[64,32]{1,0} parameter(0)
  ROOT %transpose.1 = bf16[32,64]{1,0} transpose(%param_0), dimensions={1,0}
}
"""
MODULE = """HloModule jit_f, is_scheduled=true
%fused_product (param_0.1: bf16[32,64], param_1: bf16[2,32]) -> bf16[2,64] {
  %param_0.1 = bf16[32,64]{1,0} parameter(0)
  %copy.9 = bf16[32,64]{0,1} copy(%param_0.1)
  %param_1 = bf16[2,32]{1,0} parameter(1)
  ROOT %dot.1 = bf16[2,64]{1,0} dot(%param_1, %copy.9)
}

%fused_write (param_0.2: bf16[64,32], param_1.2: bf16[1,32]) -> bf16[64,32] {
  %param_0.2 = bf16[64,32]{1,0} parameter(0)
  %param_1.2 = bf16[1,32]{1,0} parameter(1)
  %constant.2 = s32[] constant(0)
  ROOT %dynamic-update-slice.1 = bf16[64,32]{1,0} dynamic-update-slice(%param_0.2, %param_1.2, %constant.2)
}

%fused_zeros () -> bf16[64,32] {
  %constant.3 = bf16[] constant(0)
  %broadcast.3 = bf16[64,32]{1,0} broadcast(%constant.3), dimensions={}
  ROOT %copy.3 = bf16[64,32]{1,0} copy(%broadcast.3)
}

%body (arg: (bf16[64,32], bf16[2,32])) -> (bf16[64,32], bf16[2,32]) {
  %arg = (bf16[64,32]{1,0}, bf16[2,32]{1,0}) parameter(0)
  %w = bf16[64,32]{1,0} get-tuple-element(%arg), index=0
  %ahead = (bf16[64,32]{1,0:S(1)}, bf16[64,32]{1,0}, u32[]{:S(2)}) copy-start(%w)
  %small = bf16[2,32]{0,1} copy(%x)
  %product = bf16[2,64]{1,0} fusion(%w, %small), kind=kOutput, calls=%fused_product
  %sum = bf16[2,64]{1,0} all-reduce-start(%product), to_apply=%add
  %done = bf16[2,64]{1,0} all-reduce-done(%sum)
  %written = bf16[64,32]{1,0} fusion(%w, %x), kind=kLoop, calls=%fused_write
  EXTRA
  ROOT %out = (bf16[64,32]{1,0}, bf16[2,32]{1,0}) tuple(%w, %x)
}

ENTRY %main (p: bf16[64,32]) -> bf16[64,32] {
  %p = bf16[64,32]{1,0} parameter(0)
  %zeros = bf16[64,32]{1,0} fusion(), kind=kLoop, calls=%fused_zeros
  %all-gather.1 = f32[2,64]{1,0} all-gather(%p), dimensions={1}
  ROOT %while.1 = (bf16[64,32]{1,0}, bf16[2,32]{1,0}) while(%t), condition=%cond, body=%body
}
"""
WEIGHT_BYTES = 64 * 32 * 2
COPIES = {
    "copy": "%c = bf16[64,32]{0,1} copy(%w)",
    "turned by a fusion": "%c = bf16[32,64]{1,0} fusion(%w), kind=kLoop, calls=%fused_turn",
    "cast": "%c = f32[64,32]{1,0} convert(%w)",
    "gathered": "%c = (bf16[8,32]{1,0}, bf16[64,32]{1,0}) all-gather-start(%w)",
}


def module(extra: str = "") -> str:
    """MODULE with a line in the body of its loop, and the computation that it calls."""
    return MODULE.replace("EXTRA", extra) + TURN * ("fused_turn" in extra)


def test_reading_ahead_products_and_writing_in_place_are_no_copies() -> None:
    assert large_copies(module(), WEIGHT_BYTES) == []


def test_every_kind_of_copy_is_found() -> None:
    for kind, line in COPIES.items():
        found = large_copies(module(line), WEIGHT_BYTES)
        assert len(found) == 1 and " c " in found[0], kind


def test_smaller_copies_are_not_counted() -> None:
    assert large_copies(module(COPIES["copy"]), WEIGHT_BYTES + 1) == []
    assert len(large_copies(module(), 2 * 32 * 2)) == 2  # %small, and the gathered logits


def test_collectives_are_counted_by_kind_once_each() -> None:
    assert collectives(module()) == {"all-reduce": 1, "all-gather": 1}


def test_large_buffers_leave_out_names_and_results_in_place() -> None:
    """The gathered logits are too small; the fusion of zeros makes a whole array, the one that writes in place none."""
    found = large_buffers(module(COPIES["copy"]), WEIGHT_BYTES)
    assert [each.name for each in found] == ["c", "zeros"]
    assert [each.bytes for each in found] == [WEIGHT_BYTES] * 2
    assert large_buffers(module(), WEIGHT_BYTES + 1) == []


def test_large_buffers_of_a_part_of_the_function() -> None:
    line = '%c = f32[64,32]{1,0} exponential(%w), metadata={op_name="jit(f)/loss/exp"}'
    assert [each.name for each in large_buffers(module(line), WEIGHT_BYTES, "loss")] == ["c"]
    assert large_buffers(module(line), WEIGHT_BYTES, "layers") == []


def test_bytes_of_shapes() -> None:
    assert shape_bytes("(bf16[4,8]{1,0:T(8,128)(2,1)S(1)}, f32[2]{0}, u32[]{:S(2)}, token[])") == 76
    assert shape_bytes("s4[16]") == 8
