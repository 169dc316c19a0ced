"""Learning curves: several checkpoints of a run scored on a few examples of every task, as a figure and its numbers.

python -m lumina_jax.evals.curves runs/omni --num 14 --out curves.png
python -m lumina_jax.evals.curves runs/omni/checkpoints/500 runs/omni/model --tasks question edit --out curves.png

A workdir stands for all of its training checkpoints (`--train.keep-every` keeps some). Beside the figure lies
a JSON of the same name with every report; a command that was cut off goes on with what it holds.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from lumina_jax.cli import parse_arguments, run_main
from lumina_jax.evals.curves.figure import figure_png, table


@dataclass(frozen=True)
class Options:
    """Which checkpoints to score on what."""

    checkpoints: tyro.conf.Positional[
        tuple[str, ...]
    ]  # workdirs, training checkpoints, models; in order
    tasks: tuple[str, ...] = ("all",)  # rows of unirep.tasks.TASKS
    num: int = 14  # examples of each task, where it has kinds of each kind
    # a model whose own settings all are drawn with; default: each with its own
    settings_of: str | None = None
    out: Path = Path("curves.png")


def main() -> None:
    """Score each checkpoint, print its lines, write figure and JSON."""
    from lumina_jax.evals.kept import load_all, load_scored
    from lumina_jax.evals.protocol import EXAMPLES
    from lumina_jax.evals.report import chosen_tasks, read_report, score_tasks, write_report
    from lumina_jax.image_files import check_folder
    from lumina_jax.paths import write_bytes

    options = parse_arguments(Options, prog="python -m lumina_jax.evals.curves")
    tasks = [task for task in chosen_tasks(options.tasks) if task in EXAMPLES]
    paths, out = load_all(options.checkpoints), options.out.with_suffix(".json")
    if not paths or options.num < 1 or not tasks:
        raise ValueError("nothing to score: name a checkpoint, a task and at least 1 example")
    check_folder(options.out.parent)
    drawn_as = options.settings_of and load_scored(options.settings_of)
    reports: dict[str, Any] = {}
    there = (read_report(out, "reports") or {"reports": {}})["reports"]
    for path in paths:
        print(path, flush=True)
        is_last = path == paths[-1]  # chance and ceiling are those of the protocol and the VQGAN
        model = load_scored(path)
        if drawn_as:
            model.settings, model.by_task = drawn_as.settings, drawn_as.by_task
        report = score_tasks(
            model,
            tasks,
            options.num,
            with_levels=is_last,
            earlier=there.get(str(path)),
            save=lambda report, name=str(path): write_report(
                out, {"reports": {**there, **reports, name: report}}
            ),
        )
        reports[str(path)] = report
    write_bytes(options.out, figure_png(reports))
    write_report(out, {"reports": reports})
    print(table(reports))
    print(options.out)


if __name__ == "__main__":
    run_main(main)
