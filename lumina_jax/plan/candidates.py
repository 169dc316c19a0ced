"""The ways to compute a run on a topology: strategies, meshes, remat policies, micro-batches; counted, not compiled."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple, get_args

import jax.numpy as jnp

from lumina_jax.config import TransformerConfig
from lumina_jax.experiment import Experiment, MeshConfig
from lumina_jax.model.params import abstract_params, param_letters
from lumina_jax.plan.costs import REMATS, recomputed, state_bytes
from lumina_jax.plan.report import HEADROOM
from lumina_jax.plan.roofline import Projection, project
from lumina_jax.plan.run_plan import PlanOptions, chosen_stages, stage_step
from lumina_jax.plan.split import plan_layout
from lumina_jax.plan.step import Step
from lumina_jax.plan.topology import Topology
from lumina_jax.sharding import STRATEGIES, Layout, batch_ways, letter_ways, param_shardings
from lumina_jax.train.program import check_batches

MAX_TENSOR, MAX_SEQUENCE = 16, 16  # ways: more cost more to send than they save
MICRO_BATCHES = (1, 2, 4, 8, 16)


class Candidate(NamedTuple):
    """One way to compute the run."""

    mesh: MeshConfig
    remat: str
    accumulation: int

    @property
    def flags(self) -> str:
        """What to paste behind `train.py RUN_FILE`."""
        axes = " ".join(f"{name} {size}" for name, size in self.mesh.axes)
        return (
            f"--train.mesh.strategy {self.mesh.strategy} --train.mesh.axes {axes} "
            f"--model.transformer.remat {self.remat} --train.accumulation {self.accumulation}"
        )

    def of(self, experiment: Experiment) -> Experiment:
        """The run computed so."""
        model = experiment.model
        transformer = replace(model.transformer, remat=self.remat)
        train = replace(experiment.train, mesh=self.mesh, accumulation=self.accumulation)
        return replace(experiment, model=replace(model, transformer=transformer), train=train)


class Counted(NamedTuple):
    """A candidate with what is known before it is compiled."""

    candidate: Candidate
    least_memory: int  # bytes of a chip: state and inputs kept for going back
    seconds: float  # projected, of all its stages' steps
    waits: float  # seconds of those for links and network: what breaks ties
    mfu: float  # of the longest stage


def counted_candidates(
    experiment: Experiment, topology: Topology, options: PlanOptions
) -> list[Counted]:
    """Every candidate that divides and may fit, fastest projection first; with a progress bar."""
    from tqdm import tqdm

    found = []
    for candidate in tqdm(candidates(experiment, topology), desc="counting", unit="candidate"):
        run = candidate.of(experiment)
        layout = plan_layout(candidate.mesh, topology.num_devices)
        steps = [stage_step(run, index, options) for index in chosen_stages(run, options)]
        least = max(least_memory(step, layout) for step in steps)
        if least > (1 - HEADROOM) * topology.chip.memory_bytes:
            continue
        projected = [project(step, layout, topology) for step in steps]
        found.append(_counted(candidate, least, run, projected, options))
    return sorted(found, key=lambda each: (float(f"{each.seconds:.3g}"), each.waits))


def candidates(experiment: Experiment, topology: Topology) -> Iterator[Candidate]:
    """Strategies x meshes x remat policies x micro-batches that the run's sizes divide into."""
    for mesh in meshes(topology):
        layout = plan_layout(mesh, topology.num_devices)
        if not _divides_weights(experiment, layout):
            continue
        for accumulation in MICRO_BATCHES:
            if not _divides_batches(experiment, mesh, accumulation, layout):
                continue
            for remat in policies():
                yield Candidate(mesh, remat, accumulation)


def policies() -> list[str]:
    """The remat policies that a config takes and `costs` counts."""
    return [name for name in get_args(TransformerConfig.__annotations__["remat"]) if name in REMATS]


def meshes(topology: Topology) -> Iterator[MeshConfig]:
    """Every strategy on every mesh of its axes, each of two devices or more; on slices with "data" over them."""
    count = topology.num_devices
    for name, strategy in STRATEGIES.items():
        sizes = [n for n in range(2, count + 1) if count % n == 0]
        if count == 1 and name == "data":
            yield MeshConfig(name, (("data", 1),))
        for shape in itertools.product(sizes, repeat=len(strategy.axes)):
            axes = dict(zip(strategy.axes, shape, strict=True))
            wide = axes.get("tensor", 1) > MAX_TENSOR or axes.get("sequence", 1) > MAX_SEQUENCE
            apart = topology.num_slices > 1 and axes.get("data", 1) % topology.num_slices
            if math.prod(shape) == count and not wide and not apart:
                yield MeshConfig(name, tuple(axes.items()))


def least_memory(step: Step, layout: Layout) -> int:
    """Bytes of a chip: the state, and what one micro-batch keeps of each layer. What is gathered comes on top."""
    tokens = step.positions / batch_ways(layout) / letter_ways("S", layout) / step.accumulation
    width = jnp.dtype(step.config.compute_dtype).itemsize
    kept = tokens * width * kept_numbers(step, layout) * step.config.num_layers
    return sum(state_bytes(step, layout).values()) + int(kept)


def kept_numbers(step: Step, layout: Layout) -> float:
    """Of one token and layer, at least: the layer's input, and outputs of products that are not computed again.

    Policies that move them to the host's memory keep none, nor does what no gradient goes back through.
    """
    config = step.config
    if config.remat.startswith("offload") or not step.goes_back():
        return 0.0
    again, size = recomputed(config), config.head_size
    heads = config.num_heads * size / letter_ways("N", layout)
    keys = config.num_kv_heads * size / letter_ways("K", layout)
    mlp = config.mlp_width / letter_ways("F", layout)
    outputs = {"q": heads, "k": keys, "v": keys, "o": config.width, "gate": mlp, "up": mlp}
    kept = sum(numbers for name, numbers in outputs.items() if name not in again.weights)
    return config.width + kept + (0.0 if again.attention else heads)


def _counted(
    candidate: Candidate,
    least: int,
    run: Experiment,
    projected: list[Projection],
    options: PlanOptions,
) -> Counted:
    steps = [run.train.stages[index].steps for index in chosen_stages(run, options)]
    pairs = [*zip(steps, projected, strict=True)]
    seconds = sum(count * each.seconds for count, each in pairs)
    waits = sum(count * (each.links + each.network) for count, each in pairs)
    longest = max(pairs, key=lambda pair: pair[0] * pair[1].seconds)[1]
    return Counted(candidate, least, seconds, waits, longest.mfu)


def _divides_weights(experiment: Experiment, layout: Layout) -> bool:
    config = experiment.model.transformer
    try:
        param_shardings(abstract_params(config), param_letters(config), layout)
    except ValueError:
        return False
    return True


def _divides_batches(
    experiment: Experiment, mesh: MeshConfig, accumulation: int, layout: Layout
) -> bool:
    try:
        run = Candidate(mesh, experiment.model.transformer.remat, accumulation).of(experiment)
        check_batches(run, layout)
    except ValueError:
        return False
    return True
