"""The safetensors reader against its library, and what it refuses."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from lumina_jax.convert.byte_source import open_source
from lumina_jax.convert.safetensors_file import DTYPES, INDEX, open_folder, open_safetensors

HALVES = {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}
BYTES = {"dtype": "U8", "shape": [2, 2], "data_offsets": [6, 10]}


def write(path, header: dict | str, content: bytes = bytes(10)):
    """A file of a header and the bytes after it."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)
    return path


def test_reads_what_the_library_writes(tmp_path):
    """Every dtype that it has for numpy, scalars and empty tensors."""
    rng = np.random.default_rng(0)
    tensors = {
        str(dtype): rng.integers(0, 2, (3, 2)).astype(dtype)
        for code, dtype in DTYPES.items()
        if not code.startswith("F8")
    }
    tensors |= {"scalar": np.array(2.5, np.float32), "empty": np.zeros((0, 3), np.int8)}
    save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt"})
    stored = open_safetensors(open_source(tmp_path / "a.safetensors"))
    assert stored.keys() == tensors.keys()
    for name, value in tensors.items():
        got = stored[name].read()
        assert (got.dtype, got.shape, got.flags.writeable) == (value.dtype, value.shape, False)
        assert got.tobytes() == value.tobytes() and stored[name].nbytes == value.nbytes


def test_eight_bit_floats_are_read(tmp_path):
    """The library has no numpy dtype for them."""
    header = {"a": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}
    path = write(tmp_path / "a", header, np.array([1.5, -2], ml_dtypes.float8_e4m3fn).tobytes())
    assert open_safetensors(open_source(path))["a"].read().astype(float).tolist() == [1.5, -2]


def test_header_may_end_with_spaces(tmp_path):
    """The library fills it up to a multiple of eight."""
    header = json.dumps({"a": HALVES, "b": BYTES, "__metadata__": {"format": "pt"}})
    assert len(open_safetensors(open_source(write(tmp_path / "a", header + "   ")))) == 2


