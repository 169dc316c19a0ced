"""Do the large runs fit the machines they are meant for? Compiled ahead of time, on a machine without any.

    PYTHONPATH=. python benchmarks/plans.py [--rows "7b v5e-256 4096" …] [--json FILE]

Prints a row of a table a step (docs/planning.md says what its numbers mean), and below it what is wrong: a step that
does not fit, that sends more than it has to, waits for what it sends, or has large arrays in the loss. The exit code is
1 if anything is, but for what PLANS knows of.
Wants libtpu: `pip install -r requirements-tpu.txt`. A compile takes minutes of every core, and some 10 GB of memory.
"""

import json
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # do not ask a cloud what machine this is
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # compiling needs no TPU to itself

from lumina_jax.cli import parse_arguments, parse_run_file, run_main
from lumina_jax.dims import pick
from lumina_jax.plan.command import USAGE
from lumina_jax.plan.compile import GIB
from lumina_jax.plan.decoder import plan_decoder
from lumina_jax.plan.layer_loop import LOSS
from lumina_jax.plan.report import MIB
from lumina_jax.plan.run_plan import PlanOptions, plan_run
from lumina_jax.plan.topology import Topology

SEVEN, THIRTY_FOUR = "configs/fp_sft_7b.py", "configs/fp_sft_34b.py"
COLUMNS = (
    "plan | mesh | rows x tokens a step | compile (s) | inputs (GiB) | temporary (GiB) | peak (GiB) | of the chip "
    "| fits | collectives a layer (MiB) | times the least | synchronous | arrays of 1 GiB | s a step (projection) "
    "| MFU (projection)"
)


MOST_SENT = 1.1  # times the strategy's least, a layer


class Problem(NamedTuple):
    """What is wrong with a compiled step."""

    kind: str  # "memory", "bytes", "synchronous", "loss"
    size: float  # times the least of "bytes", else MiB
    told: str


class Known(NamedTuple):
    """A problem that a plan may have, and why."""

    kind: str
    most: float  # as Problem.size
    reason: str


class Plan(NamedTuple):
    """One step, or a decoder, on one machine."""

    run_file: str
    flags: str  # of `python -m lumina_jax.plan RUN_FILE`
    known: tuple[Known, ...] = ()


def of_rows(topology: str, rows: int, tokens: int, *more: str) -> str:
    """A machine, and a first stage of so many rows and tokens; the others get rows that divide alike."""
    stages = [f"--train.stages.{index}.batch-size {rows}" for index in range(3)]
    return " ".join(
        [f"--topology {topology} --stage 0 --train.stages.0.max-tokens {tokens}", *stages, *more]
    )


SLICES = "--slices 2 --train.mesh.strategy data_fsdp --train.mesh.axes data 2 fsdp 256"

# 32 MiB each of a 7B's attention, forward and back
FIRST = Known(
    "synchronous",
    64,
    "the first weight of a layer is gathered before any product that could hide it",
)

LAST = Known(
    "synchronous",
    128,
    "that, and the sum of the last gradient, before which no product is left to hide it",
)
WHOLE_SUMS = Known(
    "bytes",
    1.34,
    "sums of whole gradients run beside the products on v5e; sums that are scattered send half, but are waited for",
)

PLANS = {
    "7b v5e-256 4096": Plan(SEVEN, of_rows("v5e:16x16", 256, 4096), (FIRST, WHOLE_SUMS)),
    "7b v5e-256 8448": Plan(SEVEN, of_rows("v5e:16x16", 256, 8448), (LAST, WHOLE_SUMS)),
    "7b v5p-128 4096": Plan(SEVEN, of_rows("v5p:4x4x4", 256, 4096)),
    "7b v5p-128 8448": Plan(SEVEN, of_rows("v5p:4x4x4", 128, 8448)),
    "7b v6e-256 4096": Plan(SEVEN, of_rows("v6e:16x16", 512, 4096)),
    "7b v6e-256 8448": Plan(SEVEN, of_rows("v6e:16x16", 256, 8448)),
    "7b 2 x v5e-256 4096": Plan(
        SEVEN, of_rows("v5e:16x16", 512, 4096, SLICES), (FIRST, WHOLE_SUMS)
    ),
    "7b 2 x v5e-256 8448": Plan(
        SEVEN, of_rows("v5e:16x16", 512, 8448, SLICES), (FIRST, WHOLE_SUMS)
    ),
    "34b v5p-512 4096": Plan(THIRTY_FOUR, of_rows("v5p:4x8x8", 512, 4096)),
    "34b v5p-512 8448": Plan(THIRTY_FOUR, of_rows("v5p:4x8x8", 256, 8448)),
    "34b v6e-256 4096": Plan(THIRTY_FOUR, of_rows("v6e:16x16", 256, 4096)),
    "34b v6e-256 8448": Plan(THIRTY_FOUR, of_rows("v6e:16x16", 256, 8448)),
    "34b decoder v5e-8": Plan(THIRTY_FOUR, "--topology v5e:2x4 --decoder"),
}


@dataclass(frozen=True)
class Options:
    """Which plans."""

    rows: tuple[str, ...] = tuple(PLANS)
    json: Path | None = None  # a file that gets all numbers, after every plan


