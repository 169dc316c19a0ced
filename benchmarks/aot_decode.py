"""Do the decoder's programs fit the accelerators they are meant for? Compiled ahead of time, on a machine without any.

    PYTHONPATH=. python benchmarks/aot_decode.py [--targets "7b v6e-1" …] [--programs draw_run …]

Prints a row a program and target, and a line for every check that fails; then the exit code is 1. Checked: temporary
memory, the cache written in place, no copy as large as a weight, two all-reduces a layer, peak memory. TPU targets want
libtpu (requirements-tpu.txt), GPU targets jax's CUDA plugin; a target without its compiler is skipped, which is said.
"""

import os
import sys
from dataclasses import dataclass

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # do not ask a cloud what machine this is
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # compiling needs no TPU to itself

import numpy as np
from jax.sharding import Mesh

from benchmarks._targets import TARGETS, Target, devices
from lumina_jax.cli import parse_arguments, run_main
from lumina_jax.model.presets import PRESETS
from lumina_jax.plan.compile import GIB, Compiled
from lumina_jax.plan.decoder import (
    NUM_CODES,
    PROGRAMS,
    Setup,
    build,
    bytes_a_step,
    measure,
    problems,
)
from lumina_jax.plan.hlo import collectives
from lumina_jax.sharding import Layout


@dataclass(frozen=True)
class Options:
    """What to compile, and for what."""

    targets: tuple[str, ...] = tuple(TARGETS)
    programs: tuple[str, ...] = ("prefill", "draw_run", "advance")
    num_slots: int = 2432  # T: a prompt and 768x768 px
    prefill_length: int = 64
    text: str = ""  # a folder to write the compiled programs' HLO to


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


def row(name: str, target: Target, program: str, setup: Setup, found: Compiled) -> str:
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


if __name__ == "__main__":
    run_main(main)
