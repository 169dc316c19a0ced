"""Do the decoder's programs fit the accelerators they are meant for? Compiled ahead of time, on a machine without any.

    PYTHONPATH=. python benchmarks/aot_decode.py [--targets "7b v6e-1" …] [--programs draw_run …]

Prints a row a program and target, and a line for every check that fails; then the exit code is 1. Checked: temporary
memory, the cache written in place, no copy as large as a weight, two all-reduces a layer, peak memory. TPU targets want
libtpu (requirements-tpu.txt), GPU targets jax's CUDA plugin; a target without its compiler is skipped, which is said.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # do not ask a cloud what machine this is
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # compiling needs no TPU to itself

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from benchmarks._targets import TARGETS, Target, devices
from lumina_jax.cli import parse_arguments, run_main
from lumina_jax.config import TransformerConfig
from lumina_jax.model.params import abstract_params
from lumina_jax.model.presets import PRESETS
from lumina_jax.ops.cache import init_cache
from lumina_jax.plan.hlo import collectives, large_copies
from lumina_jax.sampling import slot_state
from lumina_jax.sampling.placement import cache_shardings, weight_formats, weight_shardings
from lumina_jax.sampling.policy import Policy
from lumina_jax.sampling.rules import Rule
from lumina_jax.sampling.sequential import WINDOW, Program, draw_run, fill_cache, inference_config
from lumina_jax.sampling.window import advance
from lumina_jax.sharding import Layout, replicated

MAX_TEMPORARY_GIB = 0.15
MAX_SHARE = 0.9  # of a chip's memory
GIB = 2**30
CODES = (4, 8192)  # (first id, how many) of Chameleon
JACOBI_WINDOW = 64
NUM_CODES = 48 * 48  # of an image of 768x768 px


@dataclass(frozen=True)
class Options:
    """What to compile, and for what."""

    targets: tuple[str, ...] = tuple(TARGETS)
    programs: tuple[str, ...] = ("prefill", "draw_run", "advance")
    num_slots: int = 2432  # T: a prompt and 768x768 px
    prefill_length: int = 64
    text: str = ""  # a folder to write the compiled programs' HLO to


class Setup(NamedTuple):
    """A model on a mesh, by shapes alone."""

    config: TransformerConfig
    layout: Layout
    params: Any
    cache: Any  # of one guided image
    prefill_length: int = 64
    codes: tuple[int, int] = CODES


class Case(NamedTuple):
    """One of the decoder's programs."""

    lower: Callable[[Setup], Any]
    window: int  # W, tokens a pass
    # pairs of all-reduces in the program's text for a number of layers; the body of a loop counts once
    num_pairs: Callable[[int], int]
    writes_cache: bool = True  # takes the cache and gives it back


def lower_prefill(setup: Setup) -> Any:
    """The prompts of both streams into a fresh cache."""
    ids = _int32(setup, 2, setup.prefill_length)
    num_slots = setup.cache.keys[0].shape[2]
    return fill_cache.lower(
        setup.params, ids, _int32(setup, 2), setup.config, num_slots, setup.layout
    )


def lower_draw_run(setup: Setup) -> Any:
    """One row of codes of one guided image by the sequential decoder."""
    program = Program(setup.config, setup.codes, 128, setup.layout)
    real: Any = jax.ShapeDtypeStruct((1,), jnp.float32, sharding=replicated(setup.layout))
    scale: Any = jax.ShapeDtypeStruct((1, 1), jnp.float32, sharding=replicated(setup.layout))
    policy = Policy(_int32(setup, 1), real, _int32(setup, 1), scale)
    window, place = _int32(setup, 2, WINDOW), _int32(setup, 3)
    args = _with_code_head(setup), setup.cache, window, place, policy
    return draw_run.lower(*args, program)