def main() -> None:
    """Compile, print a table and what is wrong, and end with 1 where that is not known."""
    options = parse_arguments(Options, prog="benchmarks/plans.py", description=__doc__)
    plans = {name: pick(PLANS, name, "plan") for name in options.rows}
    print(f"| {COLUMNS} |\n|" + "---|" * (COLUMNS.count("|") + 1))
    numbers, lines, failed = {}, [], False
    for name, plan in plans.items():
        print(f"{name}: python -m lumina_jax.plan {plan.run_file} {plan.flags}", file=sys.stderr)
        found, fitting = planned(plan)
        numbers[name] = found
        cells = stage_cells(found) if "stages" in found else decoder_cells(found)
        print("| " + " | ".join([name, *cells]) + " |", flush=True)
        said, wrong = judged(plan, found)
        lines += [f"{name}: {line}" for line in said]
        failed |= wrong or not fitting
        if options.json is not None:
            options.json.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    print("\n".join(["", *lines]))
    sys.exit(1 if failed else 0)


def judged(plan: Plan, found: dict[str, Any]) -> tuple[list[str], bool]:
    """A line for each problem, and for what is not known or no longer there; whether any is not in `plan.known`."""
    if "stages" not in found:  # a decoder's problems are in the table
        return [], False
    stage = found["stages"][0]
    lines, failed, met = [], False, set()
    if stage["fits"] is not False and stage["loop"] is None:
        lines.append("its text could not be read: memory is all that was checked")
    for problem in problems(stage):
        known = next((k for k in plan.known if k.kind == problem.kind), None)
        if known is not None and problem.size <= known.most:
            lines.append(f"known: {problem.told}: {known.reason}")
            met.add(known)
        else:
            lines.append(f"problem: {problem.told}")
            failed = True
    if stage["loop"] is not None:
        gone = (known for known in plan.known if known not in met and not failed)
        lines += [f"no longer so, remove it from PLANS: {known.reason}" for known in gone]
    return lines, failed


def problems(stage: dict[str, Any]) -> list[Problem]:
    """What is wrong with a stage of a plan's JSON, as far as it could be read."""
    found, loop = [], stage["loop"]
    if stage["fits"] is False:
        peak = stage["compiled"]["peak"] / MIB if stage["compiled"] else math.inf
        found.append(Problem("memory", peak, "does not fit"))
    if loop is None:
        return found
    if not loop["num_loops"]:
        return [*found, Problem("bytes", math.inf, "no loop over layers was found")]
    if stage["least"] and (ratio := loop["bytes"] / stage["least"]) > MOST_SENT:
        told = f"{ratio:.2f} times the strategy's least is sent a layer, want {MOST_SENT} at most"
        found.append(Problem("bytes", ratio, told))
    waiting = [sent for sent in loop["sent"] if not sent["asynchronous"]]
    if waiting:
        told = ", ".join(f"{s['count']:.3g} {s['kind']} {s['bytes'] / MIB:.1f}" for s in waiting)
        size = sum(sent["bytes"] for sent in waiting) / MIB
        found.append(Problem("synchronous", size, f"waited for in a layer, in MiB: {told}"))
    for buffer in stage["buffers"]:
        if LOSS.search(buffer["op_name"]):
            size = buffer["bytes"] / MIB
            told = f"an array of {size:.0f} MiB in the loss: {buffer['name']} {buffer['shape']}"
            found.append(Problem("loss", size, told))
    return found


def planned(plan: Plan) -> tuple[dict[str, Any], bool]:
    """What `python -m lumina_jax.plan` finds; its words go to standard error."""
    arguments = [plan.run_file, *plan.flags.split()]
    options, experiment = parse_run_file(
        arguments, lambda _: PlanOptions(), usage=USAGE, description=""
    )
    topology = Topology.parse(options.topology, options.slices)
    if options.decoder:
        return plan_decoder(experiment.model.transformer, topology, say)
    return plan_run(experiment, topology, options, say)


def say(line: str) -> None:
    """To standard error: the table is standard output."""
    print(line, file=sys.stderr, flush=True)


def stage_cells(found: dict[str, Any]) -> list[str]:
    """A table's cells of one compiled stage, after its name."""
    stage = found["stages"][0]
    step, compiled, loop = stage["step"], stage["compiled"], stage["loop"]
    mesh = ", ".join(f"{name} {size}" for name, size in found["mesh"].items())
    cells = [mesh, f"{step['rows']} x {step['columns']}"]
    if compiled is None:
        cells += ["", "", "", stage["refused"], "", "no"]
    else:
        memory = Topology.parse(found["topology"]).chip.memory_bytes
        gib = [f"{compiled[part] / GIB:.2f}" for part in ("arguments", "temporary", "peak")]
        cells += [f"{compiled['seconds']:.0f}", *gib, f"{compiled['peak'] / memory:.0%}"]
        cells.append("yes" if stage["fits"] else "no")
    if loop is None:
        cells += ["unread"] * 4
    else:
        waiting = [f"{s['count']:.3g} {s['kind']}" for s in loop["sent"] if not s["asynchronous"]]
        cells += [f"{loop['bytes'] / MIB:.0f}", f"{loop['bytes'] / stage['least']:.2f}"]
        cells += [
            ", ".join(waiting) or "none",
            str(len(stage["buffers"])) if stage["buffers"] else "none",
        ]
    projection = stage["projection"]
    return [*cells, f"{projection['seconds']:.2f}", f"{projection['mfu']:.0%}"]


def decoder_cells(found: dict[str, Any]) -> list[str]:
    """The same of a decoder's loop."""
    compiled, inputs = found.get("compiled"), sum(found["parts"].values())
    if compiled is None:
        return ["tensor", "", "", f"{inputs / GIB:.2f}", "", found["refused"], "", "no", *[""] * 6]
    gib = [f"{compiled[part] / GIB:.2f}" for part in ("arguments", "temporary", "peak")]
    verdict = "; ".join(found["problems"]) or "yes"
    return ["tensor", "", f"{compiled['seconds']:.0f}", *gib, "", verdict, *[""] * 6]


if __name__ == "__main__":
    run_main(main)
