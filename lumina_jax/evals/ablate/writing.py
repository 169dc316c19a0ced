"""The report on disk: numbers, tables and pictures."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lumina_jax.checkpoint import write_json
from lumina_jax.evals.ablate.figure import figures
from lumina_jax.evals.ablate.report import Scored, build_report, markdown
from lumina_jax.evals.scores import commit
from lumina_jax.paths import make_folder, write_bytes


def write_report(workdir: Path, scored: Scored, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Write `report.json`, `report.md` and `plots/*.png`; returns what the first holds."""
    report = build_report(scored, {**settings, "commit": commit()})
    make_folder(workdir / "plots")
    write_json(workdir / "report.json", json.loads(json.dumps(report)))
    write_bytes(workdir / "report.md", markdown(report).encode())
    for name, picture in figures(report).items():
        write_bytes(workdir / "plots" / f"{name}.png", picture)
    return report
