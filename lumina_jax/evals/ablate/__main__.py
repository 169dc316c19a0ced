"""Train every arm of an ablation from every seed, score each, and compare them with the full recipe.

python -m lumina_jax.evals.ablate runs/ablations --seeds 0 1 2
python -m lumina_jax.evals.ablate runs/ablations --arms without_z_loss --seeds 0 1 2 3
python -m lumina_jax.evals.ablate runs/try --arms without_size_tokens --seeds 0 --steps-scale 0.02

Arms are the run files of configs/ablations (docs/ablations.md). Each run trains in a process of its own, one after the
other. The same command goes on: what is trained and scored is not done again. WORKDIR then holds `report.json` with
every number, `report.md` and `plots/`, written anew after each run.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from lumina_jax.cli import parse_arguments, run_main
from lumina_jax.evals.ablate.arms import FOLDER
from lumina_jax.evals.ablate.scoring import ScoreOptions


@dataclass(frozen=True)
class Options:
    """What to train, from which seeds, and how to score it."""

    workdir: tyro.conf.Positional[Path]  # of all runs: ARM/seed_SEED, data, report.json, plots
    arms: tuple[str, ...] = ()  # names in `folder` or run files, beside "full"; default: all of it
    seeds: tuple[int, ...] = (0, 1, 2)  # each another order of the data and other first weights
    steps_scale: float = 1.0  # of every stage, for a trial
    cpu_devices: int = 2  # of a training on a machine without accelerator, as for train.py
    folder: Path = FOLDER  # of the arms' run files
    data_dir: Path | None = None  # tokenised records, shared by all runs; default: WORKDIR/data
    score: tyro.conf.OmitArgPrefixes[ScoreOptions] = ScoreOptions()


def main() -> None:
    """Train, score and report run after run."""
    from lumina_jax.evals.ablate.arms import find_arms, runs_of
    from lumina_jax.evals.ablate.report import table
    from lumina_jax.evals.ablate.scoring import score_run
    from lumina_jax.evals.ablate.training import check_workdir, is_trained, train_run
    from lumina_jax.evals.ablate.writing import write_report

    options = parse_arguments(
        Options, prog="python -m lumina_jax.evals.ablate", description=__doc__
    )
    arms = find_arms(options.arms, options.folder)
    runs = runs_of(arms, options.seeds, options.workdir, options.steps_scale)
    for run in runs:
        check_workdir(run)
    data_dir = options.data_dir or options.workdir / "data"
    settings = {"steps_scale": options.steps_scale, "score": asdict(options.score)}
    scored, report = [], {}
    for number, run in enumerate(runs, 1):
        print(f"{number} of {len(runs)}: {run.workdir}", flush=True)
        if not is_trained(run):
            train_run(run, data_dir, options.cpu_devices)
        scored.append((run, score_run(run, options.score)))
        report = write_report(options.workdir, scored, settings)
    print(table(report))
    print(options.workdir / "report.json")


if __name__ == "__main__":
    run_main(main)
