"""WebDataset tars: read in place, and never taken for whole where they are damaged."""

import io
import json
import re
import tarfile
from pathlib import Path

import pytest

from lumina_jax.data.pretokenize.examples import FileRange
from lumina_jax.data.pretokenize.options import SourceOptions
from lumina_jax.data.pretokenize.sources import open_source
from tests.data.pretokenize.pictures import jpeg, scene
from tests.data.pretokenize.test_sources import TALK, everything


def tar_of(path: Path, members: list[tuple[str, bytes]]) -> bytes:
    """A tar with these members, written to `path`."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path.read_bytes()


def test_webdataset_tars_are_read_in_place(tmp_path: Path):
    image, talk = jpeg(scene(0)), json.dumps(TALK).encode()
    tar_of(
        tmp_path / "0.tar",
        [
            ("a/1.jpg", image),
            ("a/1.txt", b"a dome"),
            ("a/1.cls", b"7"),
            ("a/2.png", image),
            ("a/2.json", b'{"caption": ["x", "y"]}'),
            ("3.txt", b"none"),
            ("6.jpg", image),
            ("6.txt", b"a ring"),
            ("6.json", b'{"similarity": NaN}'),  # as img2dataset writes it
            ("7.jpg", image),
            ("7.txt", b"a ring"),
            ("7.json", b'{"conversations": NaN}'),
        ],
    )
    whole = tar_of(tmp_path / "1.tar", [("4.json", talk), ("4.jpg", image), ("5.jpg", image)])
    source = open_source(tmp_path, SourceOptions())
    first, second = tmp_path / "0.tar", tmp_path / "1.tar"
    assert everything(source) == [
        (("a dome",), [".jpg"], f"{first}#a/1"),
        (("x", "y"), [".png"], f"{first}#a/2"),
        (f"{first}#3", "0 images with a caption, want 1"),
        (("a ring",), [".jpg"], f"{first}#6"),
        (f"{first}#7", "NaN: no number that JSON knows"),
        (TALK["conversations"], [".jpg"], f"{second}#4"),
        (f"{second}#5", 'no caption: want .txt, or .json with "caption" or "conversations"'),
    ]
    (reference,) = source.read(0).images
    assert isinstance(reference, FileRange) and reference.read(len(image)) == image
    second.write_bytes(whole[: 1024 + len(image) // 2])
    reasons = everything(open_source(tmp_path, SourceOptions()))
    assert reasons[-1][0] == str(second) and reasons[-1][1].startswith("a broken tar (")


def four_examples() -> list[tuple[str, bytes]]:
    return [(f"{n}.{kind}", f"{n} {kind}".encode()) for n in range(4) for kind in ("jpg", "txt")]


def header(content: bytes, name: str) -> int:
    """Where the header of a member begins."""
    return content.index(name.encode() + b"\0")


def huge(content: bytes) -> bytes:
    """2.txt says that it has 2^62 bytes."""
    start = header(content, "2.txt")
    changed = bytearray(content[start : start + 512])
    changed[124:136] = bytes([0x80]) + (2**62).to_bytes(11, "big")
    changed[148:156] = b" " * 8
    changed[148:156] = b"%06o\0 " % sum(changed)
    return content[:start] + bytes(changed) + content[start + 512 :]


@pytest.mark.parametrize(
    ("damage", "keys", "reason"),
    [
        (
            lambda c: c[: (at := header(c, "2.jpg")) + 3] + b"\x41" + c[at + 4 :],
            "01",
            "no header at",
        ),
        (lambda c: c[: header(c, "2.jpg")], "01", "cut off at byte"),
        (lambda c: c[: header(c, "2.jpg") + 100], "01", "no header at"),
        (lambda c: c[:8192], "0123", "cut off at byte"),
        (lambda c: c + c, "0123", "more after its end"),
        (huge, "012", "'2.txt' says it has 4611686018427387904 bytes"),
        (lambda c: b"", "", "empty file"),
    ],
    ids=["flipped", "between members", "in a header", "no end", "two tars", "huge", "empty"],
)
def test_a_damaged_tar_is_told_and_read_up_to_there(tmp_path: Path, damage, keys, reason):
    file = tmp_path / "x.tar"
    whole = tar_of(file, four_examples())
    assert len(whole) == 10_240
    file.write_bytes(damage(whole))
    *found, last = everything(open_source(file, SourceOptions()))
    places = [one[2] if len(one) == 3 else one[0] for one in found]
    assert "".join(place.rpartition("#")[2] for place in places) == keys
    assert last[0] == str(file) and re.search(f"a broken tar .*({reason}).*is lost", last[1])
