"""Scores of several checkpoints side by side: a table, and a figure with a plot a task."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lumina_jax.plots import new_figure, png

COLUMNS = 4  # of the figure


def table(reports: Mapping[str, Any]) -> str:
    """A line a task: its score at every checkpoint, then chance and ceiling."""
    names = labels(list(reports))
    last = list(reports.values())[-1]["tasks"]
    columns = [*names, "chance", "ceiling"]
    width = 1 + max(map(len, columns))
    lines = [f"{'':24}" + "".join(f"{name:>{width}}" for name in columns)]
    for task in last:
        scores: list[float | None] = [r["tasks"][task]["scores"]["score"] for r in reports.values()]
        scores += [_level(last[task]["chance"]["other"]), _level(last[task]["ceiling"])]
        told = "".join(f"{'-' if value is None else f'{value:.3f}':>{width}}" for value in scores)
        lines.append(f"{task:24}{told}  {last[task]['scores']['metric']}")
    return "\n".join(lines)


def figure_png(reports: Mapping[str, Any]) -> bytes:
    """One plot a task: score and 95 % interval by checkpoint; chance dotted, ceiling dashed."""
    names = labels(list(reports))
    last = list(reports.values())[-1]["tasks"]
    rows = -(-len(last) // COLUMNS)
    figure = new_figure(3 * min(COLUMNS, len(last)), 2.4 * rows)
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
        tilt = {"rotation": 30, "ha": "right"} if any("/" in name for name in names) else {}
        axes.set_xticks(at, names, fontsize=6, **tilt)
        axes.grid(alpha=0.3)
    return png(figure)


def labels(paths: Sequence[str]) -> list[str]:
    """The names of checkpoints: their steps, after the names of their runs where these are several."""
    runs = {Path(path).parent.parent.name for path in paths if Path(path).name.isdecimal()}
    return [
        f"{Path(path).parent.parent.name}/{Path(path).name}"
        if len(runs) > 1 and Path(path).name.isdecimal()
        else Path(path).name
        for path in paths
    ]


def places(names: Sequence[str]) -> list[int]:
    """Where checkpoints stand on the axis: at their steps where all names are steps, else evenly spread."""
    return [int(name) if all(map(str.isdecimal, names)) else i for i, name in enumerate(names)]


def _level(level: Mapping[str, Any] | None) -> float | None:
    return None if level is None else level["score"]
