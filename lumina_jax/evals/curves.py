"""Learning curves: several checkpoints of a run scored on a few examples of every task, as a figure and its numbers.

python -m lumina_jax.evals.curves runs/omni --num 14 --out curves.png
python -m lumina_jax.evals.curves runs/omni/checkpoints/500 runs/omni/model --tasks question edit --out curves.png

A workdir stands for all of its training checkpoints (`--train.keep-every` keeps some). Beside the figure lies
a JSON of the same name with every report.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from lumina_jax.cli import parse_arguments, run_main

COLUMNS = 4  # of the figure


@dataclass(frozen=True)
class Options:
    """Which checkpoints to score on what."""

    checkpoints: tyro.conf.Positional[
        tuple[str, ...]
    ]  # workdirs, training checkpoints, models; in order
    tasks: tuple[str, ...] = ("all",)  # rows of unirep.tasks.TASKS
    num: int = 14  # examples of each task
    out: Path = Path("curves.png")


def main() -> None:
    """Score each checkpoint, print its lines, write figure and JSON."""
    from lumina_jax.evals.kept import load_all, load_scored
    from lumina_jax.evals.report import chosen_tasks, score_tasks, write_report
    from lumina_jax.image_files import check_folder
    from lumina_jax.paths import write_bytes

    options = parse_arguments(Options, prog="python -m lumina_jax.evals.curves")
    tasks, paths = chosen_tasks(options.tasks), load_all(options.checkpoints)
    if not paths or options.num < 1 or not tasks:
        raise ValueError("nothing to score: name a checkpoint, a task and at least 1 example")
    check_folder(options.out.parent)
    reports = {}
    for path in paths:
        print(path, flush=True)
        is_last = path == paths[-1]  # chance and ceiling are those of the protocol and the VQGAN
        model = load_scored(path)
        reports[str(path)] = score_tasks(model, tasks, options.num, with_levels=is_last)
    write_bytes(options.out, figure_png(reports))
    write_report(options.out.with_suffix(".json"), {"reports": reports})
    print(table(reports))
    print(options.out)


def table(reports: Mapping[str, Any]) -> str:
    """A line a task: its score at every checkpoint, then chance and ceiling."""
    names = [Path(path).name for path in reports]
    last = list(reports.values())[-1]["tasks"]
    lines = [f"{'':24}" + "".join(f"{name:>9}" for name in [*names, "chance", "ceiling"])]
    for task in last:
        scores: list[float | None] = [r["tasks"][task]["scores"]["score"] for r in reports.values()]
        scores += [_level(last[task]["chance"]["other"]), _level(last[task]["ceiling"])]
        told = "".join(f"{'-' if value is None else f'{value:.3f}':>9}" for value in scores)
        lines.append(f"{task:24}{told}  {last[task]['scores']['metric']}")
    return "\n".join(lines)


def figure_png(reports: Mapping[str, Any]) -> bytes:
    """One plot a task: score and 95 % interval by checkpoint; chance dotted, ceiling dashed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [Path(path).name for path in reports]
    last = list(reports.values())[-1]["tasks"]
    rows = -(-len(last) // COLUMNS)
    figure = Figure(figsize=(3 * min(COLUMNS, len(last)), 2.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    at = places(names)
    for number, task in enumerate(last):
        axes = figure.add_subplot(rows, min(COLUMNS, len(last)), number + 1)
        found = [report["tasks"][task]["scores"] for report in reports.values()]
        axes.plot(at, [row["score"] for row in found], marker=".")
        axes.fill_between(
            at, [row["low"] for row in found], [row["high"] for row in found], alpha=0.2
        )
        levels = ((last[task]["chance"]["other"], ":"), (last[task]["ceiling"], "--"))
        for level, style in levels:
            if level is not None:
                axes.axhline(level["score"], color="grey", linestyle=style, linewidth=1)
        axes.set_title(f"{task}: {found[0]['metric']}", fontsize=8)
        axes.set_xticks(at, names, fontsize=7)
        axes.grid(alpha=0.3)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120)
    return picture.getvalue()


def places(names: Sequence[str]) -> list[int]:
    """Where checkpoints stand on the axis: at their steps where all names are steps, else evenly spread."""
    return [int(name) if all(map(str.isdecimal, names)) else i for i, name in enumerate(names)]


def _level(level: Mapping[str, Any] | None) -> float | None:
    return None if level is None else level["score"]


if __name__ == "__main__":
    run_main(main)
