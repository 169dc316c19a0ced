"""Images with captions as a source: a folder with a .txt beside every image, or a table of two columns."""

import csv
from pathlib import Path

from lumina_jax.data.pretokenize.examples import (
    BadInput,
    Example,
    FileRange,
    Source,
    Where,
    captions_of,
    digest_of,
    example_of,
)
from lumina_jax.data.pretokenize.options import SourceOptions

IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .png .webp .gif .bmp .tif .tiff .ppm .pgm .jp2 .avif".split()
)


def open_folder(path: Path, options: SourceOptions) -> Source:
    """Every image below a folder, by name, with the caption in NAME.txt beside it."""
    files = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
    )
    if not files:
        raise ValueError(f"{path}: no images there ({' '.join(sorted(IMAGE_SUFFIXES))})")

    def read(index: int) -> Example:
        file = files[index]
        where, text = Where(str(file)), file.with_suffix(".txt")
        name = file.relative_to(path).as_posix()
        return Example(where, (FileRange(str(file)),), captions=read_caption(text, where), id=name)

    stated = (f"{file.relative_to(path).as_posix()} {file.stat().st_size}" for file in files)
    return Source("folder", len(files), read, digest_of(stated))


def read_caption(file: Path, where: Where) -> tuple[str, ...]:
    """The caption in a text file; BadInput where it is missing, empty or no UTF-8."""
    try:
        return captions_of(file.read_bytes().decode("utf-8-sig"), where)
    except FileNotFoundError:
        raise BadInput(where, f"no caption beside it: want {file.name}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(where, f"{file.name}: {error}") from error


def open_table(path: Path, options: SourceOptions) -> Source:
    """The rows of a CSV file with a header."""
    root = options.root or path.parent
    wanted = (options.image_field or "image", options.caption_field or "caption")
    rows: list[tuple[int, dict]] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
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
        raise ValueError(f"{path}: no table ({error})") from error

    def read(index: int) -> Example:
        line, row = rows[index]
        return example_of(row, Where(str(path), line), root, options)

    return Source("table", len(rows), read, digest_of(rows))
