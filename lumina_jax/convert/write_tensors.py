"""Writes weights as .safetensors, sharded folders of them, or .pth, one tensor in memory at a time.

A file appears under its name when it is complete and on the disk, or not at all.
"""

import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from lumina_jax.convert.pth import STORAGES, TORCH_DTYPES
from lumina_jax.convert.safetensors_file import (
    DTYPES,
    INDEX,
    LENGTH,
    MAX_HEADER_BYTES,
    METADATA,
)
from lumina_jax.convert.stored_tensor import count_elements
from lumina_jax.paths import is_remote

Entry = tuple[tuple[int, ...], np.dtype]  # shape, dtype
Entries = Mapping[str, Entry]  # by name, in the order of the file
Read = Callable[
    [str], np.ndarray
]  # the values of one name; called once each, when their turn comes

ALIGNMENT = 64  # bytes; torch's, so that a mapped storage can be used in place
PIECE_BYTES = 16 * 2**20
MAX_PLAIN_BYTES = 2**31 - 1  # of a zip member without 64-bit lengths
ARCHIVE = "archive"  # the folder in a .pth that everything lies in
MAX_SHARD_BYTES = 10 * 10**9  # of the released folders
FORMAT = {"format": "pt"}  # without it transformers refuses a file


def write_safetensors(
    path: str | os.PathLike, entries: Entries, read: Read, metadata: Mapping[str, str] = FORMAT
) -> None:
    """Writes `entries`, their values from `read`; larger dtypes lie first, so that all are aligned.

    Raises ValueError for dtypes that the format lacks, or values that are not as `entries` says.
    """
    codes = {dtype: code for code, dtype in DTYPES.items()}
    _check_dtypes(entries, codes, path)
    header: dict[str, object] = {METADATA: dict(metadata)}
    ordered = sorted(entries, key=lambda name: -np.dtype(entries[name][1]).itemsize)
    place = 0
    for name in ordered:
        shape, dtype = entries[name]
        end = place + _nbytes(entries[name])
        header[name] = {
            "dtype": codes[np.dtype(dtype)],
            "shape": list(shape),
            "data_offsets": [place, end],
        }
        place = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if METADATA in entries or len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"{path}: a tensor named {METADATA}, or a header of {len(text)} bytes")
    with replacing(path) as file:
        file.write(LENGTH.pack(len(text)))
        file.write(text)
        for name in ordered:
            for piece in _pieces(name, entries[name], read, path):
                file.write(piece)


