"""How full are packed bins, and how many tokens a second does the input pipeline alone deliver?

    PYTHONPATH=. python benchmarks/input_pipeline.py [--records 20000] [--seconds 15]

Synthetic pairs of three target areas: photographs by common ratios (`RATIOS`), every one at the allowed crop nearest
to its own shape; the prompt's words around a caption of log-normal length, 70 tokens in the mean and at most 300. The
stages of configs/fp_sft_7b.py: their bins, and their batches. At last a training of the shipped model's size on such
pairs of 128 px: which share of the time its loop waits for a batch.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import jax
import numpy as np
import optax

from lumina_jax.cli import load_run_file, parse_arguments, run_main
from lumina_jax.config import GridConfig
from lumina_jax.data.packing import efficiency, plan_bins
from lumina_jax.data.pipeline import token_batches
from lumina_jax.data.records import Record, pack_record
from lumina_jax.data.shards import finish, open_shards, read_lengths, shard_name, write_shard
from lumina_jax.experiment import LossConfig, Stage
from lumina_jax.model.params import init_params
from lumina_jax.model.presets import PRESETS
from lumina_jax.train.curriculum import Curriculum
from lumina_jax.train.step import init_state, make_train_step
from lumina_jax.unirep.grid import choose_crop, crop_sizes, image_token_count
from lumina_jax.unirep.vocab import Vocab

# (width / height, share) of photographs; the rest is spread evenly over all allowed crops
RATIOS = (
    (4 / 3, 0.30),
    (3 / 4, 0.15),
    (3 / 2, 0.12),
    (2 / 3, 0.08),
    (1.0, 0.15),
    (16 / 9, 0.10),
    (9 / 16, 0.05),
)
PROMPT_TOKENS = (
    22  # "Generate an image of 1024x768 according to the following prompt:\n", every digit alone
)
CAPTION = {"mean": 70, "sigma": 0.6, "longest": 300}  # tokens
RELEASED = Vocab(65536, 0, 1, 2, 8710, 8197, 8196, 8803, 4, 8192, 8804, 512)  # Chameleon's ids
CONTEXT_DROPOUT = 0.1  # as in a run: it is drawn for every record


@dataclass(frozen=True)
class Options:
    """How much to measure."""

    records: int = 20_000  # written and read, of each area
    planned: int = 1_000_000  # whose bins are planned, of each area
    seconds: float = 15  # of reading, for each area and number of workers
    workers: tuple[int, ...] = (0, 2)
    run_file: str = "configs/fp_sft_7b.py"  # its stages, one an area, smallest first


def main() -> None:
    """Print a table of bins and a table of speeds."""
    options = parse_arguments(Options, prog="benchmarks/input_pipeline.py", description=__doc__)
    stages = dict(zip((512, 768, 1024), load_run_file(options.run_file).train.stages, strict=True))
    print("| area | mean tokens | longest | bin | records a bin | full | planned in s |")
    print("|---|---|---|---|---|---|---|")
    for target_px, stage in stages.items():
        lengths, _ = draw_lengths(target_px, options.planned)
        start = perf_counter()
        bins = plan_bins(lengths, stage.max_tokens, 0)
        seconds = perf_counter() - start
        full = efficiency(bins, lengths, stage.max_tokens)
        print(
            f"| {target_px} | {lengths.mean():.0f} | {lengths.max()} | {stage.max_tokens} | "
            f"{len(lengths) / len(bins):.2f} | {full:.2%} | {seconds:.2f} |",
            flush=True,
        )
    print("\n| area | workers | batch | first batch in s | tokens/s | records/s |")
    print("|---|---|---|---|---|---|")
    for target_px, stage in stages.items():
        with tempfile.TemporaryDirectory() as folder:
            write_records(Path(folder), target_px, options.records)
            for workers in options.workers:
                row = speed(folder, stage, workers, options.seconds)
                print(f"| {target_px} | {row}", flush=True)
    print("\n| training | workers | s/step | share of waiting for data |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        model = PRESETS["scenes"]
        write_records(Path(folder), 128, 4096, model.grid, model.transformer.vocab_size - 1)
        for workers in options.workers:
            row = waiting(folder, workers)
            print(f"| scenes, 4 x 512 packed | {workers} | {row} |", flush=True)


def draw_lengths(
    target_px: int, count: int, grid: GridConfig = GridConfig()
) -> tuple[np.ndarray, np.ndarray]:
    """int64[count] each: tokens of synthetic pairs, and of their images."""
    rng = np.random.default_rng(target_px)
    crops = crop_sizes(target_px, grid)
    common = [choose_crop((round(6000 * ratio), 6000), crops) for ratio, _ in RATIOS]
    image_tokens = np.array([image_token_count(*size, grid) for size in [*common, *crops]])
    given = [share for _, share in RATIOS]
    spread = [(1 - sum(given)) / len(crops)] * len(crops)
    images = image_tokens[rng.choice(len(image_tokens), count, p=[*given, *spread])]
    sigma = CAPTION["sigma"]
    captions = rng.lognormal(np.log(CAPTION["mean"]) - sigma**2 / 2, sigma, count)
    captions = np.clip(captions.round(), 1, CAPTION["longest"]).astype(np.int64)
    return 1 + PROMPT_TOKENS + captions + 1 + images + 1, images  # begin, prompt, two separators


def write_records(
    folder: Path, target_px: int, count: int, grid: GridConfig = GridConfig(), num_ids: int = 8196
) -> None:
    """A folder of `count` records of random ids below `num_ids`."""
    lengths, images = draw_lengths(target_px, count, grid)
    rng = np.random.default_rng(0)

    def records() -> Iterator[bytes]:
        for index, (length, image) in enumerate(zip(lengths, images, strict=True)):
            tokens = rng.integers(4, num_ids, length, np.uint16)
            tokens[-2] = num_ids  # of the end of an image in Chameleon's vocabulary
            spans = ((int(length - image) - 1, int(length)),)
            size = (target_px, target_px)
            yield pack_record(Record(tokens, spans, "t2i", size, f"pairs_{target_px}", index))

    write_shard(folder / shard_name(0, 1), records())
    finish(folder, count, {}, lengths.tolist())


def speed(folder: str, stage: Stage, workers: int, seconds: float) -> str:
    """The rest of a row of the table: batches of the stage for `seconds`, after one that is not timed."""
    sources, lengths = {"pairs": open_shards(folder)}, {"pairs": read_lengths(folder)}
    stage = replace(stage, steps=1_000_000, warmup_steps=0, mixture=(("pairs", 1.0),))
    start = perf_counter()
    batches = token_batches(
        sources,
        Curriculum([stage]),
        0,
        RELEASED,
        CONTEXT_DROPOUT,
        lengths=lengths,
        num_workers=workers,
    )
    shape = next(batches)["tokens"].shape
    first = perf_counter() - start
    tokens = records = 0
    start = perf_counter()
    while (passed := perf_counter() - start) < seconds:
        segments = next(batches)["segment_ids"]
        tokens += np.count_nonzero(segments)
        records += segments.max(axis=1).sum()
    batches.close()
    rows, columns = shape
    return f"{workers} | {rows} x {columns} | {first:.1f} | {tokens / passed / 1e6:.2f} M | {records / passed:.0f} |"


def waiting(folder: str, workers: int, steps: int = 20) -> str:
    """Seconds a step of the shipped model's size, and the share of them that the loop waits for its batch."""
    model, optimizer = PRESETS["scenes"], optax.sgd(1e-3)
    stage = Stage(steps + 1, 4, 1e-3, (("pairs", 1.0),), max_tokens=512, layout="packed")
    step = jax.jit(make_train_step(model, LossConfig(), optimizer, packed=True), donate_argnums=0)
    state = init_state(init_params(model.transformer, jax.random.key(0)), optimizer)
    sources, lengths = {"pairs": open_shards(folder)}, {"pairs": read_lengths(folder)}
    given = (sources, Curriculum([stage]), 0, RELEASED, CONTEXT_DROPOUT)
    batches = token_batches(*given, lengths=lengths, num_workers=workers)
    state, _ = jax.block_until_ready(step(state, next(batches), jax.random.key(0)))
    waited, start = 0.0, perf_counter()
    for _ in range(steps):
        asked = perf_counter()
        batch = next(batches)
        waited += perf_counter() - asked
        state, _ = jax.block_until_ready(step(state, batch, jax.random.key(0)))
    passed = perf_counter() - start
    batches.close()
    return f"{passed / steps:.3f} | {waited / passed:.2%}"


if __name__ == "__main__":
    run_main(main)
