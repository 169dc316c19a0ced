"""Loops of a compiled program, read from its HLO text: a body is written once and runs many times."""

import math
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import NamedTuple

from lumina_jax.plan.hlo import Instruction, computations

REFERENCE = re.compile(
    r"(?:calls|to_apply|body|condition|called_computations|branch_computations|true_computation|false_computation)"
    r"=(?:\{([^}]*)\}|(%?[\w.-]+))"
)
BODY, CONDITION = re.compile(r"body=%?([\w.-]+)"), re.compile(r"condition=%?([\w.-]+)")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
CONSTANT, INDEX = re.compile(r"constant\((-?\d+)\)"), re.compile(r"index=(\d+)")
PARTITIONS = re.compile(r"num_partitions=(\d+)")
REPLICAS = re.compile(r"replica_count=(\d+)")


class Loop(NamedTuple):
    """A while loop."""

    body: str  # the name of its computation
    trips: int | None  # how often it runs; None where the text does not tell
    around: str  # the body of the loop that it is in, "" outside of all
    op_name: str


class Program:
    """A compiled program's computations, and which calls which."""

    def __init__(self, text: str):
        """`text`: `compiled.as_text()`."""
        self.computations = computations(text)
        head = text[: text.find("\n")]
        counts = [pattern.search(head) for pattern in (PARTITIONS, REPLICAS)]
        self.num_devices = math.prod(int(found.group(1)) for found in counts if found)

    @cached_property
    def callers(self) -> dict[str, tuple[str, Instruction]]:
        """For every computation the first that calls it, and by which instruction."""
        found: dict[str, tuple[str, Instruction]] = {}
        for name, instructions in self.computations.items():
            for instruction in instructions:
                for listed, single in REFERENCE.findall(instruction.line):
                    for called in (listed or single).replace("%", "").split(", "):
                        if called in self.computations:
                            found.setdefault(called, (name, instruction))
        return found

    @cached_property
    def loops(self) -> dict[str, Loop]:
        """Every loop by its body's name."""
        found = {}
        for name, instructions in self.computations.items():
            for instruction in instructions:
                body = BODY.search(instruction.line)
                if instruction.opcode == "while" and body:
                    trips = self._trips(name, instruction, body.group(1))
                    around = self.loop_of(name)
                    found[body.group(1)] = Loop(body.group(1), trips, around, instruction.op_name)
        return found

    def loop_of(self, computation: str) -> str:
        """The body of the innermost loop that `computation` is or is called in; "" outside of all."""
        while True:
            caller = self.callers.get(computation)
            if caller is None:
                return ""
            body = BODY.search(caller[1].line)
            if caller[1].opcode == "while" and body and body.group(1) == computation:
                return computation
            computation = caller[0]

    def depth(self, loop: str) -> int:
        """How many loops are around what is in `loop`, itself counted."""
        depth = 0
        while loop:
            depth, loop = depth + 1, self.loops[loop].around
        return depth

    def inside(self, loop: str) -> set[str]:
        """`loop` and every loop in it."""
        return {name for name in self.loops if loop in self._around(name)}

    def _around(self, loop: str) -> Iterable[str]:
        while loop:
            yield loop
            loop = self.loops[loop].around

    def _trips(self, computation: str, loop: Instruction, body: str) -> int | None:
        """Told by the compiler, or from a condition `counter < constant` and what is added to the counter."""
        if told := TRIPS.search(loop.line):
            return int(told.group(1))
        condition = CONDITION.search(loop.line)
        inner = self.computations.get(condition.group(1), []) if condition else []
        if not inner or inner[-1].opcode != "compare" or "direction=LT" not in inner[-1].line:
            return None
        by_name = {each.name: each for each in inner}
        counter, limit = (by_name.get(name) for name in inner[-1].operands[:2])
        place, end = _index(counter), _constant(limit)
        if place is None or end is None:
            return None
        step = self._step(body, place)
        start = self._start(computation, loop, place)
        return None if not step else max(-(-(end - (start or 0)) // step), 0)

    def _step(self, body: str, place: int) -> int | None:
        """What `body` adds to the number at `place` of its tuple."""
        instructions = {each.name: each for each in self.computations[body]}
        root = self.computations[body][-1]
        names = root.operands
        added, total = _read(instructions, names[place]) if place < len(names) else None, 0
        while added is not None and added.opcode == "add":
            parts = [_read(instructions, name) for name in added.operands]
            constants = [value for value in map(_constant, parts) if value is not None]
            rest = [part for part in parts if part is not None and _constant(part) is None]
            if len(constants) != 1 or len(rest) != 1:
                return None
            total, added = total + constants[0], rest[0]
        return total if _index(added) == place else None

    def _start(self, computation: str, loop: Instruction, place: int) -> int | None:
        """The number at `place` of the tuple that the loop starts from, where it is a constant."""
        instructions = {each.name: each for each in self.computations[computation]}
        start = instructions.get(loop.operands[0]) if loop.operands else None
        if start is None or start.opcode != "tuple" or place >= len(start.operands):
            return None
        return _constant(_read(instructions, start.operands[place]))


def _read(instructions: Mapping[str, Instruction], name: str) -> Instruction | None:
    """The instruction of that name, or what it copies."""
    found = instructions.get(name)
    while found is not None and found.opcode in ("copy", "bitcast") and found.operands:
        found = instructions.get(found.operands[0])
    return found


def _constant(instruction: Instruction | None) -> int | None:
    found = CONSTANT.search(instruction.line) if instruction else None
    return (
        int(found.group(1)) if found and instruction and instruction.opcode == "constant" else None
    )


def _index(instruction: Instruction | None) -> int | None:
    found = INDEX.search(instruction.line) if instruction else None
    wanted = found and instruction and instruction.opcode == "get-tuple-element"
    return int(found.group(1)) if found and wanted else None
