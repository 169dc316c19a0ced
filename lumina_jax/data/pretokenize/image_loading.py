"""What worker processes do: bytes of strangers to pixels of the wanted sizes, or to one line that says why not.

Only numpy and PIL are imported here, so that workers start at once.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from lumina_jax.config import GridConfig
from lumina_jax.data.pretokenize.examples import Example, FileRange
from lumina_jax.data.pretokenize.pickle_source import read_ids
from lumina_jax.unirep.grid import choose_crop, crop_sizes
from lumina_jax.unirep.image_tokens import fit_image

# What is decoded: no format that starts other programs (EPS), holds vectors or videos.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")


class Fit(NamedTuple):
    """How images become pixels."""

    grid: GridConfig
    layout: str
    target_px: tuple[int, ...]  # every image is cut to each
    crop_seed: int | None  # of the original's random crop; None: the true centre
    max_pixels: int
    max_bytes: int


class Loaded(NamedTuple):
    """One example as the encoder takes it."""

    index: int
    images: tuple[tuple[np.ndarray, ...], ...] = ()  # uint8[Y,X,3] by target size, then by place
    ids: tuple[np.ndarray, np.ndarray] | None = None  # of a pickle
    problem: str = ""


def load_examples(examples: list[tuple[int, Example]], fit: Fit) -> list[Loaded]:
    """The images or the pickle of each example, read; what is wrong with one is its `problem`."""
    return [_load(index, example, fit) for index, example in examples]


def _load(index: int, example: Example, fit: Fit) -> Loaded:
    try:
        if example.ids is not None:
            return Loaded(index, ids=_read_pickle(example.ids, fit.max_bytes))
        targets = fit.target_px if example.images else fit.target_px[:1]
        images: list[list[np.ndarray]] = [[] for _ in targets]
        for number, reference in enumerate(example.images):  # one is in memory at a time
            image = _open(reference, number, fit)
            for of_target, target in zip(images, targets, strict=True):
                of_target.append(_fit(image, target, (index, number), fit))
            del image
        return Loaded(index, tuple(map(tuple, images)))
    except ValueError as error:
        return Loaded(index, problem=" ".join(str(error).split()))


def _read_pickle(reference: FileRange, max_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    try:
        return read_ids(reference.read(max_bytes))
    except (OSError, ValueError) as error:
        raise ValueError(f"{reference.name}: {_reason(error)}") from error


def _open(reference: FileRange | bytes, number: int, fit: Fit) -> Image.Image:
    """An image, decoded and upright; ValueError of one line whatever is wrong with it."""
    name = reference.name if isinstance(reference, FileRange) else ""
    name, max_pixels = name or f"image {number}", fit.max_pixels
    try:
        content = reference if isinstance(reference, bytes) else reference.read(fit.max_bytes)
        if not content:
            raise ValueError("it is empty")
        with _pixel_limit(max_pixels), Image.open(io.BytesIO(content), formats=_formats()) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{name}: more than {max_pixels} pixels (--max-pixels)") from error
    except Exception as error:  # decoders of damaged files raise anything
        raise ValueError(f"{name}: cannot be read as an image ({_reason(error)})") from error


def _fit(image: Image.Image, target_px: int, place: tuple[int, int], fit: Fit) -> np.ndarray:
    """Pixels of one target size; ValueError for an image so narrow that scaling it would take all memory."""
    square = fit.layout == "chameleon"
    crops = [(target_px, target_px)] if square else crop_sizes(target_px, fit.grid)
    crop = choose_crop(image.size, crops)
    scale = max(crop[0] / image.width, crop[1] / image.height)
    scaled = (round(image.width * scale), round(image.height * scale))
    if scaled[0] * scaled[1] > fit.max_pixels:
        raise ValueError(
            f"image {place[1]} of {image.width}x{image.height} px: too narrow, {target_px} px would take "
            f"{scaled[0]}x{scaled[1]}"
        )
    rng = None
    if fit.crop_seed is not None:
        rng = np.random.default_rng((fit.crop_seed, *place, target_px))
    try:
        return fit_image(image, target_px, fit.grid, rng, fit.layout)
    except Exception as error:  # a mode that PIL cannot convert
        raise ValueError(
            f"image {place[1]} of mode {image.mode}: cannot be cut ({_reason(error)})"
        ) from error


@cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this PIL reads; they have to be registered before they are named."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@contextmanager
def _pixel_limit(max_pixels: int) -> Iterator[None]:
    """Within it PIL opens nothing, and no frame of anything, above the limit."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a decoder mends
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _reason(error: Exception) -> str:
    """The words of an error, without the memory address of the stream that PIL read from."""
    text = " ".join(str(error).split()) if error.args else type(error).__name__
    if isinstance(error, Image.UnidentifiedImageError):
        return "no image of a known format"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return text[:200]