def lower_advance(setup: Setup) -> Any:
    """Passes of one guided image by the decoder "jacobi"."""
    rule = Rule("tied", JACOBI_WINDOW, "above")
    program = slot_state.Program(setup.config, setup.codes, rule, setup.layout)
    num_slots = setup.cache.keys[0].shape[2]

    def empty() -> slot_state.State:
        ones = jnp.ones(1)
        policy = Policy(jnp.zeros(1, jnp.int32), ones, jnp.zeros(1, jnp.int32), ones[:, None])
        state = slot_state.empty_state(program, policy, num_slots, num_slots)
        return state._replace(cache=None)  # type: ignore[arg-type]

    state = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=replicated(setup.layout)
        ),
        jax.eval_shape(empty),
    )
    state = state._replace(cache=setup.cache)
    return advance.lower(_with_code_head(setup), state, _int32(setup), program)


def _with_code_head(setup: Setup) -> Any:
    head = setup.params["head"]["table"]
    rows = jax.ShapeDtypeStruct((setup.codes[1], head.shape[1]), head.dtype, sharding=head.sharding)
    return {**setup.params, "head": {"table": rows}}


PROGRAMS = {
    # what the last layer puts out is not needed
    "prefill": Case(lower_prefill, 64, lambda layers: layers - 1, writes_cache=False),
    # a pass for the first code, a pass in the loop
    "draw_run": Case(lower_draw_run, 1, lambda layers: 2 * layers),
    "advance": Case(lower_advance, JACOBI_WINDOW, lambda layers: layers),
}


class Measured(NamedTuple):
    """What a compiled program says of itself, of one chip."""

    seconds: float  # to compile
    temporary: int  # bytes
    peak: int  # bytes: arguments, results that are not among them, and temporary memory
    aliased: int  # bytes of results written over arguments
    text: str | None  # HLO; None where this jaxlib cannot print it


def build(config: TransformerConfig, layout: Layout, num_slots: int, ordered: bool = True) -> Setup:
    """`config` in bfloat16 on a mesh; `ordered`: weights in memory as the decoder lays them (`weight_formats`)."""
    config = inference_config(config)
    config = replace(config, param_dtype="bfloat16", compute_dtype="bfloat16")
    places = weight_formats(config, layout) if ordered else weight_shardings(config, layout)
    params = jax.tree.map(_abstract, abstract_params(config), places)
    cache = jax.eval_shape(lambda: init_cache(config, 2, num_slots))
    cache = jax.tree.map(_abstract, cache, cache_shardings(config, 2, num_slots, layout))
    return Setup(config, layout, params, cache)


def measure(case: Case, setup: Setup) -> Measured:
    """Compile, and ask the compiler."""
    lowered = case.lower(setup)
    start = perf_counter()
    compiled = lowered.compile()
    seconds = perf_counter() - start
    memory = compiled.memory_analysis()
    aliased = memory.alias_size_in_bytes
    peak = memory.argument_size_in_bytes + memory.output_size_in_bytes - aliased
    try:
        text = compiled.as_text()
    except Exception:  # of a libtpu newer than jaxlib: "unknown enum value"
        text = None
    temporary = memory.temp_size_in_bytes
    return Measured(seconds, temporary, peak + temporary, aliased, text)


def problems(case: Case, setup: Setup, found: Measured, memory_bytes: int) -> list[str]:
    """The checks that a compiled program fails, one line each."""
    wrong = []
    if found.temporary > MAX_TEMPORARY_GIB * GIB:
        wrong.append(f"temporary memory {found.temporary / GIB:.3f} GiB > {MAX_TEMPORARY_GIB}")
    if found.peak > MAX_SHARE * memory_bytes:
        share = found.peak / memory_bytes
        wrong.append(f"peak memory {share:.0%} of the chip's > {MAX_SHARE:.0%}")
    cache_bytes = local_bytes(setup.cache)
    if case.writes_cache and found.aliased < cache_bytes:
        gib = (found.aliased / GIB, cache_bytes / GIB)
        wrong.append("cache copied: {:.3f} GiB of {:.3f} written in place".format(*gib))
    if found.text is None:
        return [*wrong, "copies and collectives not checked: the compiled text cannot be read"]
    copies = large_copies(found.text, smallest_matrix(setup))
    if copies:
        wrong.append(f"{len(copies)} copies as large as a weight, such as {copies[0]}")
    counts, is_split = collectives(found.text), setup.layout.mesh.size > 1
    expected = 2 * case.num_pairs(setup.config.num_layers) * is_split
    if counts["all-reduce"] != expected:
        wrong.append(f"{counts['all-reduce']} all-reduces, want {expected}: two a layer and pass")
    return wrong


