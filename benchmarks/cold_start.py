"""How long from nothing to an image, and how much of it does the persistent compilation cache save?

    PYTHONPATH=. python benchmarks/cold_start.py [--repeats 3] [--sample="--decoder jacobi"]

Every round paints one image by `sample.py` in new processes: with an empty cache of compiled programs, then with what
the first has left there. Medians of the rounds. "Compiling" is what XLA takes, or the reading of its stored programs.
"""

import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from tqdm import tqdm

from lumina_jax.cli import parse_arguments, run_main

ROOT = Path(__file__).resolve().parents[1]
# JAX's own names of what it times, and ours
STAGES = {
    "/jax/core/compile/jaxpr_trace_duration": "tracing",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowering",
    "/jax/core/compile/backend_compile_duration": "compiling",
}
COLUMNS = ("whole", *STAGES.values())


@dataclass(frozen=True)
class Options:
    """How often, and with which options of sample.py."""

    repeats: int = 3
    sample: str = ""


def main() -> None:
    """Run the rounds and print a table."""
    options = parse_arguments(Options, prog="benchmarks/cold_start.py", description=__doc__)
    if options.repeats < 1:
        raise ValueError(f"--repeats {options.repeats}: want 1 or more")
    rows: dict[str, list[dict[str, float]]] = {"empty": [], "filled": []}
    for _ in tqdm(range(options.repeats), unit="round"):
        with tempfile.TemporaryDirectory() as folder:
            for times in rows.values():
                times.append(paint(Path(folder), shlex.split(options.sample)))
    print(f"| cache of programs | {' | '.join(f'{name} (s)' for name in COLUMNS)} | programs |")
    print(f"|{'---|' * (len(COLUMNS) + 2)}")
    medians = {name: median(times) for name, times in rows.items()}
    for name, row in medians.items():
        cells = " | ".join(f"{row[column]:.2f}" for column in COLUMNS)
        print(f"| {name} | {cells} | {row['programs']:.0f} |")
    share = medians["filled"]["compiling"] / medians["empty"]["compiling"]
    print(f"\nCompiling with the filled cache takes {share:.0%} of without.")


def paint(folder: Path, options: list[str]) -> dict[str, float]:
    """Seconds of each stage of a new process that paints, with its programs kept in `folder`."""
    told = {"LUMINA_JAX_CACHE": str(folder), "PYTHONPATH": str(ROOT)}
    kept = {key: value for key, value in os.environ.items() if "COMPILATION_CACHE" not in key}
    command = [
        sys.executable,
        "-m",
        "benchmarks.cold_start",
        "--child",
        "--out",
        str(folder / "image.png"),
        *options,
    ]
    start = perf_counter()
    process = subprocess.run(
        command, env={**kept, **told}, capture_output=True, text=True, cwd=ROOT, check=False
    )
    whole = perf_counter() - start
    if process.returncode:
        raise ValueError(f"sample.py {options}: {process.stderr.strip().splitlines()[-1]}")
    return {**json.loads(process.stdout.splitlines()[-1]), "whole": whole}


def median(times: list[dict[str, float]]) -> dict[str, float]:
    """Of every column."""
    return {key: statistics.median(time[key] for time in times) for key in times[0]}


def child(arguments: list[str]) -> None:
    """Run sample.py and print what JAX says of its stages in one line of JSON."""
    import jax

    import sample

    seconds: dict[str, float] = defaultdict(float)

    def note(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event in STAGES:
            seconds[STAGES[event]] += duration_secs
            seconds["programs"] += STAGES[event] == "compiling"

    jax.monitoring.register_event_duration_secs_listener(note)
    sample.main(["--prompt", "a red dome to the left of a blue ring", *arguments])
    print(json.dumps(seconds))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
    else:
        run_main(main)
