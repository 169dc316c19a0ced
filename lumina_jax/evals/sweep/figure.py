"""Rows as pictures: heat maps of a grid of settings, points with intervals of everything else."""

from collections.abc import Sequence

import numpy as np

from lumina_jax.evals.intervals import within_noise
from lumina_jax.evals.sweep.points import Row
from lumina_jax.evals.sweep.settings import Grid, by_place
from lumina_jax.plots import new_figure, png

ROW_INCHES = 0.28


def heat_maps(rows: Sequence[Row], grid: Grid = Grid()) -> bytes:
    """A PNG with a map of guidance by top-k a temperature; in brackets what is within noise of the own settings."""
    found = by_place(rows, grid)
    scores = {place: row.score["score"] for place, row in found.items()}
    figure = new_figure(2.9 * len(grid.temperatures), 0.6 + 0.4 * len(grid.guidances))
    every = figure.subplots(1, len(grid.temperatures), sharey=True, squeeze=False)[0]
    limits = {"vmin": min(scores.values()), "vmax": max(scores.values())}
    for axes, temperature in zip(every, grid.temperatures, strict=True):
        values = [[scores[g, k, temperature] for k in grid.top_ks] for g in grid.guidances]
        axes.imshow(np.array(values), aspect="auto", cmap="viridis", **limits)
        for y, guidance in enumerate(grid.guidances):
            for x, top_k in enumerate(grid.top_ks):
                text = _told(found[guidance, top_k, temperature])
                axes.text(x, y, text, ha="center", va="center", fontsize=7, color="white")
        axes.set_title(f"temperature {temperature:g}", fontsize=8)
        axes.set_xticks(range(len(grid.top_ks)), [str(k) for k in grid.top_ks], fontsize=7)
        axes.set_yticks(range(len(grid.guidances)), [f"{g:g}" for g in grid.guidances], fontsize=7)
        axes.set_xlabel("top-k", fontsize=7)
    every[0].set_ylabel("guidance", fontsize=7)
    return png(figure)


def intervals_plot(rows: Sequence[Row]) -> bytes:
    """A PNG with the score of every row, and beside it what it is more than its base; intervals of 95 %."""
    has_gain = any(row.gain is not None for row in rows)
    figure = new_figure(4 + 3 * has_gain, 0.8 + ROW_INCHES * len(rows))
    every = figure.subplots(1, 1 + has_gain, sharey=True, squeeze=False)[0]
    sides = [[row.score for row in rows], *([[row.gain for row in rows]] if has_gain else [])]
    for axes, found, title in zip(every, sides, ("score", "against its base"), strict=False):
        for place, row in enumerate(found):
            if row is not None:
                axes.plot([row["low"], row["high"]], [place, place], color="C0")
                axes.plot(row["score"], place, "o", color="C0", markersize=4)
        axes.set_title(title, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    if has_gain:
        every[1].axvline(0, color="grey", linewidth=1)
    every[0].set_yticks(range(len(rows)), [row.name for row in rows], fontsize=7)
    every[0].invert_yaxis()
    return png(figure)


def panels(rows: Sequence[Row]) -> bytes:
    """A PNG with a plot a row, for numbers of different kinds."""
    figure = new_figure(6, 0.9 * len(rows))
    for axes, row in zip(figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows, strict=True):
        axes.plot([row.score["low"], row.score["high"]], [0, 0], color="C0")
        axes.plot(row.score["score"], 0, "o", color="C0", markersize=4)
        axes.axvline(0, color="grey", linewidth=1)
        axes.set_yticks([])
        axes.tick_params(labelsize=7)
        axes.set_title(f"{row.name}: {row.more['number']}", fontsize=8)
    return png(figure)


def _told(row: Row) -> str:
    text = f"{row.score['score']:.2f}"
    return f"({text})" if row.gain is not None and within_noise(row.gain) else text