def write_folder(
    folder: str | os.PathLike, entries: Entries, read: Read, max_shard_bytes: int = MAX_SHARD_BYTES
) -> list[Path]:
    """Writes model.safetensors, or model-00001-of-….safetensors of at most that size and their index; gives the paths.

    A tensor larger than `max_shard_bytes` gets a file of its own. Raises as `write_safetensors`, and ValueError
    where the folder already holds weights.
    """
    root = Path(folder)
    if not is_remote(folder):
        root.mkdir(parents=True, exist_ok=True)
        found = sorted([*root.glob("*.safetensors"), *root.glob(INDEX)])
        if found:
            raise ValueError(
                f"{folder} already holds {found[0].name}: want a folder without weights"
            )
    shards: list[dict[str, Entry]] = [{}]
    filled = 0
    for name, entry in entries.items():
        if shards[-1] and filled + _nbytes(entry) > max_shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = entry
        filled += _nbytes(entry)
    count = len(shards)
    names = [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    paths = [root / name for name in (names if count > 1 else ["model.safetensors"])]
    for path, shard in zip(paths, shards, strict=True):
        write_safetensors(path, shard, read)
    if count > 1:
        weight_map = {
            n: path.name for path, shard in zip(paths, shards, strict=True) for n in shard
        }
        total = sum(map(_nbytes, entries.values()))
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        with replacing(root / INDEX) as file:
            file.write(json.dumps(index, indent=2).encode())
        paths.append(root / INDEX)
    return paths


def write_pth(
    path: str | os.PathLike, entries: Entries, read: Read, under: str | None = None
) -> None:
    """Writes a dictionary of `entries` that torch.load reads, with weights_only and mmap too.

    `under`: the key of an outer dictionary that holds it, "state_dict" in Lightning's files.
    Raises ValueError for dtypes that torch lacks, or values that are not as `entries` says.
    """
    _check_dtypes(entries, {dtype: name for name, dtype in TORCH_DTYPES.items()}, path)
    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        _add(archive, "data.pkl", [_state_dict_pickle(entries, under)])
        _add(archive, "byteorder", [b"little"])
        for number, (name, entry) in enumerate(entries.items()):
            pieces = _pieces(name, entry, read, path)
            _add(archive, f"data/{number}", pieces, _nbytes(entry))
        _add(archive, "version", [b"3\n"])


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` when the block ends, and leaves nothing where it fails."""
    if is_remote(path):
        raise ValueError(
            f"{os.fspath(path)}: files are written locally only; copy them there after"
        )
    path = Path(path)
    unfinished = path.with_name(f"{path.name}.writing")
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)  # the new name must reach the disk as well
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _nbytes(entry: Entry) -> int:
    return count_elements(tuple(entry[0])) * np.dtype(entry[1]).itemsize


def _check_dtypes(entries: Entries, known: Mapping[np.dtype, str], path: str | os.PathLike) -> None:
    """ValueError where there is nothing to write or a dtype has no name in the format."""
    if not entries:
        raise ValueError(f"{path}: no tensors to write")
    for name, (_, dtype) in entries.items():
        if np.dtype(dtype) not in known:
            raise ValueError(
                f"{path}: {name!r} has dtype {np.dtype(dtype)}, want one of {', '.join(known.values())}"
            )


def _pieces(name: str, entry: Entry, read: Read, path: str | os.PathLike) -> Iterator[memoryview]:
    """The bytes of one tensor, checked against what was announced."""
    shape, dtype = tuple(entry[0]), np.dtype(entry[1])
    value = np.asarray(read(name))
    if value.shape != shape or value.dtype != dtype:
        raise ValueError(
            f"{path}: {name!r} is {value.dtype}{list(value.shape)}, {dtype}{list(shape)} was announced"
        )
    content = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
    for start in range(0, content.size, PIECE_BYTES):
        yield content[start : start + PIECE_BYTES].data


def _add(
    archive: zipfile.ZipFile,
    name: str,
    pieces: Iterator[memoryview] | list[bytes],
    size: int = 0,
) -> None:
    """One plainly stored member whose content starts at a multiple of `ALIGNMENT`; `size` if it may be large."""
    member = zipfile.ZipInfo(f"{ARCHIVE}/{name}")
    wide = size > MAX_PLAIN_BYTES
    headers = (
        30 + len(member.filename) + (20 if wide else 0) + 4
    )  # the last: of the padding's own field
    padding = -(archive.start_dir + headers) % ALIGNMENT
    member.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
    with archive.open(member, "w", force_zip64=wide) as file:
        for piece in pieces:
            file.write(piece)


def _state_dict_pickle(entries: Entries, under: str | None) -> bytes:
    """The pickle, of protocol 2, of a dictionary of tensors, in an outer one where `under` names its key."""
    opcodes = [b"\x80\x02", b"" if under is None else b"}" + _text(under), b"}("]
    for number, (name, (shape, dtype)) in enumerate(entries.items()):
        opcodes += [_text(name), _tensor_pickle(number, tuple(shape), np.dtype(dtype))]
    return b"".join([*opcodes, b"u."] if under is None else [*opcodes, b"us."])


def _tensor_pickle(number: int, shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """The call that makes a contiguous tensor of storage `number`."""
    torch_name = {dtype: name for name, dtype in TORCH_DTYPES.items()}[dtype]
    classes = {name: storage for storage, name in STORAGES.items()}
    count = count_elements(shape)
    steps = [1]
    for length in reversed(shape[1:]):
        steps.append(steps[-1] * max(length, 1))
    strides = tuple(reversed(steps)) if shape else ()
    if torch_name in classes:
        rebuild, storage, length = "_rebuild_tensor_v2", f"torch\n{classes[torch_name]}", count
        last = b""
    else:  # younger dtypes have no class of storage
        rebuild, storage, length = (
            "_rebuild_tensor_v3",
            "torch.storage\nUntypedStorage",
            count * dtype.itemsize,
        )
        last = f"ctorch\n{torch_name}\n".encode()
    pid = [b"(", _text("storage"), f"c{storage}\n".encode(), _text(str(number)), _text("cpu")]
    call = [f"ctorch._utils\n{rebuild}\n(".encode(), *pid, _number(length), b"tQ", _number(0)]
    call += [_numbers(shape), _numbers(strides), b"\x89ccollections\nOrderedDict\n)R", last, b"tR"]
    return b"".join(call)


def _text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + len(encoded).to_bytes(4, "little") + encoded


def _number(value: int) -> bytes:
    if value < 2**31:
        return b"J" + value.to_bytes(4, "little")
    encoded = pickle.encode_long(value)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def _numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_number, values)) + b"t"
