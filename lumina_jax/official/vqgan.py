"""What a VQGAN keeps of any folder of images: PSNR, SSIM, how it uses its codebook, rFID where Inception is given."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lumina_jax.checkpoint import LoadedModel, digest, load_model
from lumina_jax.evals.intervals import mean
from lumina_jax.evals.reconstruction import codes_and_pixels, psnr_db, ssim
from lumina_jax.evals.scores import commit
from lumina_jax.image_files import open_image
from lumina_jax.official.extras import versions
from lumina_jax.official.fid import Inception, frechet_distance, image_paths
from lumina_jax.unirep.image_tokens import fit_image


class RoundTrip(NamedTuple):
    """A batch of images of one size, before and after."""

    pixels: np.ndarray  # uint8[B, Y, X, 3], as the tokenizer cuts them
    codes: np.ndarray  # int[B, P, Q]
    output: np.ndarray  # uint8[B, Y, X, 3]


def vqgan_scores(
    checkpoint: str | Path,
    images: str | Path,
    *,
    target_px: int | None = None,
    limit: int | None = None,
    batch: int = 8,
    inception: Inception | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Scores of a checkpoint's VQGAN on the images of a folder, cut to the model's crops of about target_px².

    {"psnr_db": {score, low, high, n}, "ssim": …, "codebook": …, "rfid": … with `inception`} and what decides them.
    `target_px`: default the size of the model's training. `limit`: the first images alone.
    Raises ValueError of one line for a folder without images or one that cannot be read.
    """
    from tqdm import tqdm

    if batch < 1 or (limit is not None and limit < 1):
        raise ValueError("nothing to score: want a batch and a limit of at least 1 image")
    paths = image_paths(images)[:limit]
    model = load_model(checkpoint, parts=("vqgan",))
    side_px = target_px or model.config.target_px
    decibels: list[float] = []
    similarities: list[float] = []
    counts = np.zeros(model.config.vqgan.num_codes, np.int64)
    features: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    with tqdm(total=len(paths), unit="image", desc="VQGAN", disable=not progress) as bar:
        for done in round_trips(model, paths, side_px, batch):
            for before, after in zip(done.pixels, done.output, strict=True):
                decibels.append(psnr_db(before, after))
                similarities.append(ssim(before, after))
            counts += np.bincount(done.codes.ravel(), minlength=len(counts))
            if inception is not None:
                for kept, pixels in zip(features, (done.pixels, done.output), strict=True):
                    kept.append(inception.features(pixels))
            bar.update(len(done.pixels))
    found: dict[str, Any] = {
        "psnr_db": mean(decibels),
        "ssim": mean(similarities),
        "codebook": codebook_use(counts),
        "num_images": len(paths),
        "target_px": side_px,
        "crop": f"nearest allowed ({model.config.image_layout}), as the model reads images",
        "checkpoint": digest(checkpoint),
        "vqgan": digest(checkpoint, "vqgan"),
        "commit": commit(),
        "versions": versions("jax", "scikit-image", "numpy", "pillow"),
    }
    if inception is not None:
        first, second = (inception.statistics(np.concatenate(each)) for each in features)
        found |= {"rfid": frechet_distance(first, second), "inception": inception.settings}
    return found


def round_trips(
    model: LoadedModel, paths: Sequence[Path], side_px: int, batch: int
) -> Iterator[RoundTrip]:
    """Image files, cut, encoded and decoded, in batches of one size, which is compiled once."""
    config = model.config
    there_and_back = codes_and_pixels(model.params["vqgan"], config.vqgan)
    waiting: dict[tuple[int, ...], list[np.ndarray]] = {}

    def through(images: list[np.ndarray]) -> RoundTrip:
        pixels = np.stack(images)
        missing = batch - len(images)
        padded = np.pad(pixels, ((0, missing), (0, 0), (0, 0), (0, 0)))
        codes, output = there_and_back(padded)
        return RoundTrip(pixels, codes[: len(images)], output[: len(images)])

    for path in paths:
        pixels = fit_image(open_image(path), side_px, config.grid, layout=config.image_layout)
        together = waiting.setdefault(pixels.shape, [])
        together.append(pixels)
        if len(together) == batch:
            yield through(waiting.pop(pixels.shape))
    for together in waiting.values():
        yield through(together)


def codebook_use(counts: np.ndarray) -> dict[str, float | int]:
    """Of how often each code is written: how many ever are, their share, and the perplexity.

    The perplexity is the number of codes of an even use with the same entropy, at most the number of codes.

    >>> codebook_use(np.array([4, 4, 0, 0]))
    {'codes': 4, 'used': 2, 'share': 0.5, 'perplexity': 2.0, 'written': 8}
    """
    shares = counts[counts > 0] / counts.sum()
    return {
        "codes": len(counts),
        "used": len(shares),
        "share": len(shares) / len(counts),
        "perplexity": float(np.exp(-np.sum(shares * np.log(shares)))),
        "written": int(counts.sum()),
    }
