"""A compiled program, read from its HLO text: its instructions, and those as large as weights.

Its loops and what its devices send each other are in `loops`.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
COPYING = {"copy", "copy-start", "transpose", "convert", "concatenate", "slice", "dynamic-slice"}
# What a fusion may hold beside a COPYING operation and still do nothing but move data.
IDLE = {"parameter", "constant", "bitcast", "reshape", "tuple", "get-tuple-element", "broadcast"}
BYTES = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "s16": 2,
    "u16": 2,
    "bf16": 2,
    "f16": 2,
    "s64": 8,
    "u64": 8,
    "f64": 8,
    "token": 0,
}
BYTES |= {"s4": 0.5, "u4": 0.5, "f8e4m3fn": 1, "f8e5m2": 1, "f8e4m3": 1, "f8e4m3b11fnuz": 1}
# What makes no array of its own: names for others, and results written over an argument.
NO_BUFFER = {
    "parameter",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "constant",
    "after-all",
}
NO_BUFFER |= {"dynamic-update-slice", "optimization-barrier", "copy-done"}

COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) .*\{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([a-z][\w-]*)\(")
ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
CALLS = re.compile(r"calls=%?([\w.-]+)")
NAME = re.compile(r"%([\w.-]+)")
OP_NAME = re.compile(r'op_name="([^"]*)"')
ON_CHIP = re.compile(r"S\([1-9]\d*\)")  # a memory space of its own, such as a TPU's VMEM


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    shape: str
    opcode: str
    calls: str | None  # the computation that a fusion or an asynchronous operation stands for
    line: str = ""  # as written

    @property
    def operands(self) -> list[str]:
        """The names of what it reads."""
        start = self.line.find(f" {self.opcode}(") + len(self.opcode) + 2
        return NAME.findall(self.line[start : _closing(self.line, start)])

    @property
    def bytes(self) -> int:
        """Of all arrays of its result."""
        return shape_bytes(self.shape)

    @property
    def op_name(self) -> str:
        """Where in the traced function it comes from, "" where that is not told."""
        found = OP_NAME.search(self.line)
        return found.group(1) if found else ""


def computations(text: str) -> dict[str, list[Instruction]]:
    """The instructions of every computation of an HLO module, fused ones included."""
    found: dict[str, list[Instruction]] = {}
    current: list[Instruction] = []
    for line in text.splitlines():
        if match := INSTRUCTION.match(line):
            calls = CALLS.search(line)
            name, shape, opcode = match.groups()
            target = calls.group(1) if calls else None
            current.append(Instruction(name, shape, opcode, target, line))
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


def large_buffers(text: str, min_bytes: int, within: str = "") -> list[Instruction]:
    """What makes an array of at least `min_bytes` in main memory, largest first; `within`: a part of its `op_name`.

    Arguments, results written over an argument, and names for parts of others do not count.
    """
    found = [
        instruction
        for instruction, inner in _executed(text)
        if instruction.opcode not in NO_BUFFER
        and not instruction.opcode.endswith("-done")
        and not (inner and inner[-1].opcode == "dynamic-update-slice")
        and within in instruction.op_name
        and _main_memory_bytes(instruction) >= min_bytes
    ]
    return sorted(found, key=_main_memory_bytes, reverse=True)


def shape_bytes(shape: str) -> int:
    """Of all arrays of a shape, a tuple's together."""
    return int(sum(BYTES.get(kind, 4) * _size(sizes) for kind, sizes, _ in ARRAY.findall(shape)))


def _closing(line: str, start: int) -> int:
    """Where the bracket that was opened before `start` is closed."""
    depth = 1
    for place in range(start, len(line)):
        depth += (line[place] == "(") - (line[place] == ")")
        if depth == 0:
            return place
    return len(line)


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
    sizes = (BYTES.get(kind, 4) * _size(dimensions) for kind, dimensions, _ in arrays)
    return int(max(sizes, default=0))


def _size(dimensions: str) -> int:
    return math.prod(int(size) for size in dimensions.split(",") if size)
