"""Image sizes as tokens (Uni-Rep, Lumina-mGPT): allowed crops, grids of codes, and the table of forced ids."""

import re

import numpy as np

from lumina_jax.config import GridConfig
from lumina_jax.unirep.vocab import Vocab

FREE = -1  # in a table of forced ids: any image code may stand here


def crop_sizes(target_px: int, grid: GridConfig) -> list[tuple[int, int]]:
    """Every allowed (width_px, height_px) with an area of at most target_px², in the original's order.

    From the widest to the tallest. Sides longer than `grid.max_units` are left out: they have no size token.

    >>> crop_sizes(64, GridConfig())
    [(128, 32), (96, 32), (64, 32), (64, 64), (32, 64), (32, 96), (32, 128)]
    """
    unit = grid.unit_px
    if target_px < unit or target_px % unit:
        raise ValueError(f"target size {target_px} px: want a positive multiple of {unit}")
    max_area = (target_px // unit) ** 2
    width, height, sizes = max_area, 1, []
    while width > 0:
        ratio = max(width, height) / min(width, height)
        if ratio <= grid.max_ratio and max(width, height) <= grid.max_units:
            sizes.append((width * unit, height * unit))
        if (height + 1) * width <= max_area:
            height += 1
        else:
            width -= 1
    return sizes


def parse_size(text: str) -> tuple[int, int]:
    """ "128x96" to (128, 96); ValueError of one line for anything else."""
    match = re.fullmatch(r"(\d{1,6})[xX](\d{1,6})", text.strip())
    if match is None:
        raise ValueError(f"size {text!r}: want WIDTHxHEIGHT in pixels, such as 128x96")
    return int(match[1]), int(match[2])


def choose_crop(size: tuple[int, int], crops: list[tuple[int, int]]) -> tuple[int, int]:
    """The crop that keeps the largest part of an image of `size` (width, height); ties go to the wider, then taller.

    >>> choose_crop((1920, 1080), crop_sizes(512, GridConfig()))
    (672, 384)
    """
    width, height = size

    def kept(crop: tuple[int, int]) -> float:
        return min(crop[0] / width, crop[1] / height) / max(crop[0] / width, crop[1] / height)

    return max(crops, key=lambda crop: (kept(crop), crop))


def tells_size(layout: str) -> bool:
    """Whether the image sentences of a layout hold their height and width."""
    return layout == "uni_rep"


def latent_shape(width_px: int, height_px: int, grid: GridConfig) -> tuple[int, int]:
    """(P rows, Q columns) of the codes of an image."""
    return height_px // grid.patch_px, width_px // grid.patch_px


def image_token_count(
    width_px: int, height_px: int, grid: GridConfig, layout: str = "uni_rep"
) -> int:
    """Length of an image sentence, start and end token included.

    >>> image_token_count(512, 512, GridConfig())
    1060
    """
    rows, columns = latent_shape(width_px, height_px, grid)
    return 4 + rows * (columns + 1) if tells_size(layout) else 2 + rows * columns


def check_size(
    width_px: int,
    height_px: int,
    grid: GridConfig,
    max_tokens: int | None = None,
    layout: str = "uni_rep",
) -> None:
    """Raise a ValueError of one line unless a model with this grid can write an image of this size.

    `max_tokens`: what the sequence has left for the image sentence; None does not check the length.
    """
    unit, asked = grid.unit_px, f"size {width_px}x{height_px}"
    if min(width_px, height_px) <= 0:
        raise ValueError(f"{asked}: width and height must be positive")
    if width_px % unit or height_px % unit:
        near = "x".join(str(max(unit, round(side / unit) * unit)) for side in (width_px, height_px))
        raise ValueError(
            f"{asked}: both sides must be multiples of {unit} px; the nearest is {near}"
        )
    ratio = max(width_px, height_px) / min(width_px, height_px)
    if ratio > grid.max_ratio:
        raise ValueError(f"{asked}: sides are {ratio:g}:1, at most {grid.max_ratio:g}:1 is allowed")
    if max(width_px, height_px) > grid.max_units * unit:
        raise ValueError(f"{asked}: no side may be longer than {grid.max_units * unit} px")
    count = image_token_count(width_px, height_px, grid, layout)
    if max_tokens is not None and count > max_tokens:
        raise ValueError(
            f"{asked}: needs {count} tokens, this model has room for {max_tokens}; ask for a smaller image"
        )


def forced_ids(height_units: int, width_units: int, vocab: Vocab, grid: GridConfig) -> np.ndarray:
    """The Uni-Rep sentence of one image: the id where the layout fixes it, `FREE` (-1) where a code is written.

    THE table that parser, grammar and decoders read. int32 of length 4 + P (Q + 1):
    [start, height, width, (Q codes, line end) × P, end]. With the released ids, 64 px wide and 32 px high:

        [8197, 8805, 8806, -1, -1, -1, -1, 8803, -1, -1, -1, -1, 8803, 8196]
    """
    _check_units(height_units, width_units)
    rows, columns = latent_shape(width_units * grid.unit_px, height_units * grid.unit_px, grid)
    lines = np.full((rows, columns + 1), FREE, np.int32)
    lines[:, -1] = vocab.line_end_id
    head = [vocab.image_start_id, vocab.size_id(height_units), vocab.size_id(width_units)]
    return np.concatenate([head, lines.ravel(), [vocab.image_end_id]]).astype(np.int32)


def forced_ids_codes_alone(
    height_units: int, width_units: int, vocab: Vocab, grid: GridConfig
) -> np.ndarray:
    """As `forced_ids`, for Chameleon's own layout and "plain": [start, P × Q codes, end], no size and no line ends."""
    _check_units(height_units, width_units)
    rows, columns = latent_shape(width_units * grid.unit_px, height_units * grid.unit_px, grid)
    codes = np.full(rows * columns, FREE, np.int32)
    return np.concatenate([[vocab.image_start_id], codes, [vocab.image_end_id]]).astype(np.int32)


def image_table(
    height_units: int, width_units: int, vocab: Vocab, grid: GridConfig, layout: str
) -> np.ndarray:
    """`forced_ids` of the named layout: a row of FORCED_IDS."""
    if layout not in FORCED_IDS:
        raise ValueError(f"image layout {layout!r}: want one of {', '.join(FORCED_IDS)}")
    return FORCED_IDS[layout](height_units, width_units, vocab, grid)


def _check_units(height_units: int, width_units: int) -> None:
    if height_units < 1 or width_units < 1:
        raise ValueError(
            f"image of {width_units} by {height_units} units (width by height): want at least 1 by 1"
        )


FORCED_IDS = {
    "uni_rep": forced_ids,
    "chameleon": forced_ids_codes_alone,
    "plain": forced_ids_codes_alone,
}
