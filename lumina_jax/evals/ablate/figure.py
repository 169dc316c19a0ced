"""The report as pictures: a figure a family of outcomes, and one a curve over the compute of training."""

from collections.abc import Mapping, Sequence
from typing import Any

from lumina_jax.evals.ablate.report import families
from lumina_jax.plots import new_figure, png

COLUMNS = 4  # plots beside each other
CURVES = {
    "loss": "held-out loss, nats a code",
    "logits": "root mean squared log-normaliser of the logits",
}


def figures(report: Mapping[str, Any]) -> dict[str, bytes]:
    """PNGs by file name without suffix."""
    found = {
        family.replace(" ", "_"): outcomes_png(report, names)
        for family, names in families(report).items()
    }
    return {**found, **{f"{name}_curve": curve_png(report, name) for name in CURVES}}


def outcomes_png(report: Mapping[str, Any], names: Sequence[str]) -> bytes:
    """A plot an outcome: of every arm the mean, its 95 % interval, and every seed as a point."""
    arms = list(report["arms"])
    columns, rows = min(COLUMNS, len(names)), -(-len(names) // COLUMNS)
    figure = new_figure(3.2 * columns, 2.8 * rows)
    for number, name in enumerate(names, 1):
        axes = figure.add_subplot(rows, columns, number)
        for place, arm in enumerate(arms):
            row = report["outcomes"][name].get(arm)
            if row is None:
                continue
            seeds = list(row["values"].values())
            axes.plot([place] * len(seeds), seeds, "o", markersize=3, alpha=0.6, color=f"C{place}")
            if row["low"] is not None:
                reach = [[row["mean"] - row["low"]], [row["high"] - row["mean"]]]
                axes.errorbar(place, row["mean"], reach, fmt="_", capsize=4, color=f"C{place}")
        axes.set_title(name, fontsize=8)
        axes.set_xticks(range(len(arms)), [arm.replace("_", "\n") for arm in arms], fontsize=6)
        axes.set_xlim(-0.5, len(arms) - 0.5)
        axes.grid(alpha=0.3)
    return png(figure)


def curve_png(report: Mapping[str, Any], name: str) -> bytes:
    """A line a seed, a colour an arm, over the FLOPs spent."""
    figure = new_figure(7, 4)
    axes = figure.add_subplot(xlabel="training FLOPs", ylabel=CURVES[name])
    for place, (arm, content) in enumerate(report["arms"].items()):
        for number, found in enumerate(content["seeds"].values()):
            curve = found["curves"][name]
            label = None if number else arm
            axes.plot(
                curve["flops"], curve["values"], color=f"C{place}", alpha=0.7, lw=1, label=label
            )
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return png(figure)
