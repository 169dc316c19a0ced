"""Reads PyTorch's zip checkpoints (.pth, .pt, .ckpt, .bin) without torch and without running what is inside.

The format, of torch >= 1.6: a zip of plainly stored members, `data.pkl` (a pickle in which a tensor is a call of
`torch._utils._rebuild_tensor_v2` on a persistent id) and one raw little-endian file per storage in `data/`.
"""

from collections.abc import Iterator
from functools import partial
from os import PathLike
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
from lumina_jax.convert.zip_members import ZipMembers
from lumina_jax.pickle_tree import (
    MAX_PICKLE_BYTES,
    BrokenFile,
    Call,
    Name,
    Persistent,
    read_pickle,
)

TORCH_DTYPES = {  # torch's name of a dtype -> numpy's; complex, quantised and packed ones are not weights
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "int64": np.dtype(np.int64),
    "int32": np.dtype(np.int32),
    "int16": np.dtype(np.int16),
    "int8": np.dtype(np.int8),
    "uint64": np.dtype(np.uint64),
    "uint32": np.dtype(np.uint32),
    "uint16": np.dtype(np.uint16),
    "uint8": np.dtype(np.uint8),
    "bool": np.dtype(np.bool_),
}
STORAGES = {  # the older tensors name their dtype by the class of their storage
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
REBUILD = "torch._utils._rebuild_"  # calls that make tensors or parameters
LEGACY_START = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")  # the pickled magic number
MAX_DEPTH = 2  # dictionaries around the state dictionary


def read_pth(path: str | PathLike) -> dict[str, np.ndarray]:
    """Every tensor of a checkpoint by key, checksums compared: views of the mapped file.

    Raises as `open_pth`, and FileNotFoundError.
    """
    return {key: stored.read() for key, stored in open_pth(open_source(path)).items()}


def open_pth(source: ByteSource) -> dict[str, StoredTensor]:
    """The tensors of a checkpoint by key; only the zip's directory and the pickle are read.

    They are taken from the one dictionary that holds tensors, or from "state_dict" as Lightning writes it.
    Raises ValueError where the file is of another format, is cut short or damaged, or holds tensors of another
    kind. Objects of other classes are ignored, never imported.
    """
    _refuse_old_formats(source)
    try:
        archive = ZipMembers(source)
        folder = _folder(archive)
        if f"{folder}byteorder" in archive.members:
            order = archive.read(f"{folder}byteorder").tobytes()
            if order.strip() != b"little":
                raise BrokenFile(f"its byte order is {order[:20]!r}, only little-endian is read")
        size = archive.members[f"{folder}data.pkl"].size
        if size > MAX_PICKLE_BYTES:
            raise BrokenFile(f"a pickle of {size} bytes, at most {MAX_PICKLE_BYTES} are read")
        root = read_pickle(archive.read(f"{folder}data.pkl").tobytes())
    except BrokenFile as error:
        raise ValueError(
            f"{source.name} is not a whole PyTorch zip checkpoint ({error}): download it again, "
            "or save it anew with torch >= 1.6"
        ) from error
    tensors = {}
    for key, value in _state_dict(root, source.name).items():
        if not _is_tensor(value):
            continue
        try:
            tensors[key] = _stored(key, value, archive, f"{folder}data/")
        except BrokenFile as error:
            raise ValueError(f"{source.name}: {key!r} cannot be read: {error}") from error
    if len(tensors) > MAX_TENSORS:
        raise ValueError(
            f"{source.name} has {len(tensors)} tensors, at most {MAX_TENSORS} are read"
        )
    return tensors


def _refuse_old_formats(source: ByteSource) -> None:
    """ValueError with the reason for what torch wrote before 1.6."""
    start = source.read(0, min(source.size, 512)).tobytes()
    if start.startswith(LEGACY_START):
        raise ValueError(
            f"{source.name} is in the format before torch 1.6 (no zip): load it there and save it anew"
        )
    if start[257:262] == b"ustar":
        raise ValueError(
            f"{source.name} is a tar archive, torch's first format: load it there and save it anew"
        )


def _folder(archive: ZipMembers) -> str:
    """The folder in the archive that everything lies in, "model/"."""
    pickles = [name for name in archive.members if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise BrokenFile(f"{len(pickles)} members are named data.pkl, want 1")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in archive.members or any(
        name.startswith(f"{folder}code/") for name in archive.members
    ):
        raise BrokenFile("it is a TorchScript program, want a dictionary of tensors")
    return folder


def _is_tensor(value: Any) -> bool:
    """Whether the pickle makes a tensor of any kind here."""
    return isinstance(value, Call) and str(value.function).startswith(REBUILD)


def _state_dict(root: Any, name: str) -> dict[str, Any]:
    """The dictionary of the root that holds the tensors."""
    if not isinstance(root, dict):
        kind = str(root.function) if isinstance(root, Call) else type(root).__name__
        raise ValueError(f"{name} holds a {kind[:100]!r}: want a dictionary of tensors")
    holders = dict(_holders(root))
    if ("state_dict",) in holders:
        return holders[("state_dict",)]
    if not holders:
        keys = [str(key)[:40] for key in list(root)[:5] if isinstance(key, str)]
        raise ValueError(f"{name} holds no tensors: want a state dictionary, got keys {keys}")
    if len(holders) > 1:
        places = [".".join(path)[:60] or "(the root)" for path in holders]
        raise ValueError(
            f"{name} holds tensors in {len(holders)} dictionaries, {places[:5]}: save the wanted one by itself"
        )
    return next(iter(holders.values()))


def _holders(root: dict) -> Iterator[tuple[tuple[str, ...], dict]]:
    """The dictionaries that hold tensors under text keys, with their way from the root.

    Each is visited once, by its shortest way: what many dictionaries share would be walked many times.
    """
    seen, level = {id(root)}, [((), root)]
    for _ in range(MAX_DEPTH + 1):
        below = []
        for path, tree in level:
            named = {key: value for key, value in tree.items() if isinstance(key, str)}
            if any(map(_is_tensor, named.values())):
                yield path, named
            # "state_dict" first: if it has another name too, it goes by this one
            for key, value in sorted(named.items(), key=lambda item: item[0] != "state_dict"):
                if isinstance(value, dict) and id(value) not in seen:
                    seen.add(id(value))
                    below.append(((*path, key), value))
        level = below


def _stored(key: str, call: Call, archive: ZipMembers, folder: str) -> StoredTensor:
    """The tensor that a call would make; BrokenFile unless it is a plain one inside its storage."""
    arguments, function = call.arguments, str(call.function).removeprefix(REBUILD)
    if function.startswith("parameter") and arguments and _is_tensor(arguments[0]):
        arguments, function = (
            arguments[0].arguments,
            str(arguments[0].function).removeprefix(REBUILD),
        )
    if function not in ("tensor_v2", "tensor_v3") or len(arguments) < 6:
        raise BrokenFile(f"it is made by {REBUILD}{function[:60]}, only dense tensors are read")
    storage, offset, shape, strides = arguments[:4]
    named = arguments[6] if function == "tensor_v3" and len(arguments) > 6 else None
    dtype, member = _storage(storage, named, archive, folder)
    if not isinstance(shape, tuple) or not isinstance(strides, tuple) or len(shape) != len(strides):
        raise BrokenFile("its shape and strides are not two tuples of one length")
    check_whole(offset, *strides)
    count, size = count_elements(shape), archive.members[member].size // dtype.itemsize
    span = 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) if count else 0
    if offset + span > size:
        raise BrokenFile(
            f"a tensor of shape {shape} that ends at element {offset + span} of a storage of {size}"
        )
    if count > size:  # a copy of it would be larger than the file
        raise BrokenFile(f"a tensor of shape {shape} repeats the elements of a storage of {size}")
    place = offset * dtype.itemsize, (offset + span) * dtype.itemsize
    byte_strides = tuple(step * dtype.itemsize for step in strides)
    fetch = partial(_view, archive, member, place, dtype, shape, byte_strides)
    return StoredTensor(key, shape, dtype, archive.source.name, fetch)


def _storage(value: Any, named: Any, archive: ZipMembers, folder: str) -> tuple[np.dtype, str]:
    """Dtype and member of a storage; `named` is the dtype of a tensor whose storage has none."""
    pid = value.pid if isinstance(value, Persistent) else None
    if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage":
        raise BrokenFile("its storage is not one of the file's")
    _, kind, number, _, length = pid
    if not isinstance(kind, Name) or not isinstance(number, str):
        raise BrokenFile("its storage has no dtype or number")
    if kind.name == "UntypedStorage":
        name = named.name if isinstance(named, Name) and named.module == "torch" else None
        unit = 1
    else:
        name = STORAGES.get(kind.name) if kind.module in ("torch", "torch.storage") else None
        unit = TORCH_DTYPES[name].itemsize if name else 1
    if name not in TORCH_DTYPES:
        given = named if kind.name == "UntypedStorage" else kind
        shown = str(given)[:60] if isinstance(given, Name | None) else type(given).__name__
        raise BrokenFile(f"the dtype {shown!r}, want one of {', '.join(TORCH_DTYPES)}")
    check_whole(length)
    member = archive.members.get(f"{folder}{number}")
    if member is None:
        raise BrokenFile(f"its storage {number[:40]!r} is not in the file")
    if member.size != length * unit:
        raise BrokenFile(f"its storage has {member.size} bytes, {length * unit} are announced")
    return TORCH_DTYPES[name], member.name


def _view(
    archive: ZipMembers,
    member: str,
    place: tuple[int, int],
    dtype: np.dtype,
    shape: tuple[int, ...],
    byte_strides: tuple[int, ...],
    verify: bool,
) -> np.ndarray:
    """The strided view of a storage's bytes [place), which hold the whole tensor."""
    try:
        content = archive.read(member, *place, verify=verify)
    except BrokenFile as error:
        raise ValueError(
            f"{archive.source.name} is damaged: {error}: download it again, or copy it anew"
        ) from error
    if 0 in shape:
        return np.frombuffer(b"", dtype).reshape(shape)
    # numpy holds shape and strides against the buffer once more
    return np.ndarray(shape, dtype, buffer=content, strides=byte_strides)