def local_bytes(tree: Any) -> int:
    """What one chip holds of a tree of abstract arrays."""
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def smallest_matrix(setup: Setup) -> int:
    """Bytes on one chip of the smallest matrix of a layer."""
    layer = setup.params["layers"]["00"]
    return min(local_bytes(weight) for weight in layer.values() if not isinstance(weight, dict))


def bytes_a_step(setup: Setup) -> int:
    """What one chip reads for one code of a guided image: layers, the codes' rows of the head, the whole cache."""
    layers, head = local_bytes(setup.params["layers"]), local_bytes(setup.params["head"])
    return layers + head * setup.codes[1] // setup.config.vocab_size + local_bytes(setup.cache)


def main(arguments: list[str] | None = None) -> None:
    """Compile every program for every target, print a table, and end with 1 where a check fails."""
    options = parse_arguments(
        Options, arguments, prog="benchmarks/aot_decode.py", description=__doc__
    )
    columns = "target | program | W | compile (s) | temporary (GiB) | peak (GiB) | of the chip"
    columns += " | all-reduces a layer and pass | other collectives | bound (ms a code)"
    print(f"| {columns} | bound (s an image) |")
    print("|" + "---|" * (columns.count("|") + 2))
    failed = []
    for name in options.targets:
        target = TARGETS[name]
        try:
            chips = devices(target)
        except ValueError as error:
            print(f"skipped {name}: {' '.join(str(error).split())[:160]}", file=sys.stderr)
            continue
        layout = Layout(Mesh(np.array(chips), ("tensor",)), "tensor")
        setup = build(PRESETS[target.preset].transformer, layout, options.num_slots)
        setup = setup._replace(prefill_length=options.prefill_length)
        for program in options.programs:
            found = measure(PROGRAMS[program], setup)
            print(row(name, target, program, setup, found), flush=True)
            if options.text and found.text:
                path = os.path.join(options.text, f"{name} {program}.hlo".replace(" ", "_"))
                with open(path, "w", encoding="utf-8") as file:
                    file.write(found.text)
            wrong = problems(PROGRAMS[program], setup, found, target.chip.memory_bytes)
            failed += [f"{name}, {program}: {line}" for line in wrong]
    for line in failed:
        print(line, file=sys.stderr)
    sys.exit(1 if failed else 0)


def row(name: str, target: Target, program: str, setup: Setup, found: Measured) -> str:
    """A line of the table; its bound is a projection, bytes / bandwidth of the chip's memory."""
    case, chip = PROGRAMS[program], target.chip
    counts = collectives(found.text or "")
    pairs = case.num_pairs(setup.config.num_layers)
    others = ", ".join(f"{n} {kind}" for kind, n in counts.items() if kind != "all-reduce")
    step = bytes_a_step(setup) / chip.bandwidth
    bound = (f"{step * 1e3:.2f}", f"{step * NUM_CODES:.1f}") if case.writes_cache else ("", "")
    cells = [name, f"`{program}`", case.window, f"{found.seconds:.0f}"]
    cells += [f"{found.temporary / GIB:.3f}", f"{found.peak / GIB:.2f}"]
    cells += [f"{found.peak / chip.memory_bytes:.0%}"]
    cells += ["unread" if found.text is None else f"{counts['all-reduce'] / pairs:g}"]
    return "| " + " | ".join(map(str, [*cells, others or "none", *bound])) + " |"


def _int32(setup: Setup, *shape: int) -> Any:
    return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=replicated(setup.layout))


def _abstract(leaf: Any, place: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)


if __name__ == "__main__":
    run_main(main)
