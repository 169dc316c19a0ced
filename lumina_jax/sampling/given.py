"""Given codes, Int[P, Q] with FREE where one is to be drawn: a part to continue, a picture with holes.

The model writes an image from the top left, row by row, and a code is drawn from what is before it. It continues what
lies above smoothly; it cannot see what a mask keeps further down, so a hole fits its upper and left edge alone.
"""

import numpy as np

from lumina_jax.unirep.grid import FREE


def continued(codes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The upper rows of an image of `shape` given, the rest to be drawn."""
    given = np.full(shape, FREE, np.int32)
    if codes.shape[1] != shape[1] or codes.shape[0] >= shape[0]:
        raise ValueError(
            f"upper part of {codes.shape[0]} rows by {codes.shape[1]} codes: "
            f"want {shape[1]} codes a row and fewer than {shape[0]} rows"
        )
    given[: codes.shape[0]] = codes
    return given


def with_holes(codes: np.ndarray, holes: np.ndarray, patch_px: int) -> np.ndarray:
    """The codes of a picture, to be drawn anew wherever their patch holds a pixel of `holes`, bool[Y, X]."""
    num_rows, num_columns = codes.shape
    patches = holes.reshape(num_rows, patch_px, num_columns, patch_px)
    return np.where(patches.any(axis=(1, 3)), FREE, codes).astype(np.int32)
