"""A plan in words and as JSON: every number says whether the compiler told it, shapes did, or it is a projection."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from lumina_jax.plan.compile import GIB, Argued, Compiled
from lumina_jax.plan.layer_loop import Buffer, LayerLoop
from lumina_jax.plan.roofline import Projection, lines
from lumina_jax.plan.step import Step
from lumina_jax.plan.topology import Topology

HEADROOM = 0.1  # of a chip's memory that has to stay free
MIB = 2**20
TO_TRY = (
    "try more chips, fewer rows, --train.accumulation, --model.transformer.remat full, or --search"
)


class StagePlan(NamedTuple):
    """One stage's step on a topology."""

    index: int
    num_steps: int
    step: Step
    argued: Argued
    least: (
        float  # bytes a layer that the strategy has to send, of one micro-batch, forward and back
    )
    model_flops: float
    compiled: Compiled | None = None  # None: not asked to, or refused
    refused: str | None = None  # by the compiler, for want of memory
    loop: LayerLoop | None = None  # None: not compiled, or its text cannot be printed
    buffers: Sequence[Buffer] | None = None  # of at least 1 GiB
    projection: Projection | None = None


def fits(plan: StagePlan, topology: Topology) -> bool | None:
    """Whether a chip has room with HEADROOM left; None where nothing was compiled, or the memory is unknown."""
    if plan.refused is not None:
        return False
    if plan.compiled is None or not topology.chip.memory_bytes:
        return None
    return plan.compiled.peak <= (1 - HEADROOM) * topology.chip.memory_bytes


def stage_lines(plan: StagePlan, topology: Topology) -> list[str]:
    """What to print of a stage."""
    step = plan.step
    times = f" in {step.accumulation} micro-batches" if step.accumulation > 1 else ""
    found = [
        f"stage {plan.index}: {step.rows} rows x {step.columns} tokens{times}, remat {step.config.remat}",
        *memory_lines(plan, topology),
        *collective_lines(plan),
        *buffer_lines(plan),
        f"model FLOPs: {plan.model_flops:.3e} a step (causal, no padding, nothing counted twice)",
    ]
    return found + (lines(plan.projection, topology.chip) if plan.projection else [])


def memory_lines(plan: StagePlan, topology: Topology) -> list[str]:
    """What a chip holds, and whether it has room."""
    parts = ", ".join(f"{name} {size / GIB:.3f}" for name, size in plan.argued.parts.items())
    found = [f"memory of a chip in GiB, by shapes: {parts}"]
    memory, compiled = topology.chip.memory_bytes, plan.compiled
    if plan.refused is not None:
        return [*found, f"does not fit: the compiler gave up, {plan.refused}; {TO_TRY}"]
    if compiled is None:
        return found
    found.append(
        f"memory of a chip in GiB, by the compiler ({compiled.seconds:.0f} s): inputs {compiled.arguments / GIB:.3f}, "
        f"temporary {compiled.temporary / GIB:.3f} (activations, what is gathered, gradients of up to "
        f"{plan.argued.gradients / GIB:.3f}), code {compiled.code / GIB:.3f}"
    )
    if not memory:
        return [*found, f"peak {compiled.peak / GIB:.3f} GiB of an unknown memory"]
    peak = f"peak {compiled.peak / GIB:.2f} of {memory / GIB:.2f} GiB, {compiled.peak / memory:.0%}"
    if fits(plan, topology):
        return [*found, f"fits: {peak}"]
    return [*found, f"does not fit: {peak}, want {1 - HEADROOM:.0%} at most; {TO_TRY}"]


def collective_lines(plan: StagePlan) -> list[str]:
    """What is sent in the loop over layers, beside the least that the strategy allows."""
    if plan.compiled is not None and plan.compiled.text is None:
        return [
            "collectives: the text of this program wants jax 0.11 or newer, so memory is all that is known"
        ]
    if plan.loop is None:
        return [f"collectives a layer: at least {plan.least / MIB:.1f} MiB received by a chip"]
    where = (
        "a layer, forward and back"
        if plan.loop.num_loops
        else "of all layers, which are not in a loop"
    )
    sent = [
        f"{each.count:.3g} {each.kind} {each.bytes / MIB:.1f}"
        + (" between slices" if each.crosses_slices else "")
        + ("" if each.asynchronous else ", SYNCHRONOUS")
        for each in plan.loop.sent
    ]
    ratio = ""
    if plan.least and plan.loop.num_loops:
        ratio = f"; {plan.loop.bytes / plan.least:.2f} times the strategy's least, {plan.least / MIB:.1f}"
    total = f"{plan.loop.bytes / MIB:.1f} MiB received by a chip"
    return [f"collectives {where}: {'; '.join(sent) or 'none'}: {total}{ratio}"]


def buffer_lines(plan: StagePlan) -> list[str]:
    """The arrays of 1 GiB and more that the program makes."""
    if plan.buffers is None:
        return []
    if not plan.buffers:
        return ["arrays of 1 GiB or more: none"]
    told = (f"{b.name} {b.bytes / GIB:.2f} GiB {b.shape} ({b.op_name})" for b in plan.buffers[:5])
    return [f"arrays of 1 GiB or more: {len(plan.buffers)}: " + "; ".join(told)]


def plain(value: Any) -> Any:
    """NamedTuples and dataclasses as JSON; a program's text is left out."""
    if isinstance(value, Compiled):
        return {**value._asdict(), "text": None, "peak": value.peak}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if as_dict := getattr(value, "_asdict", None):  # a NamedTuple's
        return {name: plain(item) for name, item in as_dict().items()}
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
