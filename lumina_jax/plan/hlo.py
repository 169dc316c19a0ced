"""What a compiled program does, read from its HLO text: copies as large as weights, and collectives."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
COPYING = {"copy", "copy-start", "transpose", "convert", "concatenate", "slice", "dynamic-slice"}
# What a fusion may hold beside a COPYING operation and still do nothing but move data.
IDLE = {"parameter", "constant", "bitcast", "reshape", "tuple", "get-tuple-element", "broadcast"}
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}

COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) .*\{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([a-z][\w-]*)\(")
ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
CALLS = re.compile(r"calls=%?([\w.-]+)")
ON_CHIP = re.compile(r"S\([1-9]\d*\)")  # a memory space of its own, such as a TPU's VMEM


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    shape: str
    opcode: str
    calls: str | None  # the computation that a fusion or an asynchronous operation stands for


def computations(text: str) -> dict[str, list[Instruction]]:
    """The instructions of every computation of an HLO module, fused ones included."""
    found: dict[str, list[Instruction]] = {}
    current: list[Instruction] = []
    for line in text.splitlines():
        if match := INSTRUCTION.match(line):
            calls = CALLS.search(line)
            name, shape, opcode = match.groups()
            current.append(Instruction(name, shape, opcode, calls.group(1) if calls else None))
        elif match := COMPUTATION.match(line):
            current = found.setdefault(match.group(1), [])
    return found


def collectives(text: str) -> Counter:
    """How many collectives of each kind the program has: in text, so a loop's body counts once."""
    counts: Counter = Counter()
    for instructions in computations(text).values():
        for instruction in instructions:
            kind = instruction.opcode.removesuffix("-start")
            counts[kind] += kind in COLLECTIVES
    return +counts


def large_copies(text: str, min_bytes: int) -> list[str]:
    """Results of at least `min_bytes` in main memory that are moved data: copied, turned round, cast, cut or gathered.

    A fusion counts where it only moves. Reading ahead into memory on the chip does not, nor does writing in place.
    """
    return [
        f"{instruction.opcode} {instruction.name} {instruction.shape[:80]}"
        for instruction, inner in _executed(text)
        if _moves(instruction, inner) and _main_memory_bytes(instruction) >= min_bytes
    ]


def _executed(text: str) -> Iterator[tuple[Instruction, list[Instruction]]]:
    """What the program executes by itself, each with the computation that it stands for."""
    found = computations(text)
    inner = {i.calls for instructions in found.values() for i in instructions if i.calls}
    for name, instructions in found.items():
        if name not in inner:
            for instruction in instructions:
                yield instruction, found.get(instruction.calls or "", [])


def _moves(instruction: Instruction, inner: list[Instruction]) -> bool:
    opcodes = {each.opcode for each in inner}
    if instruction.opcode == "fusion":
        reads = "parameter" in opcodes  # one that does not fills memory with constants
        return reads and bool(opcodes & COPYING) and opcodes <= COPYING | IDLE
    return instruction.opcode.removesuffix("-start") in COPYING | {"all-gather", "all-to-all"}


def _main_memory_bytes(instruction: Instruction) -> int:
    """Of the largest array of the result; 0 where it begins or ends on the chip."""
    if ON_CHIP.search(instruction.shape):
        return 0
    arrays = ARRAY.findall(instruction.shape)
    return max(
        (BYTES.get(kind, 4) * _size(dimensions) for kind, dimensions, _ in arrays), default=0
    )


def _size(dimensions: str) -> int:
    return math.prod(int(size) for size in dimensions.split(",") if size)
