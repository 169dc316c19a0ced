"""The command's work from its options to a complete folder, alone or as one of several processes."""

import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from lumina_jax.data.pretokenize.conversations import Words
from lumina_jax.data.pretokenize.examples import Source
from lumina_jax.data.pretokenize.folder import BAD, Bad, Shard, begin, complete, read_shards
from lumina_jax.data.pretokenize.image_loading import Fit
from lumina_jax.data.pretokenize.options import RunOptions, SourceOptions, TokeniseOptions
from lumina_jax.data.pretokenize.sources import open_source
from lumina_jax.data.pretokenize.tokenising import Work, tokenise_shards
from lumina_jax.data.records import jitted_encoder
from lumina_jax.data.shards import (
    default_workers,
    folder_to_fill,
    missing_shards,
    shard_range,
    share,
)
from lumina_jax.paths import is_remote
from lumina_jax.unirep.grid import check_size, crop_sizes

MAX_SHOWN = 100  # bad inputs on the screen; bad.jsonl has all
POLL_SECONDS = 1.0


class Part(NamedTuple):
    """Process `index` of `count`."""

    index: int
    count: int


def run(src: Path, dst: Path, options: tuple[SourceOptions, TokeniseOptions, RunOptions]) -> str:
    """Tokenise SRC into DST and return what was done in one line.

    Raises ValueError or OSError of one line; also, when all else is done, for more than `max_bad` bad inputs.
    """
    source_options, tokenise, run_options = options
    part = which_part(run_options)
    if is_remote(dst) and part.count > 1:
        raise ValueError(f"{dst}: several processes want a folder on a disk that they share")
    source = open_source(src, source_options)
    fit, words, vqgan_params, digest = _prepare(src, tokenise)
    name = dst.name
    folder = folder_to_fill(dst.parent, name)
    settings = _settings(source, tokenise, fit, words, digest)
    begin(folder, settings)
    num_shards = -(-source.count // tokenise.examples_per_shard)
    mine = [s for s in missing_shards(folder, num_shards) if s % part.count == part.index]
    if mine:
        work = _work(source, fit, words, vqgan_params, num_shards, run_options)
        _with_progress(work, mine, folder)
    while run_options.distributed and missing_shards(folder, num_shards):
        time.sleep(POLL_SECONDS)  # a process that leaves a cluster early would end the others
    missing = missing_shards(folder, num_shards)
    if missing:
        own = [s for s in range(num_shards) if s % part.count == part.index]
        shards = read_shards(folder, num_shards, own)
        line = f"{dst}: part {part.index + 1} of {part.count} is done, {len(missing)} shards of others are missing"
    else:
        shards = complete(folder, num_shards, settings)
        share(folder, dst.parent, name)
        lengths = [length for shard in shards for length in shard.lengths]
        line = f"{dst}: {len(lengths)} records, {sum(lengths)} tokens"
    return _judged(line, dst, shards, run_options)


def which_part(options: RunOptions) -> Part:
    """The part of this process: of JAX's cluster, of a SLURM array, or as --part says."""
    if options.distributed:
        import jax

        return Part(jax.process_index(), jax.process_count())
    given, array = options.part, os.environ.get("SLURM_ARRAY_TASK_ID")
    if not given and array is not None and "SLURM_ARRAY_TASK_COUNT" in os.environ:
        first, step = (
            int(os.environ.get(f"SLURM_ARRAY_TASK_{key}", default))
            for key, default in (("MIN", "0"), ("STEP", "1"))
        )
        index, count = (int(array) - first) // step, int(os.environ["SLURM_ARRAY_TASK_COUNT"])
    else:
        numbers = (given or "1/1").split("/")
        if len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
            raise ValueError(f"--part {given}: want I/N, such as 1/8 for the first of eight")
        index, count = int(numbers[0]) - 1, int(numbers[1])
    if not 0 <= index < count:
        raise ValueError(f"part {index + 1} of {count}: want one from 1 to {count}")
    return Part(index, count)


def _prepare(src: Path, options: TokeniseOptions) -> tuple[Fit, Words, Any, str]:
    """How images and texts are read, the VQGAN's weights and their digest."""
    from lumina_jax.checkpoint import digest, load_model

    if not 0 <= options.without_size <= 1:
        raise ValueError(f"--without-size {options.without_size}: want a share from 0 to 1")
    if min(options.examples_per_shard, options.max_pixels, options.max_bytes) < 1:
        raise ValueError("--examples-per-shard, --max-pixels and --max-bytes: want 1 or more")
    if options.seed < 0:
        raise ValueError(f"--seed {options.seed}: want 0 or more")
    model = load_model(options.checkpoint, parts=("vqgan",))
    config = model.config
    if model.tokenizer is None:
        raise ValueError(f"{options.checkpoint}: has no tokenizer; give a whole model's checkpoint")
    targets = options.target_px or (config.target_px,)
    for target in targets:
        if config.image_layout == "chameleon":
            check_size(target, target, config.grid)
        else:
            crop_sizes(target, config.grid)
    if len({*targets}) < len(targets):
        raise ValueError(f"--target-px {' '.join(map(str, targets))}: one of them twice")
    seed = options.seed if options.random_crop else None
    fit = Fit(
        config.grid, config.image_layout, targets, seed, options.max_pixels, options.max_bytes
    )
    name = options.name or src.stem
    words = Words(
        config, model.tokenizer, name, options.seed, options.without_size, options.max_tokens
    )
    return fit, words, model.params["vqgan"], digest(options.checkpoint, "vqgan")


def _settings(
    source: Source, options: TokeniseOptions, fit: Fit, words: Words, digest: str
) -> dict[str, Any]:
    """All that the records are a function of."""
    given = {key: value for key, value in asdict(options).items() if key != "checkpoint"}
    return {
        **given,
        "target_px": list(fit.target_px),
        "name": words.source,
        "source": {"kind": source.kind, "examples": source.count, "listing": source.listing},
        "vqgan": digest,
        "tokenizer": words.tokenizer.fingerprint,
        "image_layout": fit.layout,
        "grid": asdict(fit.grid),
    }


def _work(
    source: Source, fit: Fit, words: Words, params: Any, num_shards: int, options: RunOptions
) -> Work:
    import jax

    if options.batch_size < 1 or options.workers < 0:
        raise ValueError("--batch-size: want 1 or more; --workers: want 0 or more")
    devices = len(jax.local_devices())
    batch_size = -(-options.batch_size // devices) * devices
    encode = jitted_encoder(words.model, params)
    return Work(
        source, fit, words, encode, batch_size, num_shards, default_workers(options.workers)
    )


def _with_progress(work: Work, shards: list[int], folder: Path) -> None:
    """`tokenise_shards` with a bar, and bad inputs on stderr as they are found."""
    from tqdm import tqdm

    total = sum(len(shard_range(s, work.num_shards, work.source.count)) for s in shards)
    shown = 0
    with tqdm(total=total, desc=f"tokenising {work.words.source}", unit="example") as bar:

        def on_progress(count: int, bad: list[Bad]) -> None:
            nonlocal shown
            bar.update(count)
            for one in bad:
                shown += 1
                if shown <= MAX_SHOWN:
                    bar.write(f"bad: {one}", file=sys.stderr)
            if bad and shown - len(bad) < MAX_SHOWN < shown:
                bar.write(f"bad: more of them; {BAD} will name all", file=sys.stderr)

        tokenise_shards(work, shards, folder, on_progress)


def _judged(line: str, dst: Path, shards: list[Shard], options: RunOptions) -> str:
    """The line, with the number of bad inputs; as a ValueError where they are too many."""
    count = sum(len(shard.bad) for shard in shards)
    if count:
        line += f"; {count} bad inputs"
    if count > options.max_bad:
        raise ValueError(
            f"{line}, at most {options.max_bad} are allowed (--max-bad); {dst / BAD} names them"
        )
    return line
