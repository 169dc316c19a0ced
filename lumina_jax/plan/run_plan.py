"""A run's real step, stage by stage: compiled for a topology, counted and projected."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumina_jax.experiment import Experiment
from lumina_jax.plan.compile import OutOfMemory, argued, compile_stage, stage_program
from lumina_jax.plan.costs import model_flops
from lumina_jax.plan.layer_loop import buffers, layer_loop
from lumina_jax.plan.messages import messages, per_layer
from lumina_jax.plan.report import StagePlan, fits, plain, stage_lines
from lumina_jax.plan.roofline import assumption_lines, project, project_run, run_lines
from lumina_jax.plan.split import plan_layout
from lumina_jax.plan.step import Step, step_of
from lumina_jax.plan.topology import Topology
from lumina_jax.sharding import Layout, make_layout
from lumina_jax.train.program import abstract_batch, check_batches

LARGE = 2**30  # bytes: arrays of this size are named


@dataclass(frozen=True)
class PlanOptions:
    """What to plan for; the rest of the command line overrides fields of the run file, as with train.py."""

    topology: str = ""  # v5e:16x16, v5p:4x4x4, v6e:16x16; a100:4x8 (nodes x GPUs); cpu:8
    slices: int = 1  # of TPUs, joined by the data-centre network
    stage: int | None = None  # of the run file, from 0; all unless told
    decoder: bool = (
        False  # compile the sequential decoder's loop instead, weights split over all chips
    )
    compile: bool = True  # False: count and project alone, in seconds and without any compiler
    records_a_row: tuple[
        float, ...
    ] = ()  # of packed rows, for all stages or one each; 1 unless told
    filled: float = 1.0  # share of tokens that is not padding
    price: float | None = None  # of a chip-hour, in any currency
    search: bool = False  # try strategies, meshes, remat policies and micro-batches
    max_compiles: int = 8  # of a search
    results: Path | None = None  # a JSON file of a search's compiles, read by the next
    json: Path | None = None  # a file that gets all numbers


def plan_run(
    experiment: Experiment, topology: Topology, options: PlanOptions, say: Callable = print
) -> tuple[dict[str, Any], bool]:
    """All numbers as JSON, and whether no stage is known not to fit; `say` gets lines as they are known."""
    layout = run_layout(experiment, topology, options.compile)
    mesh = ", ".join(f"{name} {size}" for name, size in layout.mesh.shape.items())
    say(
        f"{topology.num_devices} {topology.chip.name} ({topology.name}{_slices(topology)}), {layout.strategy}: {mesh}"
    )
    plans = []
    for index in chosen_stages(experiment, options):
        plans.append(plan_stage(experiment, index, layout, topology, options))
        say("\n".join(["", *stage_lines(plans[-1], topology)]))
    run = None
    projections = [(plan.num_steps, plan.projection) for plan in plans if plan.projection]
    if projections and len(projections) == len(experiment.train.stages):
        run = project_run(projections, topology.num_devices, price_per_chip_hour=options.price)
        say("\n".join(["", *run_lines(run)]))
    if projections:
        told = [
            f"assumed: {plan.step.records_per_row:g} records a row of stage {plan.index}"
            for plan in plans
        ]
        told.append(f"assumed: {options.filled:.0%} of the tokens of a row are not padding")
        say("\n".join([*told, *assumption_lines()]))
    verdicts = [fits(plan, topology) for plan in plans]
    stages = [{**plain(plan), "fits": ok} for plan, ok in zip(plans, verdicts, strict=True)]
    about = {
        "topology": topology.name,
        "slices": topology.num_slices,
        "devices": topology.num_devices,
    }
    mesh_of = {"strategy": layout.strategy, "mesh": dict(layout.mesh.shape)}
    return {**about, **mesh_of, "stages": stages, "run": plain(run)}, False not in verdicts


def plan_stage(
    experiment: Experiment, index: int, layout: Layout, topology: Topology, options: PlanOptions
) -> StagePlan:
    """One stage's step, compiled if `options.compile`."""
    stage, program = experiment.train.stages[index], stage_program(experiment, layout)
    step = stage_step(experiment, index, options)
    plan = StagePlan(
        index,
        stage.steps,
        step,
        argued(program, abstract_batch(stage, layout)),
        least=least_a_layer(step, layout, topology),
        model_flops=model_flops(step),
    )
    if topology.chip.has_rates:
        plan = plan._replace(projection=project(step, layout, topology))
    if not options.compile:
        return plan
    try:
        compiled = compile_stage(program, experiment, index, layout)
    except OutOfMemory as error:
        return plan._replace(refused=str(error))
    if compiled.text is None:
        return plan._replace(compiled=compiled)
    per_slice = topology.devices_per_slice if topology.num_domains > 1 else 0
    loop = layer_loop(compiled.text, experiment.model.transformer.num_layers, per_slice)
    return plan._replace(compiled=compiled, loop=loop, buffers=buffers(compiled.text, LARGE))


def run_layout(experiment: Experiment, topology: Topology, compiles: bool) -> Layout:
    """The run's mesh on the topology's devices, or on none where nothing is compiled; checked against its batches."""
    mesh = experiment.train.mesh
    if compiles:
        layout = make_layout(mesh, topology.devices())
    else:
        layout = plan_layout(mesh, topology.num_devices)
    check_batches(experiment, layout)
    return layout


def stage_step(experiment: Experiment, index: int, options: PlanOptions) -> Step:
    """A stage as `costs` counts it."""
    records = options.records_a_row or (1.0,)
    return step_of(
        experiment,
        experiment.train.stages[index],
        records_per_row=records[index if len(records) > 1 else 0],
        filled=options.filled,
    )


def least_a_layer(step: Step, layout: Layout, topology: Topology) -> float:
    """Bytes that a chip has to receive for one layer of one micro-batch, forward and back."""
    found = per_layer(messages(step, layout, topology.num_domains), step.config)
    return sum(message.bytes for message in found) / step.accumulation


def chosen_stages(experiment: Experiment, options: PlanOptions) -> list[int]:
    """The stages that are asked for."""
    return [*range(len(experiment.train.stages))] if options.stage is None else [options.stage]


def _slices(topology: Topology) -> str:
    return f", {topology.num_slices} slices" if topology.num_slices > 1 else ""
