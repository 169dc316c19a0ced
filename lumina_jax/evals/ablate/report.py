"""All runs side by side: every outcome's mean over seeds with its interval, and its difference from the base arm."""

from collections.abc import Mapping, Sequence
from typing import Any

from lumina_jax.evals.ablate.arms import BASE, Run
from lumina_jax.evals.ablate.statistics import mean_interval, paired_difference

Scored = Sequence[tuple[Run, Mapping[str, Any]]]  # runs with the content of their files


def build_report(scored: Scored, settings: Mapping[str, Any]) -> dict[str, Any]:
    """{"settings", "arms", "outcomes"} as JSON: each seed's numbers by arm, and the comparison by outcome.

    An outcome of an arm: {"values": {seed: number}, "mean", "low", "high", "against_full": `paired_difference`}.
    """
    arms: dict[str, Any] = {}
    for run, found in scored:
        arm = arms.setdefault(run.arm, {"seeds": {}})
        arm |= {name: found[name] for name in ("weights", "tokens", "flops")}
        numbers = {name: found[name] for name in ("checkpoint", "outcomes", "curves")}
        arm["seeds"][str(run.seed)] = numbers
    names = dict.fromkeys(name for _, found in scored for name in found["outcomes"])
    outcomes = {name: _compared(name, arms) for name in names}
    return {"settings": dict(settings), "arms": arms, "outcomes": outcomes}


def _compared(name: str, arms: Mapping[str, Any]) -> dict[str, Any]:
    """One outcome of every arm that has it."""
    values = {
        arm: {
            int(seed): found["outcomes"][name]
            for seed, found in content["seeds"].items()
            if name in found["outcomes"]
        }
        for arm, content in arms.items()
    }
    rows = {}
    for arm, by_seed in values.items():
        if by_seed:
            against = None if arm == BASE else paired_difference(by_seed, values.get(BASE, {}))
            rows[arm] = {
                "values": {str(seed): value for seed, value in by_seed.items()},
                **mean_interval(list(by_seed.values())),
                "against_full": against,
            }
    return rows


def table(report: Mapping[str, Any]) -> str:
    """A block of lines an outcome: each arm's mean, interval and seeds, and what is told of its difference."""
    width = max(map(len, report["arms"]))
    lines = []
    for name, rows in report["outcomes"].items():
        lines.append(name)
        lines += [
            f"  {arm:{width}}  {told(row)}  {verdict(row)}".rstrip() for arm, row in rows.items()
        ]
    return "\n".join(lines)


def markdown(report: Mapping[str, Any]) -> str:
    """A table a family of outcomes, an arm a column; and one of what each arm was given."""
    arms = list(report["arms"])
    given = ["| arm | weights | tokens | FLOPs | seeds |", "|---|---|---|---|---|"]
    for arm, content in report["arms"].items():
        seeds = " ".join(content["seeds"])
        given.append(
            f"| {arm} | {content['weights']:,} | {content['tokens']:,} | {content['flops']:.3g} | {seeds} |"
        )
    blocks = ["\n".join(given)]
    for family, names in families(report).items():
        lines = [f"| {family} | {' | '.join(arms)} |", "|---" * (len(arms) + 1) + "|"]
        for name in names:
            rows = report["outcomes"][name]
            cells = [_cell(rows[arm]) if arm in rows else "" for arm in arms]
            lines.append(f"| {name.partition('/')[2]} | {' | '.join(cells)} |")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def families(report: Mapping[str, Any]) -> dict[str, list[str]]:
    """The outcomes by what stands before their first slash."""
    found: dict[str, list[str]] = {}
    for name in report["outcomes"]:
        found.setdefault(name.partition("/")[0], []).append(name)
    return found


def told(row: Mapping[str, Any]) -> str:
    """Mean, interval, and every seed: "0.500 [0.252, 0.748] (0.400 0.500 0.600)"."""
    interval = "" if row["low"] is None else f" [{row['low']:.3f}, {row['high']:.3f}]"
    seeds = " ".join(f"{value:.3f}" for value in row["values"].values())
    return f"{row['mean']:.3f}{interval} ({seeds})"


def verdict(row: Mapping[str, Any]) -> str:
    """What is told of the difference from BASE: "-0.120 [-0.200, -0.040] lower"; "" of BASE itself."""
    against = row["against_full"]
    if against is None:
        return ""
    low, high = against["low"], against["high"]
    interval = "" if low is None else f" [{low:+.3f}, {high:+.3f}]"
    return f"{against['mean']:+.3f}{interval} {against['verdict']}"


def _cell(row: Mapping[str, Any]) -> str:
    parts = [told(row), verdict(row)]
    return "<br>".join(part for part in parts if part)
