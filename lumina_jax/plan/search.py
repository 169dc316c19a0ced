"""Which mesh, remat policy and micro-batches make a run fastest on a topology and still fit it.

What is trained stays as it is: batches, tokens, optimiser. Candidates are counted and projected first; those whose state and
kept inputs alone are too large are dropped, the others compiled in the order of their projected time until one fits.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from lumina_jax.config_json import config_to_dict
from lumina_jax.experiment import Experiment, MeshConfig
from lumina_jax.model.params import abstract_params, param_letters
from lumina_jax.plan.command import PlanOptions, chosen_stages, plan_stage, run_layout, stage_step
from lumina_jax.plan.compile import GIB
from lumina_jax.plan.costs import REMATS, Step, state_bytes
from lumina_jax.plan.report import HEADROOM, StagePlan, fits
from lumina_jax.plan.roofline import Projection, project
from lumina_jax.plan.split import plan_layout
from lumina_jax.plan.topology import Topology
from lumina_jax.sharding import STRATEGIES, Layout, batch_ways, letter_ways, param_shardings
from lumina_jax.train.program import check_batches

MAX_TENSOR, MAX_SEQUENCE = 16, 16  # ways: more cost more to send than they save
MICRO_BATCHES = (1, 2, 4, 8, 16)
SHOWN = 10  # candidates that were not compiled


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


class Verdict(NamedTuple):
    """What the compiler said of one stage of a candidate."""

    fits: bool
    peak: int | None  # bytes; None where it gave up
    seconds: float  # to compile


Compile = Callable[[Experiment, int], Verdict]


def run_search(
    experiment: Experiment,
    topology: Topology,
    options: PlanOptions,
    say: Callable[[str], None] = print,
    compile_one: Compile | None = None,
) -> tuple[dict[str, Any], bool]:
    """The fastest candidate that fits, printed with its flags, as JSON; and whether there is one.

    With `--no-compile` the ten fastest by projection are printed, of which it is not known whether they fit.
    """
    if not topology.chip.memory_bytes:
        raise ValueError(f"--search: nothing is known of the memory of {topology.chip.name!r}")
    stages = chosen_stages(experiment, options)
    counted = counted_candidates(experiment, topology, options)
    if not counted:
        raise ValueError(
            f"--search: no mesh of {topology.num_devices} devices divides the run's batches, sequences and weights, "
            "or none has memory for the state alone; change batch_size or the topology"
        )
    say(
        f"{len(counted)} candidates, by projected time; GiB of {_gib(topology.chip.memory_bytes)} a chip"
    )
    say(
        "| strategy | mesh | remat | micro-batches | s (projection) | MFU (projection) | at least GiB | peak GiB | fits |"
    )
    say("|" + "---|" * 9)
    if not options.compile:
        for each in counted[:SHOWN]:
            say(_row(each, {}))
        return {"candidates": [_numbers(each, {}) for each in counted[:SHOWN]]}, True
    compile_one = compile_one or _compiler(topology, options)
    tried, best = _tried(experiment, counted, stages, topology, options, compile_one, say)
    left = [_numbers(each, {}) for each in counted[len(tried) : len(tried) + SHOWN]]
    result = {"tried": tried, "not_compiled": left, "best": best.candidate.flags if best else None}
    if best is None:
        say(f"none of the {len(tried)} that were compiled fits; --max-compiles tries more")
    else:
        say(f"\nbest that fits: {best.candidate.flags}")
    return result, best is not None


def counted_candidates(
    experiment: Experiment, topology: Topology, options: PlanOptions
) -> list[Counted]:
    """Every candidate that divides and may fit, fastest projection first."""
    found = []
    for candidate in candidates(experiment, topology):
        run = candidate.of(experiment)
        layout = plan_layout(candidate.mesh, topology.num_devices)
        steps = [stage_step(run, index, options) for index in chosen_stages(run, options)]
        least = max(least_memory(step, layout) for step in steps)
        if least > (1 - HEADROOM) * topology.chip.memory_bytes:
            continue
        projected = [project(step, layout, topology.chip, topology.num_domains) for step in steps]
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
            for remat in REMATS:
                yield Candidate(mesh, remat, accumulation)


def meshes(topology: Topology) -> Iterator[MeshConfig]:
    """Every strategy on every mesh of its axes, each of two devices or more; "data" over the slices where there are several."""
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
    """Bytes of a chip: the state, and one input a layer of one micro-batch. What is gathered or computed comes on top."""
    config = step.config
    tokens = step.positions / batch_ways(layout) / letter_ways("S", layout) / step.accumulation
    width = jnp.dtype(config.compute_dtype).itemsize
    return sum(state_bytes(step, layout).values()) + int(
        tokens * config.width * width * config.num_layers
    )


def _tried(
    experiment: Experiment,
    counted: list[Counted],
    stages: list[int],
    topology: Topology,
    options: PlanOptions,
    compile_one: Compile,
    say: Callable[[str], None],
) -> tuple[list[dict[str, Any]], Counted | None]:
    """Compile in order until one fits or `max_compiles` are done; what was compiled before is not compiled again."""
    from tqdm import tqdm

    known, tried, left = _read(options.results), [], options.max_compiles
    with tqdm(total=left, desc="compiling", unit="program") as bar:
        for each in counted:
            run, verdicts = each.candidate.of(experiment), {}
            for index in _heaviest_first(run, stages):
                key = _key(run, index, topology)
                if key not in known:
                    if left == 0:
                        return tried, None
                    known[key] = compile_one(run, index)
                    _write(options.results, known)
                    left -= 1
                    bar.update()
                verdicts[index] = known[key]
                if not known[key].fits:
                    break
            tried.append(_numbers(each, verdicts))
            say(_row(each, verdicts))
            if len(verdicts) == len(stages) and all(v.fits for v in verdicts.values()):
                return tried, each
    return tried, None


def _compiler(topology: Topology, options: PlanOptions) -> Compile:
    def compile_one(run: Experiment, index: int) -> Verdict:
        layout = run_layout(run, topology, True)
        plan: StagePlan = plan_stage(run, index, layout, topology, options)
        compiled = plan.compiled
        if compiled is None:
            return Verdict(False, None, 0.0)
        return Verdict(bool(fits(plan, topology)), compiled.peak, compiled.seconds)

    return compile_one


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


def _heaviest_first(run: Experiment, stages: list[int]) -> list[int]:
    size = {i: run.train.stages[i].batch_size * run.train.stages[i].max_tokens for i in stages}
    return sorted(stages, key=lambda index: -size[index])


def _row(each: Counted, verdicts: Mapping[int, Verdict]) -> str:
    """A line of the table."""
    candidate = each.candidate
    mesh = " x ".join(f"{name} {size}" for name, size in candidate.mesh.axes)
    cells = [candidate.mesh.strategy, mesh, candidate.remat, candidate.accumulation]
    cells += [f"{each.seconds:.4g}", f"{each.mfu:.1%}", _gib(each.least_memory), _peak(verdicts)]
    fitting = all(verdict.fits for verdict in verdicts.values())
    cells.append(("yes" if fitting else "no") if verdicts else "not compiled")
    return "| " + " | ".join(map(str, cells)) + " |"


def _numbers(each: Counted, verdicts: Mapping[int, Verdict]) -> dict[str, Any]:
    told = {str(index): verdict._asdict() for index, verdict in verdicts.items()}
    numbers = each._asdict() | {"candidate": each.candidate.flags, "stages": told}
    return numbers


def _peak(verdicts: Mapping[int, Verdict]) -> str:
    peaks = [verdict.peak for verdict in verdicts.values()]
    if not peaks:
        return ""
    return "too much" if None in peaks else _gib(max(peak for peak in peaks if peak is not None))


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}"


def _key(run: Experiment, index: int, topology: Topology) -> str:
    """The same for the same program: of the run's settings, the stage, the topology and the compiler."""
    compilers = [_version(name) for name in ("jax", "jaxlib", "libtpu", "jax-cuda12-plugin")]
    about = [config_to_dict(run), index, topology.name, topology.num_slices, compilers]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _read(path: Path | None) -> dict[str, Verdict]:
    """What earlier searches compiled; ValueError for a file that is no such list."""
    if path is None or not path.exists():
        return {}
    try:
        return {key: Verdict(**row) for key, row in json.loads(path.read_text("utf-8")).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"--results {path}: not a search's results ({error}); name another file"
        ) from error


def _write(path: Path | None, known: Mapping[str, Verdict]) -> None:
    """All of it, in place of what was there, at once."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    rows = {key: verdict._asdict() for key, verdict in known.items()}
    partial.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
