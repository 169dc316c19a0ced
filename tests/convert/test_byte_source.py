"""Ranges of bytes, from a disk and from something that is fetched piece by piece."""

import io

import numpy as np
import pytest

from lumina_jax.convert import tensor_files
from lumina_jax.convert.byte_source import LocalSource, RemoteSource, open_source
from lumina_jax.convert.pth import open_pth
from lumina_jax.convert.safetensors_file import open_safetensors
from lumina_jax.convert.write_tensors import write_pth, write_safetensors

VALUES = {
    "small": np.arange(6, dtype=np.float32).reshape(2, 3),
    "large": np.arange(2**18, dtype=np.int32),
}
ENTRIES = {name: (value.shape, value.dtype) for name, value in VALUES.items()}


class Counted(io.BytesIO):
    """A seekable file that counts what is fetched, a thousand bytes at most at once."""

    fetched = 0

    def read(self, size: int | None = -1) -> bytes:
        """As of a connection that gives what it has."""
        piece = super().read(min(size or 0, 100_000))
        self.fetched += len(piece)
        return piece


def test_local_read_is_a_read_only_view(tmp_path):
    """Two reads give the same memory."""
    (tmp_path / "a").write_bytes(b"0123456789")
    source = open_source(tmp_path / "a")
    first, second = source.read(2, 6), source.read(2, 6)
    assert first.tobytes() == b"2345" and not first.flags.writeable
    assert first.ctypes.data == second.ctypes.data


@pytest.mark.parametrize("kind", [LocalSource, lambda path: RemoteSource("a", path.open("rb"))])
@pytest.mark.parametrize("range_", [(0, 11), (-1, 3), (5, 4)])
def test_read_refuses_ranges_outside_the_file(tmp_path, kind, range_):
    (tmp_path / "a").write_bytes(b"0123456789")
    with pytest.raises(ValueError, match="has 10 bytes"):
        kind(tmp_path / "a").read(*range_)


def test_remote_file_that_shrank_is_reported():
    """Opened with ten bytes, cut to five."""
    file = io.BytesIO(b"0123456789")
    source = RemoteSource("gs://bucket/a", file)
    file.truncate(5)
    with pytest.raises(ValueError, match=r"gs://bucket/a ended 2 bytes early"):
        source.read(3, 7)


@pytest.mark.parametrize(
    ("write", "open_"), [(write_pth, open_pth), (write_safetensors, open_safetensors)]
)
def test_remote_tensor_costs_little_more_than_its_bytes(tmp_path, write, open_):
    """The header first, then only the asked tensor."""
    write(tmp_path / "a", ENTRIES, VALUES.__getitem__)
    file = Counted((tmp_path / "a").read_bytes())
    stored = open_(RemoteSource("gs://bucket/a", file))
    opened = file.fetched
    np.testing.assert_array_equal(stored["small"].read(), VALUES["small"])
    assert opened < 3000 and file.fetched - opened < 200
    np.testing.assert_array_equal(stored["large"].read(), VALUES["large"])
    assert file.fetched - opened < VALUES["large"].nbytes + 400


def test_ranges_of_an_object_are_read_exactly(tmp_path, fake_gcs):
    """No more of a file in a bucket than its header and the tensor that is asked for."""
    write_safetensors(tmp_path / "a", ENTRIES, VALUES.__getitem__)
    fake_gcs.put("a", (tmp_path / "a").read_bytes())
    stored = tensor_files.open_tensors(f"{fake_gcs.url}/a")
    assert stored["small"].where == f"{fake_gcs.url}/a"
    before = fake_gcs.bytes_read
    np.testing.assert_array_equal(stored["small"].read(), VALUES["small"])
    assert fake_gcs.bytes_read - before == VALUES["small"].nbytes


def test_missing_object_is_named(fake_gcs):
    with pytest.raises(FileNotFoundError, match=f"{fake_gcs.url}/nowhere does not exist"):
        open_source(f"{fake_gcs.url}/nowhere")


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is not a file"):
        open_source(tmp_path)
