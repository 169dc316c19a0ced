"""Images to crops, codes to image sentences, and back (Lumina-mGPT's item processor)."""

import math

import numpy as np
from PIL import Image

from lumina_jax.config import GridConfig
from lumina_jax.unirep.grid import (
    FREE,
    check_size,
    choose_crop,
    crop_sizes,
    image_table,
    tells_size,
)
from lumina_jax.unirep.vocab import Vocab

BLENDED_ROWS = 64  # of an image with transparency, at a time


def image_sentence(
    codes: np.ndarray, vocab: Vocab, grid: GridConfig, layout: str = "uni_rep"
) -> np.ndarray:
    """Codes [P, Q] as int32 ids from start to end token.

    Raises ValueError for codes outside 0 … num_codes-1 and for a shape that is no whole number of grid units.
    """
    codes = np.asarray(codes)
    if codes.ndim != 2:
        raise ValueError(f"codes of shape {codes.shape}: want [P rows, Q columns]")
    unit = grid.unit_px // grid.patch_px
    if codes.size == 0 or codes.shape[0] % unit or codes.shape[1] % unit:
        raise ValueError(
            f"codes of shape {codes.shape}: rows and columns must be positive multiples of {unit}"
        )
    if codes.min() < 0 or codes.max() >= vocab.num_codes:
        raise ValueError(
            f"codes from {codes.min()} to {codes.max()}: want 0 … {vocab.num_codes - 1}"
        )
    ids = image_table(codes.shape[0] // unit, codes.shape[1] // unit, vocab, grid, layout)
    ids[ids == FREE] = codes.ravel() + vocab.first_code_id
    return ids


def parse_image(
    ids: np.ndarray,
    vocab: Vocab,
    grid: GridConfig,
    layout: str = "uni_rep",
    shape: tuple[int, int] | None = None,
) -> np.ndarray:
    """The inverse of `image_sentence`: ids from start to end token to int32 codes [P, Q].

    Layouts without size tokens do not name their shape: `shape` (P, Q) does. Without it Chameleon's is a square, and
    an image of "plain" cannot be read. Raises ValueError that names the first position at which the ids leave the
    layout.
    """
    ids = np.asarray(ids)
    unit = grid.unit_px // grid.patch_px
    height, width = _read_units(ids, vocab, grid, layout, shape)
    table = image_table(height, width, vocab, grid, layout)
    common = min(len(ids), len(table))
    free = table[:common] == FREE
    wrong = np.where(free, ~vocab.is_code(ids[:common]), ids[:common] != table[:common])
    if wrong.any():
        at = int(np.argmax(wrong))
        wanted = "an image code" if table[at] == FREE else f"id {table[at]}"
        raise ValueError(
            f"image of {_pixels(height, width, grid)}: token {at} is id {ids[at]}, want {wanted}"
        )
    if len(ids) != len(table):
        raise ValueError(
            f"image of {_pixels(height, width, grid)}: {len(ids)} tokens, want {len(table)}"
        )
    codes = ids[table == FREE] - vocab.first_code_id
    return codes.reshape(height * unit, width * unit).astype(np.int32)


def find_images(ids: np.ndarray, vocab: Vocab) -> list[tuple[int, int]]:
    """(start, stop) of every complete image sentence: ids[start] is the start token, ids[stop-1] the end token.

    A start token without an end token before the next start token is passed over: it is a truncated image.
    """
    ids = np.asarray(ids)
    spans, start = [], None
    for index in np.flatnonzero((ids == vocab.image_start_id) | (ids == vocab.image_end_id)):
        if ids[index] == vocab.image_start_id:
            start = int(index)
        elif start is not None:
            spans.append((start, int(index) + 1))
            start = None
    return spans


def images_alone(ids: np.ndarray, vocab: Vocab) -> np.ndarray:
    """A prompt without its text: its start token and its image sentences, for guidance by images.

    Of a truncated image the codes and the start or end token stay. Source: Meta's Chameleon, whose images are made of
    these alone; height, width and line ends stay inside complete sentences.
    """
    ids = np.asarray(ids)
    kept = vocab.is_code(ids)
    kept |= np.isin(ids, (vocab.bos_id, vocab.image_start_id, vocab.image_end_id))
    for start, stop in find_images(ids, vocab):
        kept[start:stop] = True
    return ids[kept]


def fit_image(
    image: Image.Image,
    target_px: int,
    grid: GridConfig,
    rng: np.random.Generator | None = None,
    layout: str = "uni_rep",
) -> np.ndarray:
    """An image as the tokenizer reads it, on white, uint8[Y, X, 3].

    The best allowed crop; in Chameleon's layout the square of target_px that Meta's image tokenizer cuts.
    """
    if layout == "chameleon":
        check_size(target_px, target_px, grid)
        return np.asarray(scale_to_square(image, target_px))
    crop = choose_crop(image.size, crop_sizes(target_px, grid))
    return np.asarray(whiten(resize_and_crop(image, crop, rng)))


def scale_to_square(image: Image.Image, side_px: int) -> Image.Image:
    """Whiten an image, scale its short side to `side_px` with LANCZOS and cut the square out of the centre (Meta)."""
    image = whiten(image)
    scale = side_px / min(image.size)
    resized = (round(scale * image.width), round(scale * image.height))
    image = image.resize(resized, Image.Resampling.LANCZOS)
    left, upper = (image.width - side_px) // 2, (image.height - side_px) // 2
    return image.crop((left, upper, left + side_px, upper + side_px))


def resize_and_crop(
    image: Image.Image, crop_size: tuple[int, int], rng: np.random.Generator | None = None
) -> Image.Image:
    """Scale an image to cover `crop_size` (width, height) and cut it out of the centre, transparency kept.

    Halves with BOX while both sides are at least twice the crop, then BICUBIC, as the original does.
    With `rng` the offset is random, which the original's "center_crop" does even at inference.
    """
    image = _smooth_mode(image)
    width, height = crop_size
    while image.width >= 2 * width and image.height >= 2 * height:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = max(width / image.width, height / image.height)
    resized = (round(image.width * scale), round(image.height * scale))
    image = image.resize(resized, Image.Resampling.BICUBIC)
    slack = (image.width - width, image.height - height)
    left, upper = (
        side // 2 if rng is None else int(rng.integers(0, side, endpoint=True)) for side in slack
    )
    return image.crop((left, upper, left + width, upper + height))


def whiten(image: Image.Image) -> Image.Image:
    """RGB, with transparency blended onto white and truncated to whole levels, as Meta's image tokenizer does.

    Blends some rows at a time: beside the image and the result it takes little memory.
    """
    image = _smooth_mode(image)
    if image.mode == "RGB":
        return image
    if image.mode != "RGBA" or image.getchannel("A").getextrema() == (255, 255):
        return image.convert("RGB")
    blended = Image.new("RGB", image.size)
    for top in range(0, image.height, BLENDED_ROWS):
        rows = image.crop((0, top, image.width, min(top + BLENDED_ROWS, image.height)))
        pixels = np.asarray(rows)
        alpha = pixels[:, :, 3:] / 255.0
        on_white = ((1 - alpha) * 255 + alpha * pixels[:, :, :3]).astype(np.uint8)
        blended.paste(Image.fromarray(on_white), (0, top))
    return blended


def _smooth_mode(image: Image.Image) -> Image.Image:
    """A mode of 8 bits that can be interpolated, RGBA where anything is transparent.

    PIL resizes palettes and bitmaps by nearest neighbour, and clips 16 bits. Raises ValueError for levels that are not
    of 16 bits, whose white is unknown.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        return _eight_bits(image)
    if image.has_transparency_data:
        return image if image.mode == "RGBA" else image.convert("RGBA")
    return image.convert("RGB") if image.mode in ("1", "P") else image


def _eight_bits(image: Image.Image) -> Image.Image:
    """Levels of grey as "L", or as "RGBA" where one of them stands for transparency; "I" holds 16 or 32 bits."""
    levels = np.asarray(image)
    if image.mode == "F" or (image.mode == "I" and not 0 <= levels.min() <= levels.max() < 2**16):
        raise ValueError(
            f"image of mode {image.mode}, levels {levels.min():g} to {levels.max():g}: want whole levels "
            "0 to 65535; scale it to 8 or 16 bits"
        )
    grey = Image.fromarray((levels >> 8).astype(np.uint8))
    if "transparency" not in image.info:
        return grey
    alpha = Image.fromarray(np.where(levels == image.info["transparency"], 0, 255).astype(np.uint8))
    return Image.merge("RGBA", (grey, grey, grey, alpha))


def _read_units(
    ids: np.ndarray, vocab: Vocab, grid: GridConfig, layout: str, shape: tuple[int, int] | None
) -> tuple[int, int]:
    """(height, width) in grid units, from the size tokens or, in layouts without, from the shape or the count."""
    unit = grid.unit_px // grid.patch_px
    if not tells_size(layout):
        if shape is None and layout != "chameleon":
            raise ValueError(
                f"image of {len(ids)} tokens in the layout {layout!r}, whose images do not tell their size: say it"
            )
        side = math.isqrt(max(len(ids) - 2, 0))
        rows, columns = shape or (side, side)
        if rows * columns != len(ids) - 2 or rows % unit or columns % unit or not rows:
            raise ValueError(
                f"{layout} image of {len(ids) - 2} codes: not {rows} rows by {columns} columns"
            )
        return rows // unit, columns // unit
    if len(ids) < 3:
        raise ValueError(f"image of {len(ids)} tokens: want start, height and width first")
    if ids[0] != vocab.image_start_id:
        raise ValueError(
            f"image: token 0 is id {ids[0]}, want the start token {vocab.image_start_id}"
        )
    first, last = vocab.size_id(1), vocab.size_id(min(grid.max_units, vocab.num_sizes - 1))
    for at, side in ((1, "height"), (2, "width")):
        if not first <= ids[at] <= last:
            raise ValueError(
                f"image: token {at} is id {ids[at]}, want a {side} token {first} … {last}"
            )
    return int(ids[1]) - vocab.first_size_id, int(ids[2]) - vocab.first_size_id


def _pixels(height_units: int, width_units: int, grid: GridConfig) -> str:
    return f"{width_units * grid.unit_px}x{height_units * grid.unit_px} px"
