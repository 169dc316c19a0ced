"""Finds the plainly stored members of a zip archive (PKWARE's APPNOTE, with its 64-bit fields) by byte range.

Stricter than `zipfile`: nothing may follow the directory, no two members may share bytes, and the header in
front of a member must say what the directory says.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from isal.isal_zlib import crc32  # seven times as fast as zlib's

from lumina_jax.convert.byte_source import ByteSource
from lumina_jax.pickle_tree import BrokenFile

LOCAL = struct.Struct("<4s5H3L2H")  # in front of a member
ENTRY = struct.Struct("<4s6H3L5H2L")  # of the directory
END = struct.Struct("<4s4H2LH")  # the file's last bytes
LOCATOR64 = struct.Struct("<4sLQL")  # in front of END in files that need 64-bit numbers
END64 = struct.Struct("<4sQ2H2L4Q")  # in front of LOCATOR64
FULL_16, FULL_32 = 0xFFFF, 0xFFFFFFFF  # "the number is in the 64-bit field"
EXTRA64 = 1  # id of the extra field with 64-bit numbers
STORED = 0  # the method of a member that is not compressed
ENCRYPTED, SIZES_FOLLOW = (
    1,
    8,
)  # bits of a member's flags; with the second its header may leave sizes at 0
MAX_DIRECTORY_BYTES = 64 * 2**20
PIECE_BYTES = 16 * 2**20  # a checksum is taken over this much at once


@dataclass(frozen=True)
class Member:
    """One file of the archive, as the directory describes it."""

    name: str
    size: int  # bytes of its content, which is as long in the archive unless it is compressed
    crc: int
    method: int
    flags: int
    header: int  # where its local header starts
    limit: int = 0  # where the next member or the directory starts


class ZipMembers:
    """The members of an archive by name. Raises BrokenFile where the archive is not whole."""

    def __init__(self, source: ByteSource) -> None:
        self.source = source
        self.members = _read_directory(source)
        self._verified: set[str] = set()
        # an archive written without checksums has 0 in place of every one
        self.has_checksums = any(member.crc for member in self.members.values())

    def read(
        self, name: str, start: int = 0, stop: int | None = None, verify: bool = True
    ) -> np.ndarray:
        """Bytes [start, stop) of a member; `verify` holds the whole member against its CRC-32, once.

        BrokenFile where the member, its range or its checksum is wrong.
        """
        member = self.members[name]
        begin = self._locate(member)
        stop = member.size if stop is None else stop
        if not 0 <= start <= stop <= member.size:
            raise BrokenFile(f"bytes {start} to {stop} of {name!r}, which has {member.size}")
        if not verify or not self.has_checksums or name in self._verified:
            return self.source.read(begin + start, begin + stop)
        if (start, stop) == (0, member.size):  # one fetch serves both
            content = self.source.read(begin, begin + stop)
            self._check(member, np.split(content, range(PIECE_BYTES, stop, PIECE_BYTES)))
            return content
        self._check(member, self._pieces(begin, begin + member.size))
        return self.source.read(begin + start, begin + stop)

    def _pieces(self, begin: int, end: int) -> Iterator[np.ndarray]:
        for place in range(begin, end, PIECE_BYTES):
            yield self.source.read(place, min(place + PIECE_BYTES, end))

    def _check(self, member: Member, pieces: Iterator[np.ndarray] | list[np.ndarray]) -> None:
        crc = 0
        for piece in pieces:
            crc = crc32(piece.data, crc)
        if crc != member.crc:
            raise BrokenFile(
                f"the CRC-32 of {member.name!r} is {crc:08x}, the archive says {member.crc:08x}"
            )
        self._verified.add(member.name)

    def _locate(self, member: Member) -> int:
        """Where the content starts, the local header being what the directory says."""
        if member.method != STORED or member.flags & ENCRYPTED:
            raise BrokenFile(
                f"{member.name!r} is compressed or encrypted, PyTorch stores it plainly"
            )
        name = member.name.encode()
        header = self.source.read(member.header, member.header + LOCAL.size + len(name)).tobytes()
        signature, _, flags, method, _, _, crc, packed, size, name_bytes, extra_bytes = (
            LOCAL.unpack_from(header)
        )
        begin = member.header + LOCAL.size + name_bytes + extra_bytes
        follow = bool(flags & SIZES_FOLLOW)
        agrees = (
            signature == b"PK\3\4"
            and header[LOCAL.size :] == name
            and name_bytes == len(name)
            and (flags, method) == (member.flags, member.method)
            and crc in ({0, member.crc} if follow else {member.crc})
            and {packed, size} <= ({0, member.size} if follow else {member.size}) | {FULL_32}
            and begin + member.size <= member.limit
        )
        if not agrees:
            raise BrokenFile(f"the header of {member.name!r} contradicts the archive's directory")
        return begin


def _read_directory(source: ByteSource) -> dict[str, Member]:
    """Every member by name, none sharing bytes with another."""
    start, stop, count = _find_directory(source)
    directory = source.read(start, stop).tobytes()
    members: dict[str, Member] = {}
    place = 0
    for _ in range(count):
        member, place = _entry(directory, place)
        if member.name in members:
            raise BrokenFile(f"two members are named {member.name!r}")
        members[member.name] = member
    if place != len(directory):
        raise BrokenFile(f"{len(directory) - place} bytes of the directory belong to no member")
    ordered = sorted(members.values(), key=lambda member: member.header)
    limits = [*(member.header for member in ordered[1:]), start]
    for member, limit in zip(ordered, limits, strict=True):
        smallest = LOCAL.size + len(member.name.encode())
        smallest += member.size if member.method == STORED else 0
        if member.header + smallest > limit:
            raise BrokenFile(f"{member.name!r} reaches into what follows it")
        members[member.name] = replace(member, limit=limit)
    return members


def _find_directory(source: ByteSource) -> tuple[int, int, int]:
    """Start, stop and number of members of the directory."""
    end_at = source.size - END.size
    if end_at < 0:
        raise BrokenFile(f"{source.size} bytes are no archive")
    end = END.unpack(source.read(end_at, source.size).tobytes())
    signature, disk, first_disk, here, count, size, start, comment = end
    if signature != b"PK\5\6" or comment or disk or first_disk or here != count:
        raise BrokenFile("it does not end with an archive's directory")
    stop = end_at
    locator_at = end_at - LOCATOR64.size
    if locator_at >= END64.size:
        locator = LOCATOR64.unpack(source.read(locator_at, end_at).tobytes())
        if locator[0] == b"PK\6\7":
            stop = locator_at - END64.size
            end64 = END64.unpack(source.read(stop, locator_at).tobytes())
            wide = end64[7:]
            narrow = zip((count, size, start), (FULL_16, FULL_32, FULL_32), wide, strict=True)
            if (
                end64[0] != b"PK\6\6"
                or locator[2] != stop
                or end64[6] != end64[7]
                or any(small not in (full, large) for small, full, large in narrow)
            ):
                raise BrokenFile("the 64-bit end of its directory contradicts the other one")
            count, size, start = wide
    if start + size != stop or size > MAX_DIRECTORY_BYTES or count * ENTRY.size > size:
        raise BrokenFile("its directory does not lie in front of the end of the file")
    return start, stop, count


def _entry(directory: bytes, place: int) -> tuple[Member, int]:
    """The member described at `place`, and where the next description starts."""
    if place + ENTRY.size > len(directory):
        raise BrokenFile("its directory is cut short")
    fields = ENTRY.unpack_from(directory, place)
    signature, _, _, flags, method, _, _, crc, packed, size, *lengths = fields[:13]
    header = fields[-1]
    name_at = place + ENTRY.size
    extra_at = name_at + lengths[0]
    stop = extra_at + lengths[1] + lengths[2]
    if signature != b"PK\1\2" or stop > len(directory):
        raise BrokenFile("its directory is damaged")
    try:
        name = directory[name_at:extra_at].decode()
    except UnicodeDecodeError as error:
        raise BrokenFile("a member's name is not UTF-8") from error
    wide = _wide_numbers(directory[extra_at : extra_at + lengths[1]])
    numbers = [next(wide, FULL_32) if n == FULL_32 else n for n in (size, packed, header)]
    size, packed, header = numbers
    if method == STORED and packed != size:
        raise BrokenFile(f"{name!r} is stored plainly, but its two lengths differ")
    return Member(name, size, crc, method, flags, header), stop


def _wide_numbers(extra: bytes) -> Iterator[int]:
    """The 64-bit numbers of a directory entry's extra field."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        body = extra[4 : 4 + length]
        if kind == EXTRA64:
            yield from struct.unpack_from(f"<{len(body) // 8}Q", body)
        extra = extra[4 + length :]
