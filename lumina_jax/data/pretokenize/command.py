"""The command's work from its options to a complete folder, alone or as one of several processes."""

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lumina_jax.data.images import digest_of_code
from lumina_jax.data.pretokenize.conversations import Words
from lumina_jax.data.pretokenize.examples import Source
from lumina_jax.data.pretokenize.folder import (
    BAD,
    SIDECARS,
    Bad,
    Shard,
    begin,
    complete,
    read_shards,
)
from lumina_jax.data.pretokenize.image_loading import Fit
from lumina_jax.data.pretokenize.options import RunOptions, SourceOptions, TokeniseOptions
from lumina_jax.data.pretokenize.parts import check_shared, wait_for_all, which_part
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
# the code that decides what an example becomes
WRITTEN_BY = ("data/pretokenize/*.py", "data/records.py", "unirep/*.py", "vqgan/*.py")


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
    settings = {
        **_settings(source, tokenise, fit, words, digest),
        **_read_as(source, source_options),
        **_encoded_as(run_options),
    }
    if run_options.distributed and part.count > 1:
        check_shared(folder, part)
    begin(folder, settings)
    num_shards = -(-source.count // tokenise.examples_per_shard)
    mine = [s for s in missing_shards(folder, num_shards) if s % part.count == part.index]
    if mine:
        batch_size = settings["batch_size"]
        work = _work(source, fit, words, vqgan_params, num_shards, batch_size, run_options)
        _with_progress(work, mine, folder)
    if run_options.distributed:  # a process that leaves a cluster early would end the others
        wait_for_all(folder, num_shards)
    missing = missing_shards(folder, num_shards)
    if missing:
        own = [s for s in range(num_shards) if s % part.count == part.index]
        shards, named = read_shards(folder, num_shards, own), dst / SIDECARS.format(num_shards)
        line = f"{dst}: part {part.index + 1} of {part.count} is done, {len(missing)} shards of others are missing"
    else:
        shards, named = complete(folder, num_shards, settings), dst / BAD
        share(folder, dst.parent, name)
        lengths = [length for shard in shards for length in shard.lengths]
        line = f"{dst}: {len(lengths)} records, {sum(lengths)} tokens"
    return _judged(line, named, shards, run_options)


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
    if options.random_crop and config.image_layout == "chameleon":
        raise ValueError(
            f"--random-crop: images of {options.checkpoint} are cut out of the centre, as Chameleon's; leave it out"
        )
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
    """What becomes of the examples, and by which weights, words and code."""
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
        "code": digest_of_code(*WRITTEN_BY),
    }


def _read_as(source: Source, options: SourceOptions) -> dict[str, Any]:
    """What of a source its listing does not say: which fields are read, and the root of its paths."""
    fields = {"image_field": options.image_field, "caption_field": options.caption_field}
    root = "" if options.root is None else os.path.abspath(options.root)
    return {**fields, "root": root, "follow_links": options.follow_links}


def _encoded_as(options: RunOptions) -> dict[str, Any]:
    """What decides how sums are rounded, and so ties between codes."""
    import jax

    if options.batch_size < 1 or options.workers < 0:
        raise ValueError("--batch-size: want 1 or more; --workers: want 0 or more")
    devices = len(jax.local_devices())
    batch_size = -(-options.batch_size // devices) * devices
    return {"batch_size": batch_size, "backend": jax.default_backend()}


def _work(
    source: Source,
    fit: Fit,
    words: Words,
    params: Any,
    num_shards: int,
    batch_size: int,
    options: RunOptions,
) -> Work:
    encode = jitted_encoder(words.model, params)
    workers = default_workers(options.workers)
    return Work(source, fit, words, encode, batch_size, num_shards, workers)


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
                named = folder / SIDECARS.format(work.num_shards)
                bar.write(f"bad: more of them; {named} name all", file=sys.stderr)

        tokenise_shards(work, shards, folder, on_progress)


def _judged(line: str, named: Path, shards: list[Shard], options: RunOptions) -> str:
    """The line, with the number of bad inputs; as a ValueError where they are too many."""
    count = sum(len(shard.bad) for shard in shards)
    if count:
        line += f"; {count} bad inputs"
    if count > options.max_bad:
        raise ValueError(f"{line}, at most {options.max_bad} are allowed (--max-bad), see {named}")
    return line
