"""What every source gives: examples that name their images, read one by one, and what is wrong with others.

Only the standard library is imported here: worker processes read these too.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lumina_jax.data.pretokenize.options import SourceOptions

MAX_TEXT_BYTES = 16 * 2**20  # of one caption, or of one field of a table


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

    def read(self, max_bytes: int) -> bytes:
        """The bytes; OSError where the file ends before them, for more than `max_bytes`, and for a pipe or a device."""
        status = os.stat(self.file)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("no regular file")
        size = status.st_size if self.size is None else self.size
        if size > max_bytes:
            raise OSError(f"{size} bytes, at most {max_bytes} are read")
        with open(self.file, "rb") as stream:
            stream.seek(self.offset)
            content = stream.read(size)
        if len(content) < size:
            raise OSError(f"the file ends after {len(content)} of its {size} bytes")
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


def path_inside(root: Path, name: str, where: Where, follow_links: bool = False) -> str:
    """The path `name`, relative to `root` or absolute, which must not lead out of it.

    Nor must its links lead out, unless they are to be followed. Raises BadInput.
    """
    top = os.path.abspath(root)
    path = os.path.normpath(os.path.join(top, name))
    if not _is_below(top, path) or "\0" in name:
        raise BadInput(where, f"{name[:200]!r}: leads out of {root}; give --root")
    if not follow_links and not _is_below(os.path.realpath(top), os.path.realpath(path)):
        raise BadInput(where, f"{name[:200]!r}: a link leads out of {root}; give --follow-links")
    return path


def _is_below(top: str, path: str) -> bool:
    return path != top and os.path.commonpath([top, path]) == top


def read_text(place: FileRange, where: Where) -> str:
    """A short text; BadInput where it cannot be read, or is no UTF-8."""
    try:
        return place.read(MAX_TEXT_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(where, f"{place.name or 'its text'}: cannot be read ({error})") from error


def captions_of(value: Any, where: Where) -> tuple[str, ...]:
    """One caption or a list of them, without outer space; BadInput for anything else, and where all are empty."""
    values = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(one, str) for one in values):
        raise BadInput(where, f"caption: got {_short(value)}, want text or a list of texts")
    found = tuple(text.strip() for text in values if text.strip())
    if not found:
        raise BadInput(where, "empty caption")
    return found


def images_of(
    value: Any, root: Path, where: Where, follow_links: bool = False
) -> tuple[FileRange, ...]:
    """One path or a list of them as files under `root`; BadInput for anything else."""
    names = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) and name for name in names):
        raise BadInput(where, f"image: got {_short(value)}, want a path or a list of paths")
    return tuple(
        FileRange(path_inside(root, name, where, follow_links), name=name) for name in names
    )


def example_of(record: dict, where: Where, root: Path, options: SourceOptions) -> Example:
    """A JSON object or a row of a table as an example; BadInput where it is none."""
    image_field = options.image_field or "image"
    images = images_of(record.get(image_field), root, where, options.follow_links)
    name = record.get("id", "")
    name = str(name) if isinstance(name, str | int) else ""
    if "conversations" in record:
        return Example(where, images, turns=record["conversations"], id=name)
    field = options.caption_field or "caption"
    if field not in record:
        raise BadInput(
            where,
            f'neither "conversations" nor "{field}" among {_short(sorted(record))}; choose --caption-field',
        )
    if image_field not in record:
        raise BadInput(
            where, f'no "{image_field}" among {_short(sorted(record))}; choose --image-field'
        )
    if len(images) != 1:
        raise BadInput(where, f"{len(images)} images with a caption, want 1")
    return Example(where, images, captions=captions_of(record[field], where), id=name)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
