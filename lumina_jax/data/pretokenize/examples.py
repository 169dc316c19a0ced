"""What every source gives: examples that name their images, read one by one, and what is wrong with others.

Only the standard library is imported here: worker processes read these too.
"""

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lumina_jax.data.pretokenize.options import SourceOptions


class Where(NamedTuple):
    """A place in the source: a file, and its line where it has several examples."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


class BadInput(ValueError):
    """An example that cannot be used; the others can."""

    def __init__(self, where: Where, reason: str):
        super().__init__(where, reason)
        self.where, self.reason = where, " ".join(reason.split())


class FileRange(NamedTuple):
    """Bytes of a file, not read yet; all of them where `size` is None."""

    file: str
    offset: int = 0
    size: int | None = None
    name: str = ""  # for messages; "" where the example's place says it

    def read(self) -> bytes:
        """The bytes; OSError where the file ends before them."""
        with open(self.file, "rb") as stream:
            if self.size is None:
                return stream.read()
            stream.seek(self.offset)
            content = stream.read(self.size)
        if len(content) < self.size:
            raise OSError(f"the file ends after {len(content)} of its {self.size} bytes")
        return content


class Example(NamedTuple):
    """One example: a conversation, an image with captions of which one is drawn, or ids that are ready."""

    where: Where
    images: tuple[FileRange | bytes, ...] = ()
    turns: Any = None  # as "conversations" of `unirep.conversation`, not checked yet
    captions: tuple[str, ...] = ()
    id: str = ""
    ids: FileRange | None = None  # a pickle of the original's


@dataclass(frozen=True)
class Source:
    """Examples at random access. `read(i)` raises BadInput; `listing` is a digest of what is there."""

    kind: str
    count: int
    read: Callable[[int], Example]
    listing: str


def digest_of(parts: Iterable[object]) -> str:
    """16 hex digits of several parts, each on a line."""
    total = hashlib.sha256()
    for part in parts:
        total.update(f"{part}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()[:16]


def path_inside(root: Path, name: str, where: Where) -> str:
    """The path `name`, relative to `root` or absolute, which must not lead out of it; links are followed.

    Raises BadInput.
    """
    top = os.path.abspath(root)
    path = os.path.normpath(os.path.join(top, name))
    if os.path.commonpath([top, path]) != top or "\0" in name or path == top:
        raise BadInput(where, f"{name[:200]!r}: leads out of {root}; give --root")
    return path


def captions_of(value: Any, where: Where) -> tuple[str, ...]:
    """One caption or a list of them, without outer space; BadInput for anything else, and where all are empty."""
    values = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(one, str) for one in values):
        raise BadInput(where, f"caption: got {_short(value)}, want text or a list of texts")
    found = tuple(text.strip() for text in values if text.strip())
    if not found:
        raise BadInput(where, "empty caption")
    return found


def images_of(value: Any, root: Path, where: Where) -> tuple[FileRange, ...]:
    """One path or a list of them as files under `root`; BadInput for anything else."""
    names = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) and name for name in names):
        raise BadInput(where, f"image: got {_short(value)}, want a path or a list of paths")
    return tuple(FileRange(path_inside(root, name, where), name=name) for name in names)


def example_of(record: dict, where: Where, root: Path, options: SourceOptions) -> Example:
    """A JSON object or a row of a table as an example; BadInput where it is none."""
    images = images_of(record.get(options.image_field or "image"), root, where)
    name = record.get("id", "")
    name = str(name) if isinstance(name, str | int) else ""
    if "conversations" in record:
        return Example(where, images, turns=record["conversations"], id=name)
    field = options.caption_field or "caption"
    if field not in record:
        raise BadInput(
            where, f'neither "conversations" nor "{field}", but {_short(sorted(record))}'
        )
    if len(images) != 1:
        raise BadInput(where, f"{len(images)} images with a caption, want 1")
    return Example(where, images, captions=captions_of(record[field], where), id=name)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
