"""What devices send each other each time round a compiled step's loop over layers, and its largest buffers."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lumina_jax.plan.collectives import Collective, collectives
from lumina_jax.plan.hlo import large_buffers, shape_bytes
from lumina_jax.plan.loops import Program

# The scan over layers in the `op_name` of its loops, "…/jvp(Chameleon)/while" forward and "…/transpose(jvp(Chameleon))/
# while" back; and of what its body computes, which compilers may have moved out of the loop.
LAYERS = re.compile(r"\bChameleon\)*(?:/layers)?/while$")
IN_LAYERS = re.compile(r"\bChameleon\)*(?:/layers)?/while/body/")
# What the model computes beside its layers: in no loop over them.
OUTSIDE = re.compile(r"\bChameleon\)*/(?!(?:layers/)?while)")
# The loss in the `op_name` of what it computes: under no module, as JAX names gradients, or by its product.
LOSS = re.compile(r"jvp\(\)|BSD,VD->BSV")


class Sent(NamedTuple):
    """Collectives of one kind, of one layer, forward and back together."""

    kind: str
    asynchronous: bool  # beside other work, not before it
    crosses_slices: bool
    count: float  # not whole where some are done once for all layers
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
    """Read off the HLO text; `devices_per_slice`: in a program for several slices.

    A loop is one over layers by where it comes from, not by how often it runs: compilers unroll loops, and peel turns
    off them. What it sends in all its turns, with what is named as a layer's outside of it, is shared out over layers.
    """
    program = Program(text)
    found = collectives(program, devices_per_slice)
    bodies = [body for body in program.loops if _is_over_layers(program, body)]
    bodies = [body for body in bodies if not _inside_another(program, body, bodies)]
    if not bodies:
        sent = _merged((collective, 1.0) for collective in found)
        return LayerLoop(sent, sum(each.bytes for each in sent), 0)
    around = program.loops[bodies[0]].around  # the loop over micro-batches, or none
    rows = []
    for each in found:
        turns = _turns(program, each.loop, bodies, num_layers)
        if turns is None and IN_LAYERS.search(each.op_name):  # peeled
            turns = _times(program, each.loop, around)
        if turns is not None:
            rows.append((each, turns / num_layers))
    sent = _merged(rows)
    return LayerLoop(sent, sum(each.bytes for each in sent), len(bodies))


def buffers(text: str, min_bytes: int) -> list[Buffer]:
    """Arrays of at least `min_bytes` that the program makes, largest first; inputs do not count."""
    return [
        Buffer(each.name, each.shape[:100], shape_bytes(each.shape), each.op_name)
        for each in large_buffers(text, min_bytes)
    ]


def _is_over_layers(program: Program, body: str) -> bool:
    """By the loop's name, or where a compiler has dropped it (XLA for GPUs) by those of what its body computes."""
    if name := program.loops[body].op_name:
        return bool(LAYERS.search(name))
    names = [instruction.op_name for instruction in program.computations[body]]
    return any(map(IN_LAYERS.search, names)) and not any(map(OUTSIDE.search, names))


def _inside_another(program: Program, body: str, bodies: Sequence[str]) -> bool:
    return any(body != other and body in program.inside(other) for other in bodies)


def _turns(program: Program, loop: str, bodies: Sequence[str], num_layers: int) -> int | None:
    """How often `loop` runs for all layers of a micro-batch; None where it is in none of `bodies`.

    A loop over layers that does not tell runs once for each.
    """
    for body in bodies:
        if loop in program.inside(body):
            return _times(program, loop, body) * (program.loops[body].trips or num_layers)
    return None


def _times(program: Program, loop: str, outer: str) -> int:
    """How often `loop` runs each time round `outer`; loops that do not tell count once."""
    times = 1
    while loop not in (outer, ""):
        times *= program.loops[loop].trips or 1
        loop = program.loops[loop].around
    return times


def _merged(rows: Iterable[tuple[Collective, float]]) -> list[Sent]:
    total: dict[tuple, Sent] = {}
    for each, times in rows:
        key = (each.kind, each.asynchronous, each.crosses_slices)
        old = total.get(key, Sent(*key, 0, 0.0))
        total[key] = old._replace(count=old.count + times, bytes=old.bytes + times * each.received)
    return sorted(total.values(), key=lambda sent: -sent.bytes)
