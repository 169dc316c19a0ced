"""Rows as a Markdown table, readable as it stands."""

from collections.abc import Sequence
from typing import Any

from lumina_jax.evals.intervals import within_noise
from lumina_jax.evals.sweep.points import Row


def table(rows: Sequence[Row]) -> str:
    """A line a row: its score, what it is more than its base, and its other columns; intervals are of 95 %."""
    has_gain = any(row.gain is not None for row in rows)
    columns = list(dict.fromkeys(name for row in rows for name in row.more))
    heads = ["", "score", *(["against its base"] if has_gain else []), *columns]
    lines = [_line(heads), "|" + "---|" * len(heads)]
    for row in rows:
        gain = ["" if row.gain is None else gained(row.gain)] if has_gain else []
        cells = [_cell(name, row.more.get(name)) for name in columns]
        lines.append(_line([row.name, _cell("score", row.score), *gain, *cells]))
    return "\n".join(lines)


def gained(gain: dict[str, Any]) -> str:
    """A paired difference, and what it is worth.

    >>> gained({"score": -0.02, "low": -0.05, "high": 0.01, "n": 600})
    '-0.020 [-0.050, +0.010], within noise'
    """
    told = "within noise" if within_noise(gain) else "more" if gain["score"] > 0 else "less"
    return f"{gain['score']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}], {told}"


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        if "against" in name:
            return gained(value)
        size = abs(value["score"])
        digits = 2 if size >= 2 else 3 if size >= 0.01 or size == 0 else 5
        return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(
            value["score"], value["low"], value["high"], d=digits
        )
    return value if isinstance(value, str) else f"{value:.3f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
