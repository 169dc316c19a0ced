"""The zip reader: equal to zipfile on whole archives, stricter on everything else."""

import io
import struct
import zipfile

import pytest

from lumina_jax.convert import zip_members
from lumina_jax.convert.byte_source import RemoteSource
from lumina_jax.convert.zip_members import END, END64, ENTRY, LOCAL, LOCATOR64, ZipMembers
from lumina_jax.pickle_tree import BrokenFile
from tests.convert.pipe import Pipe

PARTS = {"m/data.pkl": b"pickle" * 3, "m/data/0": bytes(range(256)) * 40, "m/ü": b""}
MIB = 2**20


def archive(file: io.BytesIO, parts: dict[str, bytes] = PARTS, **options) -> bytearray:
    """The bytes of a zip of `parts`."""
    with zipfile.ZipFile(file, "w", **options) as writer:
        for name, content in parts.items():
            with writer.open(zipfile.ZipInfo(name), "w", force_zip64=name.endswith("0")) as member:
                member.write(content)
    return bytearray(file.getvalue())


def members_of(content: bytes) -> ZipMembers:
    return ZipMembers(RemoteSource("a.zip", io.BytesIO(content)))


def with_wide_end(content: bytearray) -> bytearray:
    """The same archive, its directory's place in 64 bits, as beyond 4 GiB."""
    _, _, _, _, count, size, start, _ = END.unpack(content[-END.size :])
    at = len(content) - END.size
    end64 = END64.pack(b"PK\6\6", END64.size - 12, 45, 45, 0, 0, count, count, size, start)
    locator = LOCATOR64.pack(b"PK\6\7", 0, at, 1)
    end = END.pack(b"PK\5\6", 0, 0, count, count, size, 0xFFFFFFFF, 0)
    return content[:at] + end64 + locator + end


@pytest.mark.parametrize("file", [io.BytesIO, Pipe])
@pytest.mark.parametrize("change", [bytes, with_wide_end])
def test_members_equal_what_was_written(file, change):
    found = members_of(bytes(change(archive(file()))))
    assert {name: found.read(name).tobytes() for name in found.members} == PARTS
    assert found.read("m/data/0", 7, 1000).tobytes() == PARTS["m/data/0"][7:1000]


def test_entry_with_64_bit_numbers_is_read():
    """Lengths and place of a member in the extra field of its directory entry, as beyond 4 GiB."""
    content = archive(io.BytesIO(), {"m/0": b"abc"})
    start = END.unpack(content[-END.size :])[6]
    fields = list(ENTRY.unpack_from(content, start))
    fields[8] = fields[9] = fields[-1] = 0xFFFFFFFF  # packed, size, header
    fields[11] = 28
    extra = struct.pack("<2H3Q", 1, 24, 3, 3, 0)
    directory = ENTRY.pack(*fields) + b"m/0" + extra
    end = END.pack(b"PK\5\6", 0, 0, 1, 1, len(directory), start, 0)
    assert members_of(bytes(content[:start] + directory + end)).read("m/0").tobytes() == b"abc"


def test_checksum_is_compared_once_and_in_pieces(monkeypatch):
    """A partial read looks at the whole member first, 1,000 bytes at a time, the second one no more."""
    content = archive(io.BytesIO())
    monkeypatch.setattr(zip_members, "PIECE_BYTES", 1000)
    found, reads = members_of(bytes(content)), []
    read = found.source.read
    found.source.read = lambda start, stop: reads.append(stop - start) or read(start, stop)
    found.read("m/data/0", 5, 10)
    assert max(reads) == 1000 and sum(reads) > len(PARTS["m/data/0"])
    reads.clear()
    found.read("m/data/0", 5, 10)
    assert sum(reads) < 100


@pytest.mark.parametrize("range_", [(0, None), (5, 10)])
def test_flipped_bit_is_noticed_unless_told_otherwise(range_):
    content = archive(io.BytesIO())
    content[content.index(PARTS["m/data/0"]) + 100] ^= 1
    found = members_of(bytes(content))
    with pytest.raises(BrokenFile, match="CRC-32 of 'm/data/0'"):
        found.read("m/data/0", *range_)
    found.read("m/data/0", *range_, verify=False)


def test_archive_without_checksums_is_read():
    """torch.serialization.set_crc32_options(False) writes 0 for all."""
    content = archive(Pipe())
    for info in zipfile.ZipFile(io.BytesIO(content)).infolist():
        if info.CRC:
            content = content.replace(struct.pack("<L", info.CRC), bytes(4))
    assert members_of(bytes(content)).read("m/data/0").tobytes() == PARTS["m/data/0"]


def entry_at(content: bytearray, name: str) -> int:
    """Where the directory describes a member."""
    return content.rindex(name.encode()) - ENTRY.size


def set_field(name: str, offset: int, code: str, value: int):
    """A change of a number in the directory's entry of a member."""

    def change(content: bytearray) -> None:
        struct.pack_into(code, content, entry_at(content, name) + offset, value)

    return change


def break_local(offset: int):
    """A change of a byte in the header in front of the second member."""

    def change(content: bytearray) -> None:
        content[content.index(b"m/data/0") - LOCAL.size + offset] ^= 1

    return change


BREAKS = {
    "larger than the file": set_field("m/data/0", 24, "<L", 2**31),
    "lengths differ": set_field("m/data/0", 20, "<L", 10),
    "into what follows": set_field("m/data.pkl", 42, "<L", 50),
    "one byte more": lambda content: (
        set_field("m/data/0", 20, "<L", 10241)(content),
        set_field("m/data/0", 24, "<L", 10241)(content),
    ),
    "encrypted": set_field("m/data/0", 8, "<H", 1),
    "compressed": set_field("m/data/0", 10, "<H", 8),
    "its signature": set_field("m/data/0", 0, "<L", 0),
    "a local signature": break_local(0),
    "a local flag": break_local(6),
    "a local checksum": break_local(14),
    "a local length": break_local(18),
    "a local name": break_local(LOCAL.size),
    "a local length of the name": break_local(26),
    "a comment": lambda content: content.__setitem__(slice(-2, None), b"\1\0"),
    "something behind": lambda content: content.append(0),
    "something in front": lambda content: content.insert(0, 0),
    "an empty file": lambda content: content.clear(),
    "a directory that is too long": lambda content: struct.pack_into("<L", content, -10, 2**31),
    "a member fewer": lambda content: struct.pack_into("<2H", content, -14, 2, 2),
    "a member more": lambda content: struct.pack_into("<2H", content, -14, 4, 4),
    "a thousand members": lambda content: struct.pack_into("<2H", content, -14, 1000, 1000),
    "a name that is no text": lambda content: content.__setitem__(content.rindex(b"m/data/0"), 255),
}


@pytest.mark.parametrize("change", BREAKS.values(), ids=BREAKS)
def test_broken_archive_is_refused(change):
    """At the latest when the member is read."""
    content = archive(io.BytesIO())
    change(content)
    with pytest.raises(BrokenFile):
        members_of(bytes(content)).read("m/data/0")


def test_two_members_of_one_name_are_refused():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as writer, pytest.warns(UserWarning, match="Duplicate"):
        writer.writestr("m/0", b"1")
        writer.writestr("m/0", b"2")
    with pytest.raises(BrokenFile, match="two members are named 'm/0'"):
        members_of(file.getvalue())


def test_wide_end_that_contradicts_the_narrow_one_is_refused():
    content = with_wide_end(archive(io.BytesIO()))
    struct.pack_into("<L", content, len(content) - 6, 5)
    with pytest.raises(BrokenFile, match="contradicts"):
        members_of(bytes(content))
