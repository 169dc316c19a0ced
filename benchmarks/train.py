"""How fast does a run file train here? A row a stage: seconds a step, tokens a second and device, MFU.

    PYTHONPATH=. python benchmarks/train.py [RUN_FILE] [--steps 10] [--cpu-devices 2] [--train.mesh.strategy fsdp …]

The step is the run's own program on its own mesh (train/program.py), its batches random tokens in the stage's shape;
compilation and the first step are left out. Fields of the run file can be overridden as with train.py.
"""

import sys
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

import jax
import numpy as np

from lumina_jax.cli import parse_run_file, run_main
from lumina_jax.data.pipeline import rows_of_records
from lumina_jax.data.records import Record
from lumina_jax.experiment import Experiment, Stage
from lumina_jax.sharding import batch_sharding, make_layout
from lumina_jax.train.curriculum import Curriculum
from lumina_jax.train.flops import batch_flops, peak_flops
from lumina_jax.train.program import check_batches, transformer_program

USAGE = "usage: python benchmarks/train.py RUN_FILE [--steps N] [--field value …]"
FORMULA = (
    "MFU = (6 P tokens + 12 L N H pairs) / (seconds x peak of all devices in bfloat16). P: weights but the embedding "
    "(with adapters 4 P + 6 A); pairs: what attention joins, causally and within a record, S (S + 1) / 2 for each of "
    "S tokens; nothing that is computed twice counts."
)
COLUMNS = (
    "stage | rows x tokens | records a row | s/step | rows/s | tokens/s/device | MFU | peak GiB"
)


@dataclass(frozen=True)
class Options:
    """What to time, and how."""

    cpu_devices: int = 1  # as train.py's
    steps: int = 10  # timed, after one that is not
    stages: tuple[int, ...] = ()  # of the run file, from 0; empty: all
    records_a_row: int = 4  # where rows are packed; of equal length


class Timed(NamedTuple):
    """A stage's step."""

    seconds: float
    flops: float  # of the model, causal
    peak_bytes: (
        int | None
    )  # of a device's memory since the process began; None where it does not say


def main(arguments: list[str] | None = None) -> None:
    """Time a step of every stage and print a table."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0].startswith("--") and given[0] != "--help":
        given = ["configs/scenes.py", *given]  # a transformer that fits every machine
    options, experiment = parse_run_file(
        given, lambda run_file: Options(), usage=USAGE, description=__doc__ or ""
    )
    if options.cpu_devices > 1:
        jax.config.update("jax_num_cpu_devices", options.cpu_devices)
    if experiment.trainee != "transformer":
        raise ValueError(f"{given[0]}: trains a {experiment.trainee}, want a transformer")
    device, count = jax.devices()[0].device_kind, jax.device_count()
    peak = peak_flops(tflops=experiment.train.peak_tflops)
    known = f"{peak / count / 1e12:.0f} TFLOP/s each" if peak else "of unknown peak"
    print(f"{count} x {device}, {known}, jax {jax.__version__}. {FORMULA}\n\n| {COLUMNS} |")
    print("|" + "---|" * (COLUMNS.count("|") + 1))
    for index, stage in enumerate(experiment.train.stages):
        if not options.stages or index in options.stages:
            timed = time_step(experiment, stage, options)
            print(row(index, stage, timed, options, peak), flush=True)


def row(index: int, stage: Stage, timed: Timed, options: Options, peak: float | None) -> str:
    """A line of the table."""
    tokens = stage.batch_size * stage.max_tokens
    mfu = f"{timed.flops / timed.seconds / peak:.1%}" if peak else "unknown chip"
    memory = "untold" if timed.peak_bytes is None else f"{timed.peak_bytes / 2**30:.2f}"
    cells = [index, f"{stage.batch_size} x {stage.max_tokens}", records_a_row(stage, options)]
    cells += [f"{timed.seconds:.4g}", f"{stage.batch_size / timed.seconds:.1f}"]
    cells += [f"{tokens / timed.seconds / jax.device_count():.0f}", mfu, memory]
    return "| " + " | ".join(map(str, cells)) + " |"


def time_step(experiment: Experiment, stage: Stage, options: Options) -> Timed:
    """The mean over `options.steps` steps."""
    model, train = experiment.model, experiment.train
    layout = make_layout(train.mesh)
    check_batches(experiment, layout)
    codes = 0, model.vqgan.num_codes
    program = transformer_program(experiment, Curriculum(train.stages), layout, codes)
    places = jax.tree.map(lambda leaf: leaf.sharding, program.state)
    state: Any = jax.jit(program.init, out_shardings=places)(jax.random.key(0))
    rows = random_batch(stage, model.transformer.vocab_size, records_a_row(stage, options))
    batch = jax.device_put(rows, batch_sharding(layout))
    state, _ = jax.block_until_ready(program.step(state, batch))
    start = perf_counter()
    for _ in range(options.steps):
        state, _ = program.step(state, batch)
    jax.block_until_ready(state)
    seconds = (perf_counter() - start) / options.steps
    memory = jax.devices()[0].memory_stats() or {}
    flops = batch_flops(model.transformer, rows, train.lora)
    return Timed(seconds, flops, memory.get("peak_bytes_in_use"))


def records_a_row(stage: Stage, options: Options) -> int:
    """Segments of a row: one, or several where rows are packed."""
    return options.records_a_row if stage.layout == "packed" else 1


def random_batch(stage: Stage, vocab_size: int, num_records: int = 1) -> dict[str, np.ndarray]:
    """Full rows of `num_records` records of random tokens, all predicted."""
    lengths = [len(part) for part in np.array_split(np.arange(stage.max_tokens), num_records)]
    rng = np.random.default_rng(0)

    def record(length: int) -> Record:
        return Record(rng.integers(0, vocab_size, length, np.int32), ((0, length),))

    rows = [[record(length) for length in lengths] for _ in range(stage.batch_size)]
    return rows_of_records(rows, stage.max_tokens, 0)


if __name__ == "__main__":
    run_main(main)
