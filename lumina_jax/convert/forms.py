"""How a stored matrix becomes one of our arrays and back, exactly: axes, rotary pairs, model-parallel shards."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

Form = Literal["table", "vector", "heads_in", "heads_out", "matrix", "head_rows"]
Join = int | Literal["stack", "mean"]  # how Meta's model-parallel shards combine
TURNED = ("heads_in", "heads_out", "matrix")  # stored as [outputs, inputs]
BLOCK = 256  # rows and columns turned at once: what fits the cache
PADDING = 8  # elements: rows of a power of two bytes would all meet in one set of the cache, three times as slow


def stored_shape(form: Form, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in which releases store one of our arrays.

    >>> stored_shape("heads_in", (4096, 32, 128)), stored_shape("heads_out", (32, 128, 4096))
    ((4096, 4096), (4096, 4096))
    """
    if form == "heads_in":
        return (shape[1] * shape[2], shape[0])
    if form == "heads_out":
        return (shape[2], shape[0] * shape[1])
    return shape[::-1] if form == "matrix" else shape


def from_stored(form: Form, stored: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Our array of that shape, contiguous."""
    return (turned(stored) if form in TURNED else stored).reshape(shape)


def to_stored(form: Form, array: np.ndarray) -> np.ndarray:
    """The inverse of `from_stored`."""
    stored = stored_shape(form, array.shape)
    return turned(array.reshape(stored[::-1])) if form in TURNED else array.reshape(stored)


def turned(matrix: np.ndarray) -> np.ndarray:
    """The transpose, contiguous."""
    bits = np.ascontiguousarray(matrix).view(np.dtype(f"u{matrix.dtype.itemsize}"))
    out = np.empty(bits.shape[::-1], bits.dtype)
    tile = np.empty((BLOCK, BLOCK + PADDING), bits.dtype)
    for row in range(0, bits.shape[0], BLOCK):
        for column in range(0, bits.shape[1], BLOCK):
            block = bits[row : row + BLOCK, column : column + BLOCK]
            close = tile[: block.shape[0], : block.shape[1]]
            close[...] = block
            out[column : column + BLOCK, row : row + BLOCK] = close.T
    return out.view(matrix.dtype)


def halves_from_pairs(form: Form, stored: np.ndarray, head_size: int) -> np.ndarray:
    """The elements of each head reordered: the even ones, then the odd ones.

    Meta rotates adjacent pairs (0, 1), (2, 3), …; we and transformers rotate halves (0, H/2), (1, H/2 + 1), …

    >>> halves_from_pairs("head_rows", np.array([[0, 1, 2, 3]]), 4).tolist()
    [[0, 2, 1, 3]]
    """
    order = np.concatenate([np.arange(0, head_size, 2), np.arange(1, head_size, 2)])
    return _reordered(form, stored, order)


def pairs_from_halves(form: Form, stored: np.ndarray, head_size: int) -> np.ndarray:
    """The inverse of `halves_from_pairs`."""
    return _reordered(form, stored, np.arange(head_size).reshape(2, -1).T.ravel())


def join_shards(shards: Sequence[np.ndarray], join: Join) -> np.ndarray:
    """One array out of those of Meta's model-parallel shards."""
    if join == "stack":
        return np.stack(shards)
    if join == "mean":
        if all(np.array_equal(shards[0], other) for other in shards[1:]):
            return shards[0]
        mean = np.mean([np.asarray(shard, np.float32) for shard in shards], axis=0)
        return mean.astype(shards[0].dtype)
    return shards[0] if len(shards) == 1 else np.concatenate(shards, axis=join)


def shard_of(array: np.ndarray, join: Join, index: int, count: int) -> np.ndarray:
    """The inverse of `join_shards`: what shard `index` of `count` holds."""
    if join == "stack":
        return array[index]
    if join == "mean":
        return array
    start, stop = _bounds(array.shape[join], index, count)
    return array[start:stop] if join == 0 else array[:, start:stop]


def shard_shape(shape: tuple[int, ...], join: Join, index: int, count: int) -> tuple[int, ...]:
    """The shape of what shard `index` of `count` holds of an array of that shape."""
    if join == "stack":
        return shape[1:]
    if join == "mean":
        return shape
    start, stop = _bounds(shape[join], index, count)
    return (*shape[:join], stop - start, *shape[join + 1 :])


def _bounds(length: int, index: int, count: int) -> tuple[int, int]:
    """Equal parts, the last ones shorter where the length is not a multiple, as torch.chunk cuts.

    >>> [_bounds(10, index, 4) for index in range(4)]
    [(0, 3), (3, 6), (6, 9), (9, 10)]
    """
    size = -(-length // count)
    return min(index * size, length), min((index + 1) * size, length)


def _reordered(form: Form, stored: np.ndarray, order: np.ndarray) -> np.ndarray:
    if form == "head_rows":
        return stored[..., order]
    return stored.reshape(-1, order.size, stored.shape[1])[:, order].reshape(stored.shape)
