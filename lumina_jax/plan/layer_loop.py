"""What devices send each other each time round a compiled step's loop over layers, and its largest buffers."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lumina_jax.plan.collectives import Collective, collectives
from lumina_jax.plan.hlo import large_buffers, shape_bytes
from lumina_jax.plan.loops import Program

LOSS = "loss"  # in the `op_name` of what losses compute


class Sent(NamedTuple):
    """Collectives of one kind, of one layer, forward and back together."""

    kind: str
    asynchronous: bool  # beside other work, not before it
    crosses_slices: bool
    count: int
    bytes: float  # that a device receives


class LayerLoop(NamedTuple):
    """One layer's share of a step."""

    sent: Sequence[Sent]
    bytes: float  # received in all
    num_loops: int  # over layers: forward and back; 0 where layers are apart, then `sent` is the whole program's


class Buffer(NamedTuple):
    """An array in main memory."""

    name: str
    shape: str
    bytes: int
    op_name: str


def layer_loop(text: str, num_layers: int, devices_per_slice: int = 0) -> LayerLoop:
    """Read off the HLO text; `devices_per_slice`: in a program for several slices."""
    program = Program(text)
    found = collectives(program, devices_per_slice)
    bodies = [body for body, loop in program.loops.items() if loop.trips == num_layers]
    bodies = [body for body in bodies if not _inside_another(program, body, bodies)]
    if not bodies:
        rows = [(collective, 1) for collective in found]
    else:
        rows = [
            (collective, _times(program, collective.loop, body))
            for body in bodies
            for collective in found
            if collective.loop in program.inside(body)
        ]
    sent = _merged(rows)
    return LayerLoop(sent, sum(each.bytes for each in sent), len(bodies))


def buffers(text: str, min_bytes: int) -> list[Buffer]:
    """Arrays of at least `min_bytes` that the program makes, largest first; inputs do not count."""
    return [
        Buffer(each.name, each.shape[:100], shape_bytes(each.shape), each.op_name)
        for each in large_buffers(text, min_bytes)
    ]


def _inside_another(program: Program, body: str, bodies: Sequence[str]) -> bool:
    return any(body != other and body in program.inside(other) for other in bodies)


def _times(program: Program, loop: str, outer: str) -> int:
    """How often `loop` runs each time round `outer`; loops that do not tell count once."""
    times = 1
    while loop != outer:
        times *= program.loops[loop].trips or 1
        loop = program.loops[loop].around
    return times


def _merged(rows: Iterable[tuple[Collective, int]]) -> list[Sent]:
    total: dict[tuple, Sent] = {}
    for each, times in rows:
        key = (each.kind, each.asynchronous, each.crosses_slices)
        old = total.get(key, Sent(*key, 0, 0.0))
        total[key] = old._replace(count=old.count + times, bytes=old.bytes + times * each.received)
    return sorted(total.values(), key=lambda sent: -sent.bytes)
