"""One tensor in a file of weights: its name, shape and dtype are known, its bytes are read when asked for."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from lumina_jax.pickle_tree import BrokenFile

MAX_AXES = 32  # of a numpy 1 array
MAX_LENGTH = 2**48  # elements along one axis, or in one tensor
MAX_TENSORS = 100_000  # in one file; a 70B model has less than 1,000


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that has not been read yet."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    where: str  # the file, for messages
    fetch: Callable[[bool], np.ndarray] = field(repr=False, compare=False)

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, verify: bool = True) -> np.ndarray:
        """The read-only values: a view of a local file, or a copy of just its bytes from elsewhere.

        `verify` compares the bytes with the file's checksum, where the format has one, before their first use.
        Raises ValueError where they differ.
        """
        return self.fetch(verify)


def count_elements(shape: tuple) -> int:
    """The number of elements of a shape from a file; BrokenFile where it is not a shape of this world."""
    if len(shape) > MAX_AXES:
        raise BrokenFile(f"a shape of {len(shape)} axes, at most {MAX_AXES} are read")
    check_whole(*shape)
    if math.prod(n for n in shape if n) > MAX_LENGTH:
        raise BrokenFile(f"a shape of more than {MAX_LENGTH} elements")
    return math.prod(shape)


def check_whole(*numbers: object) -> None:
    """BrokenFile unless every one is a plain integer (no bool) from 0 to `MAX_LENGTH`."""
    if not all(type(n) is int and 0 <= n <= MAX_LENGTH for n in numbers):
        raise BrokenFile(
            f"a length, stride or offset that is no whole number from 0 to {MAX_LENGTH}"
        )
