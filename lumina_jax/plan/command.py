"""The plan command: from arguments to a plan, a search or the decoder's, in words and as JSON."""

import json
import sys
from collections.abc import Sequence

import jax

from lumina_jax.cli import parse_run_file
from lumina_jax.experiment import Experiment
from lumina_jax.plan.decoder import plan_decoder
from lumina_jax.plan.run_plan import PlanOptions, plan_run
from lumina_jax.plan.search import run_search
from lumina_jax.plan.topology import Topology

USAGE = (
    "usage: python -m lumina_jax.plan RUN_FILE --topology v5e:16x16 [--slices N] [--field value …]"
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Plan, print; exit code 1 where something does not fit."""
    given = sys.argv[1:] if arguments is None else arguments
    options, experiment = parse_run_file(
        given, lambda run_file: PlanOptions(), usage=USAGE, description="What would this run need?"
    )
    if not options.topology:
        raise ValueError(f"name a topology. {USAGE}")
    check(options, experiment)
    topology = Topology.parse(options.topology, options.slices)
    if topology.chip.name == "cpu":
        _have_cpus(topology.num_devices)
    if options.decoder:
        result, fitting = plan_decoder(experiment.model.transformer, topology, print)
    elif options.search:
        result, fitting = run_search(experiment, topology, options)
    else:
        result, fitting = plan_run(experiment, topology, options)
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.exit(0 if fitting else 1)


def check(options: PlanOptions, experiment: Experiment) -> None:
    """ValueError for what cannot be planned."""
    if experiment.trainee != "transformer":
        raise ValueError(f"the run file trains a {experiment.trainee}: want one of a transformer")
    stages = len(experiment.train.stages)
    if options.stage is not None and not 0 <= options.stage < stages:
        raise ValueError(f"--stage {options.stage}: the run file has stages 0 to {stages - 1}")
    if len(options.records_a_row) not in (0, 1, stages):
        raise ValueError(f"--records-a-row: want one number or {stages}, one a stage")
    if any(number < 1 for number in options.records_a_row) or not 0 < options.filled <= 1:
        raise ValueError("--records-a-row wants 1 or more, --filled more than 0 and at most 1")


def _have_cpus(count: int) -> None:
    """Make this process have so many CPU devices, if JAX has not looked for them yet; `Topology.devices` checks."""
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        return
