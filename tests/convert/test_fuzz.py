"""Mutated weight files: the same tensors, or one clear line; never another exception, a hang or much memory.

`make fuzz` spends FUZZ_SECONDS on new mutations; the tests repeat the same few hundred.
"""

import io
import json
import os
import resource
import struct
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from lumina_jax.convert.tensor_files import open_tensors
from lumina_jax.convert.write_tensors import write_pth, write_safetensors
from tests.convert.pipe import Pipe

EXAMPLES = 80  # of each kind in `make test`
BATCH = 200  # between looks at the clock in `make fuzz`
MOST_SECONDS, MOST_KB = 60, 200 * 2**10  # for one file; for all
NUMBERS = [0, 1, 2, 3, 7, 8, 64, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1]
NUMBERS += [2**48, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
OPCODES = (
    b"().0RQNKMJ\x8a\x8bX\x8c\x8d]}esutabch jq\x85\x86\x87\x88\x89\x93\x94\x95\x81\x82VILFGSTUd2or"
)
VALUES = {
    "a": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.arange(5).astype(ml_dtypes.bfloat16),
    "c": np.array(7, np.int64),
    "d": np.zeros((0, 2), np.float16),
}
ENTRIES = {name: (value.shape, value.dtype) for name, value in VALUES.items()}

Edit = Callable[[bytes], bytes]


def written(write: Callable, **options) -> bytes:
    """The bytes of a file with VALUES."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        write(path, ENTRIES, VALUES.__getitem__, **options)
        return path.read_bytes()


def members(content: bytes) -> dict[str, bytes]:
    """What is in a zip."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(parts: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip with right checksums, its lengths behind the members."""
    file = Pipe()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in parts:
            archive.writestr(name, content)
    return file.getvalue()


DOUBLED = (
    b"Nr\0\0\1\0" + b"0j\0\0\1\0j\0\0\1\0\x86r\0\0\1\0" * 40
)  # 2^40 times None, were it walked
CALLED = b"cos\nsystem\n" + DOUBLED + b"\x85R"
NAMED = b"ctorch._utils\n_rebuild_tensor_v3\n"
SHAPES = [DOUBLED, CALLED, CALLED + b")R", b"cos\nsystem\n" + b")R" * 3000, NAMED + b")R", NAMED]
SHAPES += [b"N" + b"\x85" * 3000, NAMED + DOUBLED + b"\x85R", b"c__builtin__\ngetattr\n" + NAMED]

PTH = written(write_pth)
STREAMED_PTH = zipped(list(members(PTH).items()))
SAFETENSORS = written(write_safetensors)

number = st.sampled_from(NUMBERS) | st.integers(0, 2**64 - 1)
place = st.integers(0, 2**20)


@st.composite
def byte_edits(draw, alphabet: bytes = bytes(range(256))) -> Edit:
    """Changes a byte, overwrites with a number, inserts, removes, repeats, or cuts off."""
    kind = draw(st.sampled_from(["flip", "set", "number", "insert", "remove", "repeat", "cut"]))
    at, width = draw(place), draw(st.sampled_from([1, 2, 4, 8]))
    length = draw(st.integers(1, 40))
    given_bytes = bytes(draw(st.lists(st.sampled_from(alphabet), min_size=1, max_size=8)))
    value = (draw(number) % 256**width).to_bytes(width, "little")

    def edit(content: bytes) -> bytes:
        if not content:
            return content
        i = at % len(content)
        head, tail = content[:i], content[i:]
        return {
            "flip": head + bytes([tail[0] ^ 1 << length % 8]) + tail[1:],
            "set": head + given_bytes[:1] + tail[1:],
            "number": head + value + tail[width:],
            "insert": head + given_bytes + tail,
            "remove": head + tail[length:],
            "repeat": head + tail[:length] + tail,
            "cut": head,
        }[kind]

    return edit


@st.composite
def grafts(draw) -> Edit:
    """Puts a shared, deep or called value in the place of a tensor, None, False, a tuple or a storage."""
    at, value = draw(place), draw(st.sampled_from(SHAPES))
    last = draw(st.sampled_from(list(b"RRRN\x89tQ)")))  # the opcode that makes what is replaced

    def edit(content: bytes) -> bytes:
        ends = [i + 1 for i, byte in enumerate(content) if byte == last] or [0]
        i = ends[at % len(ends)]
        return content[:i] + b"0" + value + content[i:]

    return edit


@st.composite
def grafted(draw) -> bytes:
    """A .pth that is whole but for one or two values of its pickle."""
    parts = members(PTH)
    name = next(iter(parts))
    for edit in draw(st.lists(grafts(), min_size=1, max_size=2)):
        parts[name] = edit(parts[name])
    return zipped(list(parts.items()))


@st.composite
def archives(draw) -> bytes:
    """A .pth of well-formed zip whose pickle, storages or members were changed."""
    parts = list(members(draw(st.sampled_from([PTH, STREAMED_PTH]))).items())
    for edit in draw(st.lists(byte_edits(OPCODES) | byte_edits(), max_size=3)):
        parts[0] = (parts[0][0], edit(parts[0][1]))
    index, (name, content) = draw(st.sampled_from(list(enumerate(parts))))
    change = draw(st.sampled_from(["nothing", "nothing", "drop", "double", "rename", "edit"]))
    if change == "drop":
        del parts[index]
    elif change == "double":
        parts.append((name, content))
    elif change == "rename":
        parts[index] = (draw(st.sampled_from([f"x{name}", f"x/{name}", "x/data.pkl"])), content)
    elif change == "edit":
        parts[index] = (name, draw(byte_edits())(content))
    method = draw(st.sampled_from([zipfile.ZIP_STORED] * 9 + [zipfile.ZIP_DEFLATED]))
    return zipped(parts, method)


@st.composite
def headers(draw) -> bytes:
    """A .safetensors whose header was changed as JSON, its length right."""
    (length,) = struct.unpack_from("<Q", SAFETENSORS)
    header = json.loads(SAFETENSORS[8 : 8 + length])
    for _ in range(draw(st.integers(1, 3))):
        key = draw(st.sampled_from([*VALUES, "__metadata__", "new"]))
        field = draw(st.sampled_from(["dtype", "shape", "data_offsets", "other", None]))
        value = draw(
            st.sampled_from(
                ["F32", "F16", "BF16", "I64", "C64", "U8", "BOOL", None, True, {}, [], -1, 1.0]
            )
            | st.lists(number | st.integers(-2, 60) | st.sampled_from([True, 1.0, "1"]), max_size=4)
        )
        if field is None:
            header[key] = value
        elif isinstance(header.get(key), dict):
            header[key][field] = value
    text = json.dumps(header).encode()
    for edit in draw(st.lists(byte_edits(b'{}[]",:0123456789-.eE NaIn\\u'), max_size=2)):
        text = edit(text)
    return struct.pack("<Q", len(text)) + text + SAFETENSORS[8 + length :]


@st.composite
def damaged(draw, *originals: bytes) -> bytes:
    """A file of which some bytes were changed."""
    content = draw(st.sampled_from(originals))
    for edit in draw(st.lists(byte_edits(), min_size=1, max_size=3)):
        content = edit(content)
    return content


def outcome(content: bytes, folder: Path) -> dict[str, np.ndarray] | None:
    """The tensors of a file, or None where it is refused as it should be."""
    path = folder / "mutated"
    path.write_bytes(content)
    start = time.monotonic()
    try:
        return {name: stored.read() for name, stored in open_tensors(path).items()}
    except (ValueError, FileNotFoundError) as error:
        assert type(error) in (ValueError, FileNotFoundError), repr(error)
        assert "\n" not in str(error) and str(error).startswith(str(path)), error
        str(error).encode()  # printable everywhere
        return None
    finally:
        assert time.monotonic() - start < MOST_SECONDS


def check_unchanged(content: bytes, folder: Path) -> bool:
    """A .pth has checksums: what is read is what was written. Gives whether anything was read, as all checks do."""
    found = outcome(content, folder)
    if found is not None:
        assert {name: (v.shape, v.dtype, v.tobytes()) for name, v in found.items()} == {
            name: (v.shape, v.dtype, v.tobytes()) for name, v in VALUES.items()
        }
    return found is not None


def check_bounded(content: bytes, folder: Path) -> bool:
    """Where the checksums are right, no tensor is larger than the file."""
    found = outcome(content, folder)
    for value in (found or {}).values():
        assert value.nbytes <= len(content) and len(value.tobytes()) == value.nbytes
    return found is not None


def check_library_agrees(content: bytes, folder: Path) -> bool:
    """What we read, the format's own library reads too, and the same."""
    found = outcome(content, folder)
    if found is not None:
        theirs = {
            name: (tuple(t["shape"]), bytes(t["data"]))
            for name, t in safetensors.deserialize(content)
        }
        assert {name: (v.shape, v.tobytes()) for name, v in found.items()} == theirs
    return found is not None


KINDS = {
    "bytes of a .pth": (damaged(PTH, STREAMED_PTH), check_unchanged),
    "pickle and members of a .pth": (archives(), check_bounded),
    "values of a .pth": (grafted(), check_bounded),
    "bytes of a .safetensors": (damaged(SAFETENSORS), check_library_agrees),
    "header of a .safetensors": (headers(), check_library_agrees),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")  # that is the mutation
@pytest.mark.parametrize("kind", KINDS)
def test_mutated_file_is_read_or_refused(kind: str, tmp_path: Path, capsys):
    strategy, check = KINDS[kind]
    options = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
    seconds = float(os.environ.get("FUZZ_SECONDS", 0)) / len(KINDS)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    was_read: list[bool] = []

    def one(content: bytes) -> None:
        was_read.append(check(content, tmp_path))

    if not seconds:
        settings(max_examples=EXAMPLES, derandomize=True, **options)(given(strategy)(one))()
    while time.monotonic() - start < seconds:
        round_ = settings(max_examples=BATCH, **options)(given(strategy)(one))
        seed(time.time_ns())(round_)()
    if seconds:
        with capsys.disabled():
            print(
                f"\n{kind}: {len(was_read)} files in {seconds:.0f} s, {sum(was_read)} still readable"
            )
    assert any(was_read) and not all(was_read)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_KB


@pytest.mark.parametrize("content", [PTH, STREAMED_PTH, SAFETENSORS])
def test_what_is_mutated_is_whole(content: bytes, tmp_path: Path):
    """Else everything would be refused for nothing."""
    assert outcome(content, tmp_path) is not None
    check_unchanged(content, tmp_path)
