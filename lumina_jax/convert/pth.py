"""Reads PyTorch's zip checkpoints (.pth, .ckpt) without torch and without running what is inside.

The format: a zip of uncompressed members, `data.pkl` (a pickle in which tensors are calls of
`torch._utils._rebuild_tensor_v2` on persistent ids) and one raw little-endian file per storage in `data/`.
"""

import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

STORAGE_DTYPES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
BROKEN = (
    zipfile.BadZipFile,
    pickle.UnpicklingError,
    EOFError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
)
LOCAL_HEADER_BYTES = 30  # of a zip member, before its name and extra field


def read_pth(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint by key, memory-mapped; a Lightning file's are found under "state_dict".

    Raises FileNotFoundError, or ValueError where the file is not a zip checkpoint, is cut short, or holds
    tensors outside their storage. Objects of other classes are ignored, never imported.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            root = _read(archive, path)
    except BROKEN as error:
        raise ValueError(
            f"{path} is not a whole PyTorch zip checkpoint ({error}): download it again, "
            "or save it anew with torch >= 1.6"
        ) from error
    root = root.get("state_dict", root) if isinstance(root, dict) else root
    if not isinstance(root, dict):
        raise ValueError(f"{path} holds a {type(root).__name__}: want a dictionary of tensors")
    tensors = {key: leaf for key, leaf in root.items() if isinstance(leaf, np.ndarray)}
    if not tensors:
        raise ValueError(
            f"{path} holds no tensors: want a state dictionary, got keys {list(root)[:5]}"
        )
    return tensors


def _read(archive: zipfile.ZipFile, path: Path) -> Any:
    """The unpickled root object, its tensors views of the mapped file."""
    members = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in members if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise KeyError(f"{len(pickles)} members named data.pkl, want 1")
    folder = pickles[0].removesuffix("data.pkl")
    order = archive.read(f"{folder}byteorder") if f"{folder}byteorder" in members else b"little"
    if order.strip() != b"little":
        raise ValueError(
            f"{path} was written on a big-endian machine: save it on a little-endian one"
        )
    mapped = np.memmap(path, mode="r", dtype=np.uint8)

    def storage(dtype: np.dtype, key: str) -> np.ndarray:
        info = members[f"{folder}data/{key}"]
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(
                f"{path}: member {info.filename} is compressed; PyTorch stores it plain"
            )
        header = mapped[info.header_offset : info.header_offset + LOCAL_HEADER_BYTES].tobytes()
        name_bytes, extra_bytes = struct.unpack("<26xHH", header)
        start = info.header_offset + LOCAL_HEADER_BYTES + name_bytes + extra_bytes
        count = info.file_size // dtype.itemsize
        return mapped[start : start + count * dtype.itemsize].view(dtype)

    with archive.open(pickles[0]) as file:
        return _InertUnpickler(file, storage).load()


class _Inert:
    """Stands in for every class and function that is not needed: takes anything, does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __call__(self, *args: Any, **kwargs: Any) -> "_Inert":
        return self

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None:
        """Ignored."""

    def extend(self, values: Any) -> None:
        """Ignored."""


class _StorageType:
    """A torch storage class named in the pickle, as its dtype."""

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype


class _InertUnpickler(pickle.Unpickler):
    """Builds dictionaries and tensors; every other name resolves to `_Inert`."""

    def __init__(self, file: Any, storage: Any) -> None:
        super().__init__(file)
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name in STORAGE_DTYPES:
            return _StorageType(STORAGE_DTYPES[name])
        return _Inert

    def persistent_load(self, pid: Any) -> Any:
        kind, storage_type, key = pid[:3]
        if kind != "storage" or not isinstance(storage_type, _StorageType):
            raise pickle.UnpicklingError(f"unknown storage {pid[:2]}")
        return self._storage(storage_type.dtype, key)


def _tensor(
    storage: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> np.ndarray:
    """A strided view of `storage`; ValueError where it would reach outside."""
    sizes = (offset, *shape, *strides)
    if len(shape) != len(strides) or not all(isinstance(n, int) and n >= 0 for n in sizes):
        raise ValueError(
            f"tensor of shape {shape}, strides {strides}, offset {offset}: want integers >= 0"
        )
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if 0 not in shape and last >= storage.size:
        raise ValueError(
            f"tensor of shape {shape} ends at element {last} of a storage of {storage.size}"
        )
    return np.lib.stride_tricks.as_strided(
        storage[offset:], shape, [step * storage.itemsize for step in strides], writeable=False
    )
