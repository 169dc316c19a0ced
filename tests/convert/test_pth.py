"""The torch-free .pth reader: exact on real files, harmless and clear on broken ones."""

import pickle
import time
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from lumina_jax.convert.byte_source import open_source
from lumina_jax.convert.pth import LEGACY_START, open_pth, read_pth


def write_pth(path: Path, root: bytes, storages: dict[str, bytes]) -> Path:
    """A PyTorch zip checkpoint from a pickle and raw storages."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", root)
        archive.writestr("model/byteorder", "little")
        for key, content in storages.items():
            archive.writestr(f"model/data/{key}", content)
    return path


def tensor_pickle(
    key: str,
    shape: tuple,
    strides: tuple,
    offset: int = 0,
    kind: str = "BFloat16Storage",
    rebuild: str = "_rebuild_tensor_v2",
    count: int = 6,
) -> bytes:
    """The pickle of {key: a tensor of storage "0"}, opcode by opcode as torch writes it."""

    def number(n: int) -> bytes:
        return b"J" + int(n).to_bytes(4, "little", signed=True)

    def text(value: str) -> bytes:
        return b"X" + len(value).to_bytes(4, "little") + value.encode()

    def numbers(values: tuple) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    pid = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text("0") + text("cpu")
    storage = pid + number(count) + b"tQ"
    arguments = b"(" + storage + number(offset) + numbers(shape) + numbers(strides) + b"\x89Nt"
    return b"\x80\x02}" + text(key) + f"ctorch._utils\n{rebuild}\n".encode() + arguments + b"Rs."


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


def test_open_pth_reads_no_tensor_before_it_is_asked_for(tmp_path):
    """Shape, dtype and size are known; the values are read-only."""
    root = tensor_pickle("w", (3, 2), (1, 3))
    stored = open_pth(open_source(write_pth(tmp_path / "a.pth", root, {"0": STORAGE.tobytes()})))
    assert (stored["w"].shape, stored["w"].dtype, stored["w"].nbytes) == ((3, 2), STORAGE.dtype, 12)
    assert not stored["w"].read().flags.writeable


def test_open_pth_compares_checksums_unless_told_otherwise(tmp_path):
    """One bit of a storage."""
    root = tensor_pickle("w", (6,), (1,))
    path = write_pth(tmp_path / "a.pth", root, {"0": STORAGE.tobytes()})
    content = bytearray(path.read_bytes())
    content[content.index(STORAGE.tobytes()) + 5] ^= 1
    path.write_bytes(content)
    stored = open_pth(open_source(path))["w"]
    with pytest.raises(ValueError, match=r"a\.pth is damaged: the CRC-32 of 'model/data/0'"):
        stored.read()
    assert stored.read(verify=False).shape == (6,)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"kind": "ComplexFloatStorage"}, "dtype 'torch.ComplexFloatStorage'"),
        ({"kind": "QInt8Storage"}, "dtype 'torch.QInt8Storage'"),
        ({"rebuild": "_rebuild_sparse_tensor"}, "only dense tensors"),
        ({"rebuild": "_rebuild_qtensor"}, "only dense tensors"),
        ({"count": 7}, "12 bytes, 14 are announced"),
        ({"count": -1}, "no whole number"),
        ({"kind": "UntypedStorage", "count": 12}, "dtype 'None'"),
    ],
)
def test_open_pth_names_the_key_of_a_tensor_of_another_kind(tmp_path, options, reason):
    root = tensor_pickle("layer.w", (6,), (1,), **options)
    path = write_pth(tmp_path / "a.pth", root, {"0": STORAGE.tobytes()})
    with pytest.raises(ValueError, match=rf"a\.pth: 'layer.w' cannot be read: .*{reason}"):
        read_pth(path)


@pytest.mark.parametrize(
    ("shape", "strides", "reason"),
    [
        ((7,), (0,), "repeats"),
        ((2**31 - 1,) * 33, (0,) * 33, "33 axes"),
        ((2**31 - 1,) * 3, (0,) * 3, "more than"),
        ((2**31 - 1,) * 3 + (0,), (0,) * 4, "more than"),
        ((2, 3), (3,), "two tuples of one length"),
    ],
)
def test_open_pth_refuses_shapes_that_ask_for_more_than_the_file(tmp_path, shape, strides, reason):
    """A stride of 0 repeats an element: a copy would be of any size."""
    path = write_pth(
        tmp_path / "a.pth", tensor_pickle("w", shape, strides), {"0": STORAGE.tobytes()}
    )
    with pytest.raises(ValueError, match=reason):
        read_pth(path)


W = tensor_pickle("w", (6,), (1,))[2:-1]  # a dictionary without start and end
V = tensor_pickle("v", (6,), (1,))[2:-1]


def nested(**parts: bytes) -> bytes:
    """The pickle of a dictionary of dictionaries."""
    items = [b"X" + len(k).to_bytes(4, "little") + k.encode() + part for k, part in parts.items()]
    return b"\x80\x02}(" + b"".join(items) + b"u."


@pytest.mark.parametrize(
    "root",
    [
        nested(state_dict=W, optimizer=V, epoch=b"K\x03"),
        nested(model=W, epoch=b"K\x03", rest=b"}"),
        nested(checkpoint=nested(model=W)[2:-1]),
    ],
    ids=["Lightning", "one", "two deep"],
)
def test_read_pth_finds_the_dictionary_of_tensors(tmp_path, root):
    path = write_pth(tmp_path / "a.pth", root, {"0": STORAGE.tobytes()})
    assert list(read_pth(path)) == ["w"]


def test_read_pth_names_the_dictionaries_that_it_cannot_choose_from(tmp_path):
    root = nested(model=W, ema=V)
    path = write_pth(tmp_path / "a.pth", root, {"0": STORAGE.tobytes()})
    with pytest.raises(ValueError, match=r"in 2 dictionaries, \['model', 'ema'\]"):
        read_pth(path)


def test_read_pth_walks_shared_dictionaries_once(tmp_path):
    """Two hundred names for a dictionary of two hundred names for one of two thousand: 80 million steps."""
    inner = dict.fromkeys(map(str, range(2000)), 0)
    middle = dict.fromkeys(map(str, range(200)), inner)
    root = dict.fromkeys(map(str, range(200)), middle)
    path = write_pth(tmp_path / "a.pth", pickle.dumps(root, protocol=2), {})
    start = time.process_time()
    with pytest.raises(ValueError, match="holds no tensors"):
        read_pth(path)
    assert time.process_time() - start < 5


def test_read_pth_refuses_a_whole_module(tmp_path):
    """As torch.save(model) writes it."""
    root = b"\x80\x02ctorch.nn.modules.linear\nLinear\n)\x81}b."
    with pytest.raises(ValueError, match=r"holds a 'torch\.nn\.modules\.linear\.Linear'"):
        read_pth(write_pth(tmp_path / "a.pth", root, {}))


SHARED_TUPLES = b"Nq\x00" + b"0h\x00h\x00\x86q\x00" * 24  # 2^24 times None, were they printed
DOUBLED = b"cos\nsystem\n" + SHARED_TUPLES + b"\x85R"
UNTYPED = tensor_pickle(
    "w", (6,), (1,), kind="UntypedStorage", rebuild="_rebuild_tensor_v3", count=12
)
BOMBS = {
    "a call of a doubled call": nested(w=DOUBLED + b")R"),
    "a root that calls a doubled call": b"\x80\x02" + DOUBLED + b")R.",
    "a chain of calls": nested(w=b"cos\nsystem\n" + b")R" * 3000),
    "a root that is a chain of calls": b"\x80\x02cos\nsystem\n" + b")R" * 3000 + b".",
    "a doubled dtype": UNTYPED.replace(b"\x89Nt", b"\x89N" + SHARED_TUPLES + b"t"),
}


@pytest.mark.parametrize("root", BOMBS.values(), ids=BOMBS)
def test_read_pth_does_not_print_what_the_file_can_multiply(tmp_path, root):
    """A few hundred bytes that would be a text of 100 MB, or one nested too deep for Python."""
    path = write_pth(tmp_path / "a.pth", root, {"0": STORAGE.tobytes()})
    start = time.process_time()
    with pytest.raises(ValueError, match=r"a call of a Call|the dtype 'tuple'"):
        read_pth(path)
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (LEGACY_START + bytes(100), "before torch 1.6"),
        (bytes(257) + b"ustar\x0000" + bytes(1000), "a tar archive, torch's first format"),
    ],
)
def test_read_pth_says_which_old_format_it_is(tmp_path, content, reason):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        read_pth(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("other/data.pkl", b"", "2 members are named data.pkl"),
        ("model/constants.pkl", b"", "TorchScript"),
        ("model/code/a.py", b"", "TorchScript"),
        ("model/byteorder", b"big", "byte order is b'big'"),
    ],
)
def test_read_pth_refuses_other_archives(tmp_path, name, content, reason):
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("model/data.pkl", tensor_pickle("w", (6,), (1,)))
        archive.writestr("model/data/0", STORAGE.tobytes())
        archive.writestr(name, content)
    with pytest.raises(ValueError, match=reason):
        read_pth(tmp_path / "a.pth")
