"""Which mesh, remat policy and micro-batches make a run fastest on a topology and still fit it.

What is trained stays as it is: batches, tokens, optimiser. Candidates are counted and projected first; those whose
state and kept inputs alone are too large are dropped, the others compiled by their projected time until one fits.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from lumina_jax.config_json import config_to_dict
from lumina_jax.experiment import Experiment, MeshConfig
from lumina_jax.plan.candidates import Counted, counted_candidates
from lumina_jax.plan.compile import GIB
from lumina_jax.plan.report import fits
from lumina_jax.plan.run_plan import PlanOptions, chosen_stages, plan_stage, run_layout
from lumina_jax.plan.topology import Topology

HEAD = "strategy | mesh | remat | micro-batches | projected s | projected MFU | at least GiB | peak GiB | fits"
MAKERS = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "qwix",
    "libtpu",
    "jax-cuda12-plugin",
    "jax-cuda13-plugin",
)
SHOWN = 10  # candidates that were not compiled


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
    memory = _gib(topology.chip.memory_bytes)
    say(f"{len(counted)} candidates, by projected time; a chip has {memory} GiB")
    say(f"| {HEAD} |\n|" + "---|" * 9)
    if not options.compile:
        for each in counted[:SHOWN]:
            say(_row(each, {}))
        return {"candidates": [_numbers(each, {}) for each in counted[:SHOWN]]}, True
    compile_one = compile_one or _compiler(topology, options)
    tried, best = _tried(experiment, counted, stages, topology, options, compile_one, say)
    result = {"tried": tried, "best": best.candidate.flags if best else None}
    if best is None:
        say(f"none of the {len(tried)} that were compiled fits; --max-compiles tries more")
    else:
        say(f"\nbest that fits: {best.candidate.flags}")
    return result, best is not None


def _tried(
    experiment: Experiment,
    counted: list[Counted],
    stages: list[int],
    topology: Topology,
    options: PlanOptions,
    compile_one: Compile,
    say: Callable[[str], None],
) -> tuple[list[dict[str, Any]], Counted | None]:
    """Compile in order until one fits or `max_compiles` are done; what was compiled before is not compiled again.

    What by its least memory needs no less than one of the same mesh and remat policy that did not fit is passed over:
    other meshes gather other things, of which the least memory knows nothing.
    """
    from tqdm import tqdm

    known, tried, left = _read(options.results), [], options.max_compiles
    too_large: dict[tuple[MeshConfig, str], int] = {}
    with tqdm(total=left, desc="compiling", unit="program") as bar:
        for each in counted:
            alike = each.candidate.mesh, each.candidate.remat
            if each.least_memory >= too_large.get(alike, each.least_memory + 1):
                continue
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
            if all(verdict.fits for verdict in verdicts.values()):
                return tried, each
            too_large[alike] = each.least_memory
    return tried, None


def _compiler(topology: Topology, options: PlanOptions) -> Compile:
    def compile_one(run: Experiment, index: int) -> Verdict:
        layout = run_layout(run, topology, True)
        plan = plan_stage(run, index, layout, topology, options)
        compiled = plan.compiled
        if compiled is None:
            return Verdict(False, None, 0.0)
        return Verdict(bool(fits(plan, topology)), compiled.peak, compiled.seconds)

    return compile_one


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
    """The same for the same program: of the run's settings, the stage, the topology, this package and the compiler."""
    about = [config_to_dict(run), index, topology.name, topology.num_slices, _made_with()]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


@cache
def _made_with() -> list[str]:
    """What makes a program of a run beside its settings: a digest of this package's sources, and versions."""
    digest, package = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + path.read_bytes())
    return [digest.hexdigest(), *(_version(name) for name in MAKERS)]


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
