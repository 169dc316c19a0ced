"""Reads .safetensors files by byte range: their library wants a whole local file, and torch for bfloat16.

The format: 8 bytes of little-endian header length, a JSON header of dtype, shape and offsets by name, the bytes.
"""

import json
import re
import struct
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from lumina_jax.convert.byte_source import ByteSource, open_source
from lumina_jax.convert.stored_tensor import (
    MAX_TENSORS,
    StoredTensor,
    check_whole,
    count_elements,
)
from lumina_jax.paths import as_path
from lumina_jax.pickle_tree import BrokenFile

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
LENGTH = struct.Struct("<Q")
MAX_HEADER_BYTES = 100 * 10**6  # of the format
METADATA = "__metadata__"
INDEX = "model.safetensors.index.json"
SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})\.safetensors")


def open_safetensors(source: ByteSource) -> dict[str, StoredTensor]:
    """The tensors of a file by name; only its header is read.

    Raises ValueError where the file is cut short, damaged, or holds tensors of an unknown dtype.
    """
    try:
        header, start = _read_header(source)
        return _tensors(header, start, source)
    except BrokenFile as error:
        raise ValueError(
            f"{source.name} is not a whole safetensors file ({error}): download it again"
        ) from error


def looks_like_safetensors(source: ByteSource) -> bool:
    """Whether the file starts with the length of a JSON header and a brace."""
    if source.size < LENGTH.size + 1:
        return False
    return source.read(LENGTH.size, LENGTH.size + 1).tobytes() == b"{"


def open_folder(folder: str | PathLike) -> dict[str, StoredTensor]:
    """The tensors of all *.safetensors of a folder by name, as model.safetensors.index.json lists them if it is there.

    Raises FileNotFoundError where a file is missing, and ValueError where files and index, or two files,
    contradict each other.
    """
    root = as_path(folder)
    if (root / INDEX).exists():
        weight_map = _read_index(root / INDEX)
    else:
        names = sorted(path.name for path in root.glob("*.safetensors"))
        if not names:
            raise FileNotFoundError(f"no *.safetensors in {folder}")
        _check_series(names, folder)
        weight_map = dict.fromkeys(names)
    tensors: dict[str, StoredTensor] = {}
    for name, listed in weight_map.items():
        if not (root / name).exists():
            raise FileNotFoundError(f"{root / name} is missing: {INDEX} lists it; download it")
        opened = open_safetensors(open_source(root / name))
        for keys, what in (
            ((listed or set()) - set(opened), "lacks"),
            (
                set(opened) - (set(opened) if listed is None else listed),
                "has, unlisted,",
            ),
        ):
            if keys:
                raise ValueError(
                    f"{root / name} {what} {min(keys)!r} ({len(keys)} in all): it does not belong to {INDEX}"
                )
        twice = tensors.keys() & opened
        if twice:
            key = min(twice)
            raise ValueError(f"{key!r} is in {tensors[key].where} and in {root / name}: remove one")
        tensors.update(opened)
    return tensors


def _read_header(source: ByteSource) -> tuple[dict[str, Any], int]:
    """The header and where the bytes after it start."""
    if source.size < LENGTH.size:
        raise BrokenFile(f"it has {source.size} bytes")
    (length,) = LENGTH.unpack(source.read(0, LENGTH.size).tobytes())
    start = LENGTH.size + length
    if length > MAX_HEADER_BYTES or start > source.size:
        raise BrokenFile(f"a header of {length} bytes in a file of {source.size}")
    text = source.read(LENGTH.size, start).tobytes()
    if not text.startswith(b"{"):
        raise BrokenFile("its header does not start with a brace")
    return parse_json(text), start


def parse_json(text: bytes) -> dict[str, Any]:
    """A JSON object without duplicate keys or NaN; BrokenFile where `text` is something else."""
    try:
        parsed = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        if isinstance(error, BrokenFile):
            raise
        raise BrokenFile(f"its JSON is damaged: {' '.join(str(error).split())[:100]}") from error
    if not isinstance(parsed, dict):
        raise BrokenFile("its JSON is no object")
    return parsed


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BrokenFile("its JSON has a key twice")
    return found


def _refuse(constant: str) -> None:
    raise BrokenFile(f"its JSON has the number {constant}")


def _tensors(header: dict[str, Any], start: int, source: ByteSource) -> dict[str, StoredTensor]:
    """The tensors that a header describes, which must cover the file without hole or overlap."""
    if len(header) > MAX_TENSORS:
        raise BrokenFile(f"{len(header)} tensors, at most {MAX_TENSORS} are read")
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise BrokenFile(f"{METADATA} is no object of texts")
    ranges, tensors = [], {}
    for key, entry in header.items():
        try:
            dtype, shape, begin, end = _entry(entry)
        except BrokenFile as error:
            raise BrokenFile(f"{key!r} has {error}") from error
        ranges.append((begin, end, key))
        fetch = partial(_view, source, start + begin, start + end, dtype, shape)
        tensors[key] = StoredTensor(key, shape, dtype, source.name, fetch)
    place = 0
    for begin, end, key in sorted(ranges):
        if begin != place:
            raise BrokenFile(f"{key!r} starts at byte {begin}, the one before it ends at {place}")
        place = end
    if start + place != source.size:
        raise BrokenFile(
            f"its tensors end at byte {start + place}, the file has {source.size}: not fully covered"
        )
    return tensors


def _entry(entry: Any) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """Dtype, shape, first and last byte of one tensor."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise BrokenFile("no dtype, shape and data_offsets, or more than these")
    name, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(name, str) or name not in DTYPES:
        raise BrokenFile(f"the dtype {str(name)[:20]!r}, want one of {', '.join(DTYPES)}")
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        raise BrokenFile("a shape or data_offsets that are no lists of numbers")
    check_whole(*offsets)
    begin, end = offsets
    nbytes = count_elements(tuple(shape)) * DTYPES[name].itemsize
    if end - begin != nbytes:
        raise BrokenFile(f"{end - begin} bytes, its shape and dtype ask for {nbytes}")
    return DTYPES[name], tuple(shape), begin, end


def _view(
    source: ByteSource,
    begin: int,
    end: int,
    dtype: np.dtype,
    shape: tuple[int, ...],
    verify: bool,  # the format has no checksum
) -> np.ndarray:
    return source.read(begin, end).view(dtype).reshape(shape)


def _read_index(path: Path) -> dict[str, set[str]]:
    """The keys of every file that an index lists."""
    try:
        weight_map = parse_json(path.read_bytes()).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise BrokenFile("it has no weight_map")
        found: dict[str, set[str]] = {}
        for key, name in weight_map.items():
            # a name may not lead out of the folder
            if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+\.safetensors", name):
                raise BrokenFile(f"{key!r} is in {str(name)[:60]!r}, want a *.safetensors")
            found.setdefault(name, set()).add(key)
    except BrokenFile as error:
        raise ValueError(f"{path} cannot be read: {error}; download it again") from error
    return found


def _check_series(names: list[str], folder: str | PathLike) -> None:
    """ValueError where files are numbered but not all there: no index says so."""
    for match in filter(None, map(SHARD.fullmatch, names)):
        series = [
            name for name in names if name.startswith(f"{match[1]}-") and SHARD.fullmatch(name)
        ]
        if len(series) != int(match[2]):
            raise ValueError(
                f"{folder} has {len(series)} files of a series, {match[0]} says {match[2]}: download the others"
            )
