"""JSON as a source: a list in one file, or an object a line, of conversations or captions with paths of images."""

import hashlib
import json
import math
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lumina_jax.data.pretokenize.examples import (
    BadInput,
    Source,
    Where,
    digest_of,
    example_of,
)
from lumina_jax.data.pretokenize.options import SourceOptions

BOM = b"\xef\xbb\xbf"
SPACE, COMMA = re.compile(r"[ \t\r\n]*"), re.compile(r"[ \t\r\n]*,[ \t\r\n]*")


class Records(NamedTuple):
    """The JSON objects of one file, parsed when asked for."""

    count: int
    read: Callable[[int], tuple[dict, Where]]  # raises BadInput
    digest: str  # of the file


def open_json(path: Path, options: SourceOptions) -> Source:
    """Conversations or captions of a .json or .jsonl file."""
    records, root = open_records(path), options.root or path.parent
    return Source(
        "json",
        records.count,
        lambda index: example_of(*records.read(index), root, options),
        records.digest,
    )


def open_records(path: Path) -> Records:
    """The objects of a .jsonl, one a line; or of a JSON list, which begins with its bracket."""
    if path.suffix.lower() == ".jsonl":
        return _open_lines(path)
    with path.open("rb") as stream:
        start = stream.read(4096).removeprefix(BOM).lstrip()
    return _open_list(path) if start.startswith(b"[") else _open_lines(path)


def join_records(parts: list[Records]) -> Records:
    """The records of several files as one."""
    starts = np.cumsum([0, *(part.count for part in parts)])

    def read(index: int) -> tuple[dict, Where]:
        part = bisect_right(starts, index) - 1
        return parts[part].read(index - int(starts[part]))

    return Records(int(starts[-1]), read, digest_of(part.digest for part in parts))


def parse_object(text: str, where: Where) -> dict:
    """Strict JSON: BadInput for what is no object, for NaN, infinities and numbers that would become one."""
    strange: list[str] = []

    def number(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            strange.append(digits[:20])
        return value

    try:
        value = json.loads(text, parse_constant=strange.append, parse_float=number)
    except (ValueError, RecursionError) as error:
        raise BadInput(where, f"no JSON ({error or type(error).__name__})") from error
    if strange:
        raise BadInput(where, f"{strange[0]}: no number that JSON knows")
    if r"\ud" in text.lower():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise BadInput(where, f"half a character ({error})") from error
    if not isinstance(value, dict):
        raise BadInput(where, f"a {type(value).__name__}, want an object")
    return value


def _open_lines(path: Path) -> Records:
    offsets, numbers = [], []
    total, offset = hashlib.sha256(), 0
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            total.update(line)
            if line.strip():
                offsets.append(offset)
                numbers.append(number)
            offset += len(line)
    starts, lines = np.array(offsets, np.int64), np.array(numbers, np.int64)

    def read(index: int) -> tuple[dict, Where]:
        where = Where(str(path), int(lines[index]))
        with path.open("rb") as stream:
            stream.seek(int(starts[index]))
            line = stream.readline()
        try:
            text = line.removeprefix(BOM).decode()
        except UnicodeDecodeError as error:
            raise BadInput(where, f"no UTF-8 ({error})") from error
        return parse_object(text, where), where

    return Records(len(starts), read, total.hexdigest()[:16])


def _open_list(path: Path) -> Records:
    """Raises ValueError where the list itself is broken: what comes after is then unknown."""
    content = path.read_bytes()
    try:
        text = content.removeprefix(BOM).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: no UTF-8 ({error})") from error
    spans = np.array(list(_elements(text, path)), np.int64).reshape(-1, 3)

    def read(index: int) -> tuple[dict, Where]:
        start, stop, line = map(int, spans[index])
        where = Where(str(path), line)
        return parse_object(text[start:stop], where), where

    return Records(len(spans), read, hashlib.sha256(content).hexdigest()[:16])


def _elements(text: str, path: Path) -> Iterator[tuple[int, int, int]]:
    """(start, stop, line) of every element of a JSON list."""
    decoder: Any = json.JSONDecoder(parse_constant=lambda name: None)
    at = _after(SPACE, text, text.index("[") + 1)
    line, counted = 1, 0
    try:
        while not text.startswith("]", at):
            line, counted = line + text.count("\n", counted, at), at
            stop = decoder.raw_decode(text, at)[1]
            yield at, stop, line
            comma = COMMA.match(text, stop)
            at = comma.end() if comma else _after(SPACE, text, stop)
            if not comma and not text.startswith("]", at):
                raise ValueError("expecting ',' or ']'")
        if text[at + 1 :].strip():
            raise ValueError("text after the list")
    except (ValueError, RecursionError) as error:
        line += text.count("\n", counted, at)
        raise ValueError(
            f"{path}:{line}: no JSON list ({str(error) or type(error).__name__}); mend it, or write one object a line"
        ) from error


def _after(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at
