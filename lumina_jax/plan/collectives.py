"""What devices send each other in a compiled program, read from its HLO text.

A collective may be written many times and run once: libtpu splits one into a start, parts that run inside other
fusions, even those of an inner loop, and an end. Channels do not tell them apart: all of a `shard_map` share one.
"""

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from lumina_jax.plan.hlo import ARRAY, COLLECTIVES, Instruction, shape_bytes
from lumina_jax.plan.loops import Program

# Replica groups: listed, as an array counted through, or as axes of a mesh.
LISTED = re.compile(r"replica_groups=\{(\{[\d,{}]*\})\}")
COUNTED = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
MESHED = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")
PAIRS = re.compile(r"source_target_pairs=\{([\d,{}]*)\}")
# Between TPU slices, in which programs are each for one slice.
TRANSFER = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
SLICES = re.compile(r'_xla_megascale_target="\{([\d,]+)\}')
# Where libtpu writes one collective several times: its start, and what goes on with it or ends it.
STARTED, DONE = '"AsyncCollectiveStart"', '"AsyncCollectiveDone"'
ASYNC_FUSION, SCATTER_FUSION = "async_collective_fusion", "all-reduce-scatter"


class Collective(NamedTuple):
    """One collective operation, however often its text mentions it."""

    name: str
    kind: str  # as in hlo.COLLECTIVES; an all-reduce of which each device keeps a slice is a reduce-scatter
    loop: str  # the body of the innermost loop that starts it, "" outside of all
    operand_bytes: int  # of one device
    result_bytes: int
    group_size: int
    crosses_slices: bool
    asynchronous: bool
    op_name: str

    @property
    def received(self) -> float:
        """Bytes that a device of the group must receive."""
        others = (self.group_size - 1) / self.group_size
        if self.kind == "all-reduce":
            return 2 * others * self.operand_bytes
        if self.kind == "all-gather":
            return others * self.result_bytes
        return self.operand_bytes * (1 if self.kind == "collective-permute" else others)


def collectives(program: Program, devices_per_slice: int = 0) -> list[Collective]:
    """Every collective once, in the loop that starts it.

    `devices_per_slice`: of GPU nodes, for `crosses_slices`; 0: one node. Every TPU slice has a program of its own.
    """
    found = []
    for computation, instructions in program.computations.items():
        starts = {name for each in instructions if STARTED in each.line for name in each.operands}
        ends = any(DONE in each.line for each in instructions)
        continues = ends or computation.startswith(ASYNC_FUSION)
        for instruction in instructions:
            kind = instruction.opcode.removesuffix("-start")
            transfer = TRANSFER.search(instruction.line) if kind == "send" else None
            if transfer:
                between = _between_slices(program, computation, instruction, transfer.group(1))
                found.append(between)
            elif kind in COLLECTIVES and (instruction.name in starts or not continues):
                one = _collective(program, computation, instruction, kind, devices_per_slice)
                apart = one.asynchronous or instruction.name in starts
                found.append(one._replace(asynchronous=apart))
    return found


def received(program: Program, found: Iterable[Collective], loop: str) -> float | None:
    """Bytes that a device receives each time round `loop`, inner loops as often as they run.

    None where an inner loop with collectives does not tell how often.
    """
    total, of = 0.0, list(found)
    inner = [each for each in program.loops.values() if each.around == loop]
    for each in inner:
        size = received(program, of, each.body)
        if size != 0:
            if size is None or each.trips is None:
                return None
            total += size * each.trips
    return total + sum(c.received for c in of if c.loop == loop)


def _collective(
    program: Program, computation: str, instruction: Instruction, kind: str, devices_per_slice: int
) -> Collective:
    groups = replica_groups(instruction.line, program.num_devices)
    size = groups.shape[1]
    crosses = bool(
        devices_per_slice
        and (groups // devices_per_slice != groups[:, :1] // devices_per_slice).any()
    )
    shapes = {each.name: each for each in program.computations[computation]}
    operands = [shapes[name].bytes for name in instruction.operands if name in shapes]
    started, result = instruction.opcode.endswith("-start"), instruction.bytes
    if not operands:  # unknown: from the result
        operands = [_operand_bytes(kind, result, size)]
    operand = sum(operands)
    if started:
        factors = {"all-gather": size, "reduce-scatter": 1 / size}
        result = int(operand * factors.get(kind, 1))
    if computation.startswith(SCATTER_FUSION):
        kind, result = "reduce-scatter", operand // size
    return Collective(
        instruction.name,
        kind,
        program.loop_of(computation),
        operand,
        result,
        size,
        crosses,
        started or _is_asynchronous(program, computation),
        instruction.op_name,
    )


def _between_slices(
    program: Program, computation: str, instruction: Instruction, transfer: str
) -> Collective:
    """What libtpu's runtime does between slices: a send to it, and a receive of the result."""
    slices = SLICES.search(instruction.line)
    size = len(slices.group(1).split(",")) if slices else 2
    sent = shape_bytes(ARRAY.search(instruction.shape).group())  # type: ignore[union-attr]
    kind = transfer.lower().replace("_", "-")
    factors = {"all-gather": size, "reduce-scatter": 1 / size}
    result = int(sent * factors.get(kind, 1))
    loop, op_name = program.loop_of(computation), instruction.op_name
    return Collective(instruction.name, kind, loop, sent, result, size, True, True, op_name)


def _is_asynchronous(program: Program, computation: str) -> bool:
    """Whether what stands in this computation is called by an async-start, or handed to a TPU's SparseCores."""
    caller = program.callers.get(computation)
    return caller is not None and caller[1].opcode in ("async-start", "custom-call-start")


def replica_groups(line: str, num_devices: int) -> np.ndarray:
    """int[groups, size]: which devices work together; all where a line does not tell."""
    if found := PAIRS.search(line):
        return np.array(
            [
                [int(n) for n in pair.split(",")]
                for pair in re.findall(r"\{([\d,]+)\}", found.group(1))
            ]
        )
    if found := LISTED.search(line):
        groups = re.findall(r"\{([\d,]+)\}", found.group(1))
        return np.array([[int(n) for n in group.split(",")] for group in groups])
    if found := COUNTED.search(line):
        shape, sizes, order = (
            [int(n) for n in (text or "").split(",") if n] for text in found.groups()
        )
        devices = np.arange(math.prod(sizes)).reshape(sizes)
        return devices.transpose(order or range(len(sizes))).reshape(shape)
    if found := MESHED.search(line):
        axes = [axis.split("=") for axis in found.group(1).split(",")]
        names, sizes = [name for name, _ in axes], [int(size) for _, size in axes]
        within = [names.index(name) for name in found.group(2).split(",")]
        devices = np.arange(math.prod(sizes)).reshape(sizes)
        rest = [place for place in range(len(sizes)) if place not in within]
        size = math.prod(sizes[place] for place in within)
        return devices.transpose([*rest, *within]).reshape(-1, size)
    return np.arange(max(num_devices, 1))[None]


def _operand_bytes(kind: str, result: int, size: int) -> int:
    return {"all-gather": result // size, "reduce-scatter": result * size}.get(kind, result)
