"""How would training scale to machines that are not here? Projections from counted work; nothing is measured.

    PYTHONPATH=. python benchmarks/scaling.py [--models 7b 34b] [--paper] [--share 0.7]

Weak scaling: one bin of the last stage a chip. Strong scaling: the run file's own batch on ever more chips, which split
sequences where there are more chips than bins. `--paper`: the paper's job on three machines instead.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from lumina_jax.cli import load_run_file, parse_arguments, run_main
from lumina_jax.experiment import Experiment, MeshConfig, Stage
from lumina_jax.plan.costs import state_bytes
from lumina_jax.plan.roofline import (
    Assumptions,
    Projection,
    Run,
    assumption_lines,
    project,
    project_run,
)
from lumina_jax.plan.split import plan_layout
from lumina_jax.plan.step import Step, step_of
from lumina_jax.plan.topology import Topology

RUN_FILES = {"7b": "configs/fp_sft_7b.py", "34b": "configs/fp_sft_34b.py"}
CHIPS = ("v5e", "v5p", "v6e", "a100", "h100")
COUNTS = (8, 16, 32, 64, 128, 256, 512, 1024)
SHAPES = {  # slices, per number of chips
    2: {8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"},
    3: {8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8"}
    | {512: "8x8x8", 1024: "8x8x16"},
}
NUM_AXES = {"v5e": 2, "v6e": 2, "v5p": 3}
RECORDS = 256  # of a step of the run files
FILLED = 0.98  # of a bin: docs/data.md
MAX_STATE = 0.6  # of a chip's memory that weights and moments may take, for gradients and activations to have room
SHARES = ("tpu_share", "v6e_share", "a100_share", "hopper_share")  # fields of Assumptions
PAPER_MACHINES = ("a100:4x8", "v5e:16x16", "v5p:4x4x4")


@dataclass(frozen=True)
class Options:
    """Which tables."""

    models: tuple[str, ...] = tuple(RUN_FILES)
    paper: bool = False  # the paper's job: three stages over 10M pairs
    share: float = 0.0  # of peak that arithmetic reaches, on every chip; 0: as Assumptions has it


class Case(NamedTuple):
    """One step on one machine."""

    topology: Topology
    step: Step
    mesh: MeshConfig

    def project(self, assumed: Assumptions) -> Projection | None:
        """None where weights and moments alone leave no room."""
        layout = plan_layout(self.mesh, self.topology.num_devices)
        held = sum(state_bytes(self.step, layout).values())
        if held > MAX_STATE * self.topology.chip.memory_bytes:
            return None
        return project(self.step, layout, self.topology, assumed)


def topology_of(chip: str, count: int) -> Topology:
    """`count` chips: GPUs in nodes of eight, TPUs in one slice, or several of 256 where a slice has no more."""
    if chip not in NUM_AXES:
        return Topology.parse(f"{chip}:{count // 8}x8")
    shapes = SHAPES[NUM_AXES[chip]]
    size = min(count, max(shapes))
    return Topology.parse(f"{chip}:{shapes[size]}", count // size)


def mesh_of(topology: Topology, rows: int) -> MeshConfig:
    """The run files' strategy, fsdp: copies of it between TPU slices, and split sequences for chips beyond the rows."""
    slices, count = topology.num_slices, topology.num_devices
    columns = max(count // rows, 1)
    axes = {"data": slices, "fsdp": count // slices // columns, "sequence": columns}
    used = {name: size for name, size in axes.items() if size > 1 or name == "fsdp"}
    return MeshConfig("_".join(used), tuple(used.items()))


def bins_of(experiment: Experiment, stage: Stage, rows: int) -> Step:
    """A step of the run file's stage, with so many bins."""
    records = RECORDS / stage.batch_size
    return step_of(experiment, stage, rows, records_per_row=records, filled=FILLED)


def weak(experiment: Experiment, topology: Topology) -> Case:
    """One bin of the last stage a chip."""
    step = bins_of(experiment, experiment.train.stages[-1], topology.num_devices)
    return Case(topology, step, mesh_of(topology, step.rows))


def strong(experiment: Experiment, topology: Topology) -> Case:
    """The last stage's own batch."""
    stage = experiment.train.stages[-1]
    step = bins_of(experiment, stage, stage.batch_size)
    return Case(topology, step, mesh_of(topology, step.rows))


def scaling_table(
    experiment: Experiment, make: Callable[[Experiment, Topology], Case], assumed: Assumptions
) -> list[str]:
    """MFU on every number of chips, and efficiency: tokens/s of a chip over those on the fewest that hold the state.

    Marked where not arithmetic binds: (l)inks, the (n)etwork between slices or nodes, (m)emory.
    """
    rows = ["| chips | " + " | ".join(CHIPS) + " |", "|" + "---|" * (len(CHIPS) + 1)]
    first: dict[str, float] = {}
    for count in COUNTS:
        cells = []
        for chip in CHIPS:
            found = make(experiment, topology_of(chip, count)).project(assumed)
            if found is None:
                cells.append("no room")
                continue
            rate = found.tokens_per_second / count
            efficiency = rate / first.setdefault(chip, rate)
            mark = "" if found.bound == "arithmetic" else f" ({found.bound[0]})"
            cells.append(f"{found.mfu:.0%}, {efficiency:.2f}{mark}")
        rows.append(f"| {count} | " + " | ".join(cells) + " |")
    return rows


def binding_table(experiment: Experiment, assumed: Assumptions) -> list[str]:
    """Tokens a chip below which messages take longer than arithmetic, of fsdp over 256 chips."""
    rows = ["| chip | by fast links | by the network between nodes |", "|---|---|---|"]
    for chip in CHIPS:
        case = weak(experiment, topology_of(chip, 256))
        found = case.project(assumed)
        if found is None:
            rows.append(f"| {chip} | no room | no room |")
            continue
        each = case.step.columns / found.arithmetic
        network = f"{found.network * each:,.0f}" if found.network else "one slice"
        rows.append(f"| {chip} | {found.links * each:,.0f} | {network} |")
    return rows


def paper_run(experiment: Experiment, name: str, every_area: bool, assumed: Assumptions) -> Run:
    """The run file's stages on one machine; `every_area`: each pair at 512, at 768 and at 1024."""
    topology, stages = Topology.parse(name), []
    total = sum(stage.steps for stage in experiment.train.stages)
    for stage in experiment.train.stages:
        step = bins_of(experiment, stage, stage.batch_size)
        found = Case(topology, step, mesh_of(topology, step.rows)).project(assumed)
        if found is None:
            raise ValueError(f"{name}: no room for the weights and moments of the run")
        stages.append((total if every_area else stage.steps, found))
    return project_run(stages, topology.num_devices, assumed)


def paper_table(experiment: Experiment, assumed: Assumptions) -> list[str]:
    """Days and chip-hours; the paper: 7 days on 32 A100, 5,376 GPU-hours."""
    columns = "machine | chips | each pair once: days | chip-hours | at all three areas: days"
    rows = [f"| {columns} | chip-hours |", "|" + "---|" * 6]
    for name in PAPER_MACHINES:
        runs = [paper_run(experiment, name, every, assumed) for every in (False, True)]
        cells = [f"{run.days:.1f} | {run.chip_hours:,.0f}" for run in runs]
        rows.append(f"| {name} | {Topology.parse(name).num_devices} | {' | '.join(cells)} |")
    return rows


def main() -> None:
    """Print projections as tables."""
    options = parse_arguments(Options, prog="benchmarks/scaling.py", description=__doc__)
    assumed = Assumptions()
    if options.share:
        assumed = replace(assumed, **dict.fromkeys(SHARES, options.share))
    print("\n".join(assumption_lines(assumed)))
    if options.paper:
        print("\nprojection: the paper's job, 7b")
        print("\n".join(paper_table(load_run_file(RUN_FILES["7b"]), assumed)))
        return
    for model in options.models:
        experiment = load_run_file(RUN_FILES[model])
        for title, rows in (
            (
                "weak scaling, a bin of the last stage a chip",
                scaling_table(experiment, weak, assumed),
            ),
            ("strong scaling, the last stage's batch", scaling_table(experiment, strong, assumed)),
            ("tokens a chip at which messages bind, 256 chips", binding_table(experiment, assumed)),
        ):
            print(f"\nprojection: {model}, {title}", *rows, sep="\n")


if __name__ == "__main__":
    run_main(main)
