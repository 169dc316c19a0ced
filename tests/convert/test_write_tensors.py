"""Written weights are read back equal, by us and by the formats' own readers, and are whole or not there."""

import json
import zipfile

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

from lumina_jax.convert.tensor_files import open_folder, open_source, open_tensors
from lumina_jax.convert.write_tensors import write_folder, write_pth, write_safetensors
from lumina_jax.convert.zip_members import ZipMembers

RNG = np.random.default_rng(0)
VALUES = {
    "odd": RNG.normal(size=7).astype(ml_dtypes.bfloat16),
    "a.b": RNG.normal(size=(3, 5, 2)).astype(np.float32),
    "strided": RNG.normal(size=(4, 6)).astype(np.float16).T,
    "scalar": np.array(-3, np.int64),
    "empty": np.zeros((0, 4), np.float64),
    "bools": np.array([True, False, True]),
    "ü": np.arange(5, dtype=np.uint8),
}
MORE = {"f8": np.arange(6).astype(ml_dtypes.float8_e4m3fn), "u16": np.arange(3, dtype=np.uint16)}
WRITERS = [write_safetensors, write_pth]


def entries(values: dict[str, np.ndarray]) -> dict:
    """Shape and dtype of each."""
    return {name: (value.shape, value.dtype) for name, value in values.items()}


@pytest.mark.parametrize("write", WRITERS)
def test_written_tensors_are_read_back_bit_for_bit(tmp_path, write):
    """The name of the file says nothing of its format."""
    values = VALUES | MORE
    write(tmp_path / "a.bin", entries(values), values.__getitem__)
    stored = open_tensors(tmp_path / "a.bin")
    assert {k: (s.shape, s.dtype) for k, s in stored.items()} == entries(values)
    for name, value in values.items():
        assert stored[name].read().tobytes() == value.tobytes(), name


def test_library_reads_written_safetensors(tmp_path):
    write_safetensors(tmp_path / "a", entries(VALUES), VALUES.__getitem__)
    with safe_open(tmp_path / "a", framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}
        for name in file.keys():
            np.testing.assert_array_equal(file.get_tensor(name), VALUES[name], strict=True)


def test_safetensors_are_aligned(tmp_path):
    """bfloat16 of odd length comes first in the entries, not in the file."""
    write_safetensors(tmp_path / "a", entries(VALUES), VALUES.__getitem__)
    for stored in open_tensors(tmp_path / "a").values():
        assert stored.read().flags.aligned


def test_pth_is_a_sound_zip_of_aligned_members(tmp_path):
    """zipfile recomputes every checksum."""
    write_pth(tmp_path / "a.pth", entries(VALUES), VALUES.__getitem__)
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        assert archive.testzip() is None
        assert archive.read("archive/byteorder") == b"little"
        assert archive.read("archive/version") == b"3\n"
    members = ZipMembers(open_source(tmp_path / "a.pth"))
    assert [members._locate(member) % 64 for member in members.members.values()] == [0] * 10


def test_large_members_are_aligned_too(tmp_path, monkeypatch):
    """Their headers have room for 64-bit lengths."""
    monkeypatch.setattr("lumina_jax.convert.write_tensors.MAX_PLAIN_BYTES", 20)
    write_pth(tmp_path / "a.pth", entries(VALUES), VALUES.__getitem__)
    members = ZipMembers(open_source(tmp_path / "a.pth"))
    assert {members._locate(member) % 64 for member in members.members.values()} == {0}
    np.testing.assert_array_equal(open_tensors(tmp_path / "a.pth")["a.b"].read(), VALUES["a.b"])


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("existing", [None, b"before"])
def test_failed_write_leaves_what_was_there(tmp_path, write, existing):
    """The second tensor cannot be read."""
    if existing:
        (tmp_path / "a").write_bytes(existing)

    def read(name: str) -> np.ndarray:
        if name != "odd":
            raise OSError("gone")
        return VALUES[name]

    with pytest.raises(OSError, match="gone"):
        write(tmp_path / "a", entries(VALUES), read)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == (
        [("a", existing)] if existing else []
    )


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    "value", [np.zeros(6, ml_dtypes.bfloat16), np.zeros(7, np.float16)], ids=["shape", "dtype"]
)
def test_values_that_were_not_announced_are_refused(tmp_path, write, value):
    with pytest.raises(ValueError, match=r"'odd' is .* bfloat16\[7\] was announced"):
        write(tmp_path / "a", {"odd": ((7,), VALUES["odd"].dtype)}, lambda name: value)


@pytest.mark.parametrize("write", WRITERS)
def test_unknown_dtypes_and_nothing_at_all_are_refused(tmp_path, write):
    with pytest.raises(ValueError, match="'c' has dtype complex64, want one of"):
        write(tmp_path / "a", {"c": ((1,), np.dtype(np.complex64))}, VALUES.__getitem__)
    with pytest.raises(ValueError, match="no tensors to write"):
        write(tmp_path / "a", {}, VALUES.__getitem__)
    with pytest.raises(ValueError, match="locally only"):
        write("gs://bucket/a", entries(VALUES), VALUES.__getitem__)


def test_folder_is_cut_into_shards_with_an_index(tmp_path):
    """At most 70 bytes each, but for a tensor that is larger."""
    paths = write_folder(tmp_path / "new", entries(VALUES), VALUES.__getitem__, 70)
    names = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert [path.name for path in paths] == [*names, "model.safetensors.index.json"]
    index = json.loads(paths[-1].read_text())
    assert index["metadata"] == {"total_size": sum(v.nbytes for v in VALUES.values())}
    assert index["weight_map"]["odd"] == names[0] and index["weight_map"]["a.b"] == names[1]
    stored = open_folder(tmp_path / "new")
    assert {k: s.read().tobytes() for k, s in stored.items()} == {
        k: v.tobytes() for k, v in VALUES.items()
    }


def test_small_folder_is_one_file(tmp_path):
    paths = write_folder(tmp_path, entries(VALUES), VALUES.__getitem__)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"] == [paths[0].name]


def test_folder_with_weights_is_not_written_into(tmp_path):
    """Shards of two models would be mixed."""
    (tmp_path / "model-00001-of-00009.safetensors").touch()
    with pytest.raises(ValueError, match=r"already holds model-00001-of-00009\.safetensors"):
        write_folder(tmp_path, entries(VALUES), VALUES.__getitem__)
