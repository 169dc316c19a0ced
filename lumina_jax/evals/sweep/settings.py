"""Guidance by image top-k by temperature, each beside the checkpoint's own settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from lumina_jax.evals.sweep.points import Row, Sweep, points_of, row_of

OWN = "own settings"


@dataclass(frozen=True)
class Grid:
    """What is tried: every guidance with every top-k at every temperature."""

    guidances: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0, 8.0)
    top_ks: tuple[int, ...] = (1, 20, 200, 2000)  # 1 is greedy, whatever the temperature
    temperatures: tuple[float, ...] = (0.7, 0.85, 1.0)

    def name(self, guidance: float, top_k: int, temperature: float) -> str:
        """Of a point; greedy ones share theirs."""
        drawn = "greedy" if top_k == 1 else f"top-k {top_k}, temperature {temperature:g}"
        return f"guidance {guidance:g}, {drawn}"

    def named(self) -> dict[str, dict[str, Any]]:
        """The settings of every point by its name."""
        return {
            self.name(guidance, top_k, temperature): {
                "guidance": guidance,
                "guidance_schedule": (),
                "image_guidance": None,
                "image_top_p": 1.0,
                "image_min_p": 0.0,
                "image_top_k": top_k,
                "temperature": 1.0 if top_k == 1 else temperature,
            }
            for guidance, top_k, temperature in product(
                self.guidances, self.top_ks, self.temperatures
            )
        }


def sweep_settings(sweep: Sweep, grid: Grid = Grid()) -> list[Row]:
    """The checkpoint's own settings, then all of the grid, against them."""
    found = points_of(sweep, {OWN: {}, **grid.named()})
    base = found.pop(OWN)
    rows = [row_of(sweep, name, point, base) for name, point in found.items()]
    return [row_of(sweep, OWN, base, None), *rows]


def by_place(rows: Sequence[Row], grid: Grid) -> dict[tuple[float, int, float], Row]:
    """The rows by (guidance, top-k, temperature)."""
    named = {row.name: row for row in rows}
    places = product(grid.guidances, grid.top_ks, grid.temperatures)
    return {place: named[grid.name(*place)] for place in places}