REFUSED = {
    "hole": ({"a": HALVES, "b": BYTES | {"data_offsets": [7, 11]}}, "starts at byte 7"),
    "overlap": ({"a": HALVES, "b": BYTES | {"data_offsets": [5, 9]}}, "starts at byte 5"),
    "not covered": ({"a": HALVES}, "not fully covered"),
    "beyond the file": (
        {"a": HALVES, "b": BYTES, "c": BYTES | {"data_offsets": [10, 14]}},
        "the file has",
    ),
    "too few bytes": ({"a": HALVES, "b": BYTES | {"shape": [2, 3]}}, "ask for 6"),
    "unknown dtype": ({"a": HALVES | {"dtype": "C64"}}, "the dtype 'C64'"),
    "dtype that is no text": ({"a": HALVES | {"dtype": ["F32"]}}, "the dtype"),
    "negative length": ({"a": HALVES | {"shape": [-3]}}, "no whole number"),
    "length that is a float": ({"a": HALVES | {"shape": [3.0]}}, "no whole number"),
    "length that is a bool": ({"a": HALVES | {"shape": [3, True]}}, "no whole number"),
    "overflow": ({"a": HALVES | {"shape": [2**40, 2**40, 0]}}, "more than"),
    "many axes": ({"a": HALVES | {"shape": [1] * 40}}, "40 axes"),
    "three offsets": ({"a": HALVES | {"data_offsets": [0, 6, 6]}}, "no lists of numbers"),
    "backwards": ({"a": HALVES | {"data_offsets": [6, 0]}}, "-6 bytes"),
    "another field": ({"a": HALVES | {"more": 1}}, "more than these"),
    "a list": ({"a": []}, "no dtype"),
    "metadata": ({"a": HALVES, "b": BYTES, "__metadata__": {"n": 1}}, "no object of texts"),
    "key twice": ('{"a": 1, "a": 1}', "a key twice"),
    "NaN": ('{"a": NaN}', "number NaN"),
    "deep": ('{"a": ' + "[" * 100_000, "JSON is damaged"),
    "cut JSON": ('{"a": ', "JSON is damaged"),
    "no brace": ('["a"]', "brace"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_broken_header_is_refused(tmp_path, case):
    header, reason = REFUSED[case]
    with pytest.raises(ValueError, match=reason) as error:
        open_safetensors(open_source(write(tmp_path / "a", header)))
    assert str(error.value).startswith(f"{tmp_path / 'a'} is not a whole safetensors file (")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", [b"", b"1234567", struct.pack("<Q", 2**63) + b"{}", struct.pack("<Q", 9) + b"{}"]
)
def test_cut_file_is_refused(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        open_safetensors(open_source(tmp_path / "a"))


@pytest.fixture
def folder(tmp_path):
    """Two shards and their index."""
    save_file({"a": np.arange(3.0)}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"b": np.arange(4.0)}, tmp_path / "model-00002-of-00002.safetensors")
    weight_map = {name: f"model-0000{i}-of-00002.safetensors" for i, name in enumerate("ab", 1)}
    (tmp_path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return tmp_path


def reindex(folder, **changes: str) -> None:
    """Changes the index; an empty name takes a key out."""
    index = json.loads((folder / INDEX).read_text())
    weight_map = index["weight_map"] | changes
    index["weight_map"] = {key: name for key, name in weight_map.items() if name}
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize("has_index", [True, False])
def test_folder_gives_the_tensors_of_all_shards(folder, has_index):
    if not has_index:
        (folder / INDEX).unlink()
    assert {name: stored.read().size for name, stored in open_folder(folder).items()} == {
        "a": 3,
        "b": 4,
    }


def test_folder_with_an_index_ignores_files_that_it_does_not_list(folder):
    """As of another precision beside it."""
    save_file({"a": np.zeros(9)}, folder / "other.safetensors")
    assert open_folder(folder)["a"].shape == (3,)


BROKEN_FOLDERS = {
    "a shard is missing": (
        lambda folder: (folder / "model-00002-of-00002.safetensors").unlink(),
        FileNotFoundError,
        r"model-00002-of-00002\.safetensors is missing",
    ),
    "a shard is missing and no index": (
        lambda folder: [
            (folder / name).unlink() for name in (INDEX, "model-00002-of-00002.safetensors")
        ],
        ValueError,
        "has 1 files of a series",
    ),
    "a key is in no file": (
        lambda folder: reindex(folder, c="model-00001-of-00002.safetensors"),
        ValueError,
        "lacks 'c'",
    ),
    "a key is not listed": (
        lambda folder: save_file(
            {"b": np.zeros(1), "d": np.zeros(1)}, folder / "model-00002-of-00002.safetensors"
        ),
        ValueError,
        "has, unlisted, 'd'",
    ),
    "a way out": (lambda folder: reindex(folder, a="../a.safetensors"), ValueError, "want a \\*"),
    "no JSON": (lambda folder: (folder / INDEX).write_text("{"), ValueError, "cannot be read"),
    "no map": (lambda folder: (folder / INDEX).write_text("{}"), ValueError, "no weight_map"),
    "a key in two files": (
        lambda folder: [
            save_file({"a": np.zeros(1)}, folder / "x.safetensors"),
            (folder / INDEX).unlink(),
        ],
        ValueError,
        "'a' is in .* and in ",
    ),
    "nothing": (
        lambda folder: [path.unlink() for path in folder.iterdir()],
        FileNotFoundError,
        r"no \*\.safetensors",
    ),
}


@pytest.mark.parametrize("case", BROKEN_FOLDERS)
def test_folder_that_contradicts_itself_is_refused(folder, case):
    change, kind, reason = BROKEN_FOLDERS[case]
    change(folder)
    with pytest.raises(kind, match=reason):
        open_folder(folder)
