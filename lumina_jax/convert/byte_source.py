"""Bytes of weight files by range: a local file mapped into memory, a file in a bucket read piece by piece."""

import os
import threading
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from lumina_jax.paths import as_path, bucket_files, is_remote, with_bucket_errors


class ByteSource(Protocol):
    """A file that is read by ranges of bytes; whatever is read cannot be written to."""

    name: str  # the path, for messages
    size: int  # bytes

    def read(self, start: int, stop: int) -> np.ndarray:
        """Bytes [start, stop) as read-only uint8; ValueError where they are not all in the file."""
        ...


def open_source(path: str | os.PathLike) -> ByteSource:
    """The bytes of a local path, or of one in a bucket.

    Raises FileNotFoundError, or an OSError or ValueError of one line where it is a folder or cannot be read.
    """
    if not is_remote(path):
        return LocalSource(path)
    name = os.fspath(as_path(path))
    try:
        file = with_bucket_errors(
            name,
            lambda: bucket_files().open(name, "rb", cache_type="none"),  # a cache reads ahead
        )
    except FileNotFoundError:
        raise FileNotFoundError(f"{name} does not exist: want a file of weights") from None
    return RemoteSource(name, file)


class LocalSource:
    """A local file, mapped: reading copies nothing."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.name = os.fspath(path)
        if not Path(path).exists():
            raise FileNotFoundError(f"{self.name} does not exist: want a file of weights")
        if not Path(path).is_file():
            raise ValueError(f"{self.name} is not a file: want a file of weights")
        self.size = Path(path).stat().st_size
        # an empty file cannot be mapped
        mapped = np.memmap(path, np.uint8, "r") if self.size else np.frombuffer(b"", np.uint8)
        self._bytes = np.asarray(mapped)
        self.size = self._bytes.size

    def read(self, start: int, stop: int) -> np.ndarray:
        """A view of the mapped bytes."""
        check_range(self, start, stop)
        return self._bytes[start:stop]


class RemoteSource:
    """A seekable file of which only the asked ranges are fetched; threads take turns."""

    def __init__(self, name: str, file: BinaryIO | Any) -> None:
        self.name = name
        self._file = file
        self._turn = threading.Lock()
        self.size = file.seek(0, os.SEEK_END)

    def read(self, start: int, stop: int) -> np.ndarray:
        """A copy of the bytes."""
        check_range(self, start, stop)
        pieces, missing = [], stop - start
        with self._turn:
            self._file.seek(start)
            while missing:
                piece = with_bucket_errors(self.name, lambda n=missing: self._file.read(n))
                if not piece:
                    raise ValueError(
                        f"{self.name} ended {missing} bytes early: it was {self.size} bytes long when opened"
                    )
                pieces.append(piece)
                missing -= len(piece)
        return np.frombuffer(b"".join(pieces) if len(pieces) != 1 else pieces[0], np.uint8)


def check_range(source: ByteSource, start: int, stop: int) -> None:
    """ValueError unless bytes [start, stop) are in the file."""
    if not 0 <= start <= stop <= source.size:
        raise ValueError(
            f"{source.name} has {source.size} bytes, bytes {start} to {stop} are asked for: it is cut short"
        )
