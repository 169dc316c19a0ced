"""Images with captions as a source: a folder with a .txt beside every image, or a table of two columns."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path

from lumina_jax.data.pretokenize.examples import (
    MAX_TEXT_BYTES,
    BadInput,
    Example,
    FileRange,
    Source,
    Where,
    captions_of,
    digest_of,
    example_of,
    path_inside,
    read_text,
)
from lumina_jax.data.pretokenize.options import SourceOptions

IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .png .webp .gif .bmp .tif .tiff .ppm .pgm .jp2 .avif".split()
)


def open_folder(path: Path, options: SourceOptions) -> Source:
    """Every image below a folder, by name, with the caption in NAME.txt beside it."""
    files = sorted(
        file
        for file in _files_below(path, options.follow_links)
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
    )
    if not files:
        raise ValueError(
            f"{path}: no images there ({' '.join(sorted(IMAGE_SUFFIXES))}); "
            "folders that are links want --follow-links"
        )

    def read(index: int) -> Example:
        file = files[index]
        where, text = Where(str(file)), file.with_suffix(".txt")
        image, caption = (
            FileRange(path_inside(path, str(one.absolute()), where, options.follow_links))
            for one in (file, text)
        )
        if not os.path.lexists(caption.file):
            raise BadInput(where, f"no caption beside it: want {text.name}")
        captions = captions_of(read_text(caption._replace(name=text.name), where), where)
        return Example(where, (image,), captions=captions, id=file.relative_to(path).as_posix())

    stated = (f"{file.relative_to(path).as_posix()} {_size(file)}" for file in files)
    return Source("folder", len(files), read, digest_of(stated))


def _files_below(path: Path, follow_links: bool) -> Iterator[Path]:
    """All files below a folder; with links to folders followed, each folder once."""
    seen: set[str] = set()
    for folder, names, files in os.walk(path, followlinks=follow_links):
        real = os.path.realpath(folder)
        if real in seen:
            names.clear()
            continue
        seen.add(real)
        names.sort()
        yield from (Path(folder, file) for file in files)


def _size(file: Path) -> int:
    """Bytes, -1 where a link leads nowhere."""
    try:
        return file.stat().st_size
    except OSError:
        return -1


def open_table(path: Path, options: SourceOptions) -> Source:
    """The rows of a CSV file with a header; one that is no UTF-8 is a bad input."""
    root = options.root or path.parent
    wanted = (options.image_field or "image", options.caption_field or "caption")
    rows: list[tuple[int, dict]] = []
    line = 1
    csv.field_size_limit(MAX_TEXT_BYTES)
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            reader = csv.DictReader(stream)
            missing = [name for name in wanted if name not in (reader.fieldnames or ())]
            if missing:
                raise ValueError(
                    f"no column {missing[0]!r} among {', '.join(reader.fieldnames or ())}; "
                    "name it with --image-field and --caption-field"
                )
            line = reader.line_num + 1
            for row in reader:
                rows.append((line, {key: row[key] for key in (*wanted, "id") if key in row}))
                line = reader.line_num + 1
    except (csv.Error, ValueError) as error:
        raise ValueError(f"{path}:{line}: no table ({error})") from error

    def read(index: int) -> Example:
        line, row = rows[index]
        where = Where(str(path), line)
        try:
            "".join(value or "" for value in row.values()).encode()
        except UnicodeEncodeError:
            raise BadInput(where, "no UTF-8") from None
        return example_of(row, where, root, options)

    return Source("table", len(rows), read, digest_of(rows))
