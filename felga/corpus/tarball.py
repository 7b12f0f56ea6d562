"""Tar files read in place: where each member's bytes are, found from the headers, nothing unpacked.

POSIX (ustar and pax) and GNU tar, as ``tar``, Python and img2dataset write them. Compressed ones have no
offsets to read from, and are refused. Not by ``tarfile``: it reads extended headers of any size into memory,
follows chains of them by recursion, and knows no limit.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO, NamedTuple, TypeAlias

from felga.corpus.inside import DamagedShard, state
from felga.files import open_regular, shown

BLOCK = 512
LONGEST_HEADER = 2**20  # bytes of an extended header, which is read into memory
KEPT = 8  # tar files whose members are remembered
REGULAR = b"0", b"\0", b"7"  # type flags
EMPTY = b"1", b"2", b"3", b"4", b"5", b"6"  # links, devices and folders: nothing follows their headers
EXTENDED = b"x", b"X", b"L", b"K", b"g"
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")

Span: TypeAlias = "tuple[int, int]"
"""Offset and size of a member's bytes."""


class DamagedTar(DamagedShard):
    """A tar file, or a part of it, that cannot be read; the message is the reason."""


class Member(NamedTuple):
    """A regular file in a tar.

    Attributes:
        name: normalized, with ``/``; ``os.fsencode`` gives the bytes of the header.
        fault: why it cannot be used, or None.
    """

    name: str
    offset: int
    size: int
    fault: str | None


@dataclass(slots=True)
class _Extended:
    """What extended headers say of the member that follows."""

    name: bytes | None = None
    size: int | None = None
    sparse: bool = False


def members(file: BinaryIO) -> Iterator[Member]:
    """The regular files of a tar by their headers, in order; links and devices come with a fault.

    Raises:
        DamagedTar: compressed, damaged or cut off; what came before can be read.
    """
    handle, end = file.fileno(), os.fstat(file.fileno()).st_size
    at, extended = 0, _Extended()
    while at < end:
        header = os.pread(handle, BLOCK, at)
        if at == 0 and header.startswith(COMPRESSED):
            raise DamagedTar("compressed, and so without offsets to read from: unpack it to a plain .tar")
        if header == bytes(BLOCK):
            return
        size, kind = _checked(header, at), header[156:157]
        at += BLOCK
        if kind in EXTENDED:
            if size > LONGEST_HEADER:
                raise DamagedTar(f"damaged at byte {at - BLOCK}: an extended header of {size} bytes")
            _extend(extended, kind, os.pread(handle, size, at), at)
        else:
            at += _sparse_blocks(handle, header, at) if kind == b"S" else 0
            size = size if extended.size is None else extended.size
            if kind in EMPTY:
                size = 0
            if at + size > end:
                raise DamagedTar(f"cut off inside {_shown(_name(header, extended))}, at {end} bytes")
            if kind != b"5":
                yield _member(header, extended, at, size)
            extended = _Extended()
        at += -(-size // BLOCK) * BLOCK


def read(file: BinaryIO, shard: str, name: str, limit: int) -> bytes:
    """As :class:`felga.corpus.inside.Reader`."""
    span = _spans(shard, *state(file)).get(name)
    if span is None:
        raise DamagedTar("no such file in the tar")
    offset, size = span
    if size > limit:
        raise DamagedTar(f"{size} bytes exceed the limit of {limit}")
    data = os.pread(file.fileno(), size, offset)
    if len(data) != size:
        raise DamagedTar("the tar is cut off inside it")
    return data


def holds(file: BinaryIO, shard: str, name: str) -> bool:
    """As :class:`felga.corpus.inside.Reader`."""
    return name in _spans(shard, *state(file))


@lru_cache(KEPT)
def _spans(shard: str, device: int, inode: int, size: int, mtime_ns: int) -> dict[str, Span]:
    """Where the usable members of a tar file in that state are; of several of a name the first."""
    spans: dict[str, Span] = {}
    with open_regular(shard) as file:
        try:
            for member in members(file):
                if member.fault is None:
                    spans.setdefault(member.name, (member.offset, member.size))
        except DamagedTar:
            pass  # its sound part is what the corpus lists
    return spans


def _checked(header: bytes, at: int) -> int:
    """The size in a header whose checksum is right."""
    if len(header) < BLOCK:
        raise DamagedTar(f"cut off inside the header at byte {at}")
    blank = header[:148] + b" " * 8 + header[156:]
    try:
        if _number(header[148:156]) != sum(blank):
            raise ValueError
        return _number(header[124:136])
    except ValueError as error:
        kind = "damaged" if at else "no tar file, or damaged"
        raise DamagedTar(f"{kind}: the header at byte {at} is wrong") from error


def _number(field: bytes) -> int:
    """Octal digits, or base 256 (GNU); below 2**63, as file sizes are."""
    if field[0] == 0x80:
        number = int.from_bytes(field[1:], "big")
    else:
        digits = field.split(b"\0")[0].strip(b" ")
        if digits.strip(b"01234567"):
            raise ValueError
        number = int(digits or b"0", 8)
    if number >= 2**63:
        raise ValueError
    return number


def _extend(extended: _Extended, kind: bytes, data: bytes, at: int) -> None:
    if kind == b"L":
        extended.name = data.split(b"\0")[0]
    if kind not in (b"x", b"X"):
        return
    while data.strip(b"\0"):  # records: "LENGTH KEY=VALUE\n"
        length, space, _ = data[:32].partition(b" ")
        if not (space and length.isdigit() and len(length) + 4 <= int(length) <= len(data)):
            raise DamagedTar(f"damaged: the extended header at byte {at - BLOCK} is wrong")
        key, _, value = data[len(length) + 1 : int(length) - 1].partition(b"=")
        data = data[int(length) :]
        if key == b"path":
            extended.name = value
        elif key == b"size" and value.isdigit() and len(value) < 19:
            extended.size = int(value)
        elif key.startswith(b"GNU.sparse"):
            extended.sparse = True


def _sparse_blocks(handle: int, header: bytes, at: int) -> int:
    """Bytes of the blocks that continue the map of a sparse file (GNU)."""
    start, more = at, header[482:483]
    while more not in (b"", b"\0"):
        more = os.pread(handle, BLOCK, at)[504:505]
        at += BLOCK
    return at - start


def _name(header: bytes, extended: _Extended) -> bytes:
    if extended.name is not None:
        return extended.name
    name, prefix = header[:100].split(b"\0")[0], header[345:500].split(b"\0")[0]
    return prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name


def _member(header: bytes, extended: _Extended, offset: int, size: int) -> Member:
    raw = os.fsdecode(_name(header, extended))
    name = posixpath.normpath(raw)
    fault = None
    if extended.sparse or header[156:157] not in REGULAR:
        fault = "not a regular file"
    elif raw.startswith("/") or name == ".." or name.startswith("../"):
        fault = "its name leads out of the tar"
    elif name == "." or raw.endswith("/") or "\0" in raw:
        fault = "its name is no file name"
    return Member(name, offset, size, fault)


def _shown(name: bytes) -> str:
    return shown(name[:200])
