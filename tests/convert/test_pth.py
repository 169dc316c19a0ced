"""The torch-free .pth reader: exact on real files, harmless and clear on broken ones."""

import pickle
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from lumina_jax.convert.pth import read_pth


def write_pth(path: Path, root: bytes, storages: dict[str, bytes]) -> Path:
    """A PyTorch zip checkpoint from a pickle and raw storages."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", root)
        archive.writestr("model/byteorder", "little")
        for key, content in storages.items():
            archive.writestr(f"model/data/{key}", content)
    return path


def tensor_pickle(key: str, shape: tuple, strides: tuple, offset: int = 0) -> bytes:
    """The pickle of {key: a bfloat16 tensor of storage "0"}, opcode by opcode as torch writes it."""

    def number(n: int) -> bytes:
        return b"J" + int(n).to_bytes(4, "little", signed=True)

    def text(value: str) -> bytes:
        return b"X" + len(value).to_bytes(4, "little") + value.encode()

    def numbers(values: tuple) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    pid = b"(" + text("storage") + b"ctorch\nBFloat16Storage\n" + text("0") + text("cpu")
    storage = pid + number(6) + b"tQ"
    arguments = b"(" + storage + number(offset) + numbers(shape) + numbers(strides) + b"\x89Nt"
    return b"\x80\x02}" + text(key) + b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs."


STORAGE = np.arange(6, dtype=ml_dtypes.bfloat16)


def test_read_pth_follows_strides_and_offset(tmp_path):
    """A transposed view: element (i, j) lies at i + 3 j."""
    path = write_pth(
        tmp_path / "a.pth", tensor_pickle("w", (3, 2), (1, 3)), {"0": STORAGE.tobytes()}
    )
    got = read_pth(path)["w"]
    assert got.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(np.float32(got), [[0, 3], [1, 4], [2, 5]])


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [((3, 3), (3, 1), 0), ((6,), (1,), 1), ((2,), (-1,), 3), ((2,), (1,), -1)],
)
def test_read_pth_refuses_tensors_outside_their_storage(tmp_path, shape, strides, offset):
    """Too long, moved too far, or counting backwards."""
    root = tensor_pickle("w", shape, strides, offset)
    path = write_pth(tmp_path / "a.pth", root, {"0": STORAGE.tobytes()})
    with pytest.raises(ValueError, match="tensor of shape|no whole number"):
        read_pth(path)


def test_read_pth_runs_nothing(tmp_path):
    """A pickle that would write a file when loaded leaves no trace; its tensors are still read."""
    target = tmp_path / "written"

    class Harmful:
        def __reduce__(self):
            return (Path.write_text, (target, "harm"))

    harm = pickle.dumps({"harm": Harmful()}, protocol=2)[:-1]
    tensors = tensor_pickle("w", (6,), (1,))[2:]
    root = harm + b"0" + tensors  # pops the first dictionary, then builds the second
    path = write_pth(tmp_path / "a.pth", root, {"0": STORAGE.tobytes()})
    assert list(read_pth(path)) == ["w"]
    assert not target.exists()


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_read_pth_reports_a_cut_file(tmp_path, keep):
    """Empty, cut early, cut by one byte."""
    path = write_pth(tmp_path / "a.pth", tensor_pickle("w", (6,), (1,)), {"0": STORAGE.tobytes()})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="not a whole PyTorch zip checkpoint"):
        read_pth(path)


def test_read_pth_reports_a_file_without_tensors(tmp_path):
    """A dictionary of numbers is no state dictionary."""
    path = write_pth(tmp_path / "a.pth", pickle.dumps({"step": 3}, protocol=2), {})
    with pytest.raises(ValueError, match=r"holds no tensors.*step"):
        read_pth(path)


def test_read_pth_of_a_missing_file(tmp_path):
    """The path is in the error."""
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_pth(tmp_path / "nowhere.pth")
