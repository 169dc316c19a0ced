"""Benchmarks' tables: TSV files with images in base64, and the answers beside their rows as TSV or .xlsx."""

import base64
import binascii
import csv
import io
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from lumina_jax.image_files import open_image
from lumina_jax.official.extras import extra
from lumina_jax.paths import write_bytes

Row = Mapping[str, str]
REFERENCE_LETTERS = 64  # an image of at most so many letters is the index of the row that holds it
CELL_LETTERS = 32767  # of an .xlsx file
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")  # what XML cannot hold


def read_table(path: str | Path, wanted: Sequence[str]) -> list[Row]:
    """The rows of a TSV by column, "" where a cell is empty. ValueError of one line without one of the columns."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # images are long cells
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, delimiter="\t")
        missing = [name for name in wanted if name not in (reader.fieldnames or [])]
        if missing:
            raise ValueError(
                f"{path}: no column {', '.join(missing)}; want the benchmark's own TSV"
            )
        rows: list[Row] = [{k: v or "" for k, v in row.items() if k is not None} for row in reader]
    if not rows:
        raise ValueError(f"{path}: no rows")
    indices = [row["index"] for row in rows]
    if len({*indices}) != len(indices):
        raise ValueError(f"{path}: two rows have one index")
    return rows


def row_images(path: str | Path, rows: Sequence[Row]) -> list[Callable[[], Image.Image]]:
    """What opens each row's image: base64 of a file, or the index of the row that holds it.

    Raises ValueError of one line for a row without either.
    """
    held = {row["index"]: row["image"] for row in rows if len(row["image"]) > REFERENCE_LETTERS}
    opened = []
    for row in rows:
        cell = held.get(row["index"]) or held.get(row["image"])
        if cell is None:
            raise ValueError(
                f"{path}: row {row['index']}: no image, and none in a row {row['image']!r}"
            )
        opened.append(partial(_decoded, path, row["index"], cell))
    return opened


def encoded_image(image: Image.Image) -> str:
    """An image as such a table holds it: the base64 of a PNG."""
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return base64.b64encode(stream.getvalue()).decode()


def write_table(path: str | Path, rows: Sequence[Row]) -> Path:
    """Write rows of the same columns as TSV, or as .xlsx where the name says so; whole or not at all."""
    path, columns = Path(path), list(rows[0])
    if path.suffix == ".xlsx":
        content = _xlsx(columns, rows)
    else:
        stream = io.StringIO()
        writer = csv.DictWriter(stream, columns, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        content = stream.getvalue().encode()
    write_bytes(path, content)
    return path


def _xlsx(columns: Sequence[str], rows: Sequence[Row]) -> bytes:
    book = extra("openpyxl").Workbook(write_only=True)
    sheet = book.create_sheet()
    sheet.append(list(columns))
    for row in rows:
        sheet.append([_cell(sheet, name, row[name]) for name in columns])
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


def _cell(sheet: Any, name: str, text: str) -> Any:
    """A whole number in the column "index", by which evaluators join rows; else text, never a formula."""
    if name == "index" and text.isdigit():
        return int(text)
    cell = extra("openpyxl.cell").WriteOnlyCell(sheet, UNPRINTABLE.sub(" ", text)[:CELL_LETTERS])
    cell.data_type = "s"
    return cell


def _decoded(path: str | Path, index: str, cell: str) -> Image.Image:
    try:
        content = base64.b64decode(cell, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{path}: row {index}: image is no base64 ({error})") from None
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            return open_image(image.copy())
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: row {index}: cannot be read as an image ({error})") from None
