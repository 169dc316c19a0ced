"""The decoder's programs on a mesh, by shapes alone: what they are, how they are lowered, what is wanted of them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lumina_jax.config import TransformerConfig
from lumina_jax.experiment import MeshConfig
from lumina_jax.model.params import abstract_params
from lumina_jax.ops.cache import init_cache
from lumina_jax.plan.compile import GIB, Compiled, OutOfMemory, compile_lowered, local_bytes
from lumina_jax.plan.hlo import collectives, large_copies
from lumina_jax.plan.topology import Topology
from lumina_jax.sampling import slot_state
from lumina_jax.sampling.placement import cache_shardings, weight_formats, weight_shardings
from lumina_jax.sampling.policy import Policy
from lumina_jax.sampling.rules import Rule
from lumina_jax.sampling.sequential import WINDOW, Program, draw_run, fill_cache, inference_config
from lumina_jax.sampling.window import advance
from lumina_jax.sharding import Layout, make_layout, replicated

MAX_TEMPORARY_GIB = 0.15
MAX_SHARE = 0.9  # of a chip's memory
CODES = (4, 8192)  # (first id, how many) of Chameleon
JACOBI_WINDOW = 64
NUM_CODES = 48 * 48  # of an image of 768x768 px


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


def build(config: TransformerConfig, layout: Layout, num_slots: int, ordered: bool = True) -> Setup:
    """`config` in bfloat16 on a mesh; `ordered`: weights in memory as the decoder lays them (`weight_formats`)."""
    config = inference_config(config)
    config = replace(config, param_dtype="bfloat16", compute_dtype="bfloat16")
    places = weight_formats(config, layout) if ordered else weight_shardings(config, layout)
    params = jax.tree.map(_abstract, abstract_params(config), places)
    cache = jax.eval_shape(lambda: init_cache(config, 2, num_slots))
    cache = jax.tree.map(_abstract, cache, cache_shardings(config, 2, num_slots, layout))
    return Setup(config, layout, params, cache)


def measure(case: Case, setup: Setup) -> Compiled:
    """Compile. Raises compile.OutOfMemory."""
    return compile_lowered(case.lower(setup))


def problems(case: Case, setup: Setup, found: Compiled, memory_bytes: int) -> list[str]:
    """The checks that a compiled program fails, one line each."""
    wrong = []
    if found.temporary > MAX_TEMPORARY_GIB * GIB:
        wrong.append(f"temporary memory {found.temporary / GIB:.3f} GiB > {MAX_TEMPORARY_GIB}")
    if memory_bytes and found.peak > MAX_SHARE * memory_bytes:
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


def smallest_matrix(setup: Setup) -> int:
    """Bytes on one chip of the smallest matrix of a layer."""
    layer = setup.params["layers"]["00"]
    return min(local_bytes(weight) for weight in layer.values() if not isinstance(weight, dict))


def bytes_a_step(setup: Setup) -> int:
    """What one chip reads for one code of a guided image: layers, the codes' rows of the head, the whole cache."""
    layers, head = local_bytes(setup.params["layers"]), local_bytes(setup.params["head"])
    return layers + head * setup.codes[1] // setup.config.vocab_size + local_bytes(setup.cache)


def _int32(setup: Setup, *shape: int) -> Any:
    return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=replicated(setup.layout))


def _abstract(leaf: Any, place: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)


def plan_decoder(
    config: TransformerConfig, topology: Topology, say: Callable[[str], None], num_slots: int = 4608
) -> tuple[dict[str, Any], bool]:
    """The loop of the decoder "sequential" over one guided image, weights split over all chips; is it as wanted?

    `num_slots`: T of its cache, enough for 1024x1024 px and a prompt. The bound is a projection, bytes over bandwidth.
    """
    mesh = MeshConfig("tensor", (("tensor", topology.num_devices),))
    setup = build(config, make_layout(mesh, topology.devices()), num_slots)
    case, chip = PROGRAMS["draw_run"], topology.chip
    parts = {"weights": local_bytes(setup.params), "cache": local_bytes(setup.cache)}
    told = ", ".join(f"{name} {size / GIB:.3f}" for name, size in parts.items())
    say(f"decoder on {topology.num_devices} {chip.name}, {num_slots} slots")
    say(f"memory of a chip in GiB, by shapes: {told}")
    try:
        found = measure(case, setup)
    except OutOfMemory as error:
        say(f"does not fit: the compiler gave up, {error}; more chips are wanted")
        return {"parts": parts, "refused": str(error)}, False
    share = f", {found.peak / chip.memory_bytes:.0%} of a chip" if chip.memory_bytes else ""
    memory = f"temporary {found.temporary / GIB:.3f}, peak {found.peak / GIB:.2f}{share}"
    say(f"memory of a chip in GiB, by the compiler ({found.seconds:.0f} s): {memory}")
    if chip.bandwidth:
        least = bytes_a_step(setup) / chip.bandwidth * 1e3
        say(f"projection: {least:.2f} ms a code at least, its bytes at the memory's peak rate")
    wrong = problems(case, setup, found, chip.memory_bytes)
    fine = "fits; cache written in place, no copy as large as a weight, two all-reduces a layer"
    for line in wrong or [fine]:
        say(line)
    numbers = {**found._asdict(), "text": None, "peak": found.peak}
    return {"parts": parts, "compiled": numbers, "problems": wrong}, not wrong
