"""Images inside shards, read as if they were files: ``SHARD.tar/KEY.jpg`` and ``SHARD.parquet/KEY.jpg``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias, cast

from felga.files import open_regular

TAR, PARQUET = ".tar", ".parquet"

State: TypeAlias = "tuple[int, int, int, int]"
"""Device, inode, size and time of a file: while these stay, so does its content."""


class DamagedShard(Exception):
    """A shard, or a part of it, that cannot be read; the message is the reason."""


class Reader(Protocol):
    """What the module of a kind of shards provides."""

    def read(self, file: BinaryIO, shard: str, name: str, limit: int) -> bytes:
        """The bytes of a member of at most ``limit`` bytes; ``shard`` is the path of ``file``.

        Raises:
            DamagedShard: no such member, or one that is damaged or larger.
        """
        ...

    def holds(self, file: BinaryIO, shard: str, name: str) -> bool:
        """Whether a shard has a member of that name."""
        ...


def read_member(path: str | Path, limit: int) -> bytes | None:
    """The bytes of ``SHARD/MEMBER``, or None if the path leads through no shard.

    Raises:
        DamagedShard: no such member, or one that is damaged or larger than ``limit``.
        OSError: the shard cannot be read.
    """
    if (parts := split(path)) is None:
        return None
    shard, name = parts
    with open_regular(shard) as file:
        return _reader(shard).read(file, shard, name, limit)


def exists(path: str | Path) -> bool:
    """Whether a path is that of a file, or of a member of a shard."""
    if os.path.exists(path):
        return True
    if (parts := split(path)) is None:
        return False
    try:
        with open_regular(parts[0]) as file:
            return _reader(parts[0]).holds(file, *parts)
    except (OSError, DamagedShard):
        return False


def split(path: str | Path) -> tuple[str, str] | None:
    """The shard in a path and the name of its member: ``a/0.tar/b.jpg`` -> ``a/0.tar``, ``b.jpg``."""
    parts = os.fspath(path).split("/")
    for at in range(1, len(parts)):
        if parts[at - 1].endswith((TAR, PARQUET)) and os.path.isfile(shard := "/".join(parts[:at])):
            return shard, "/".join(parts[at:])
    return None


def state(file: BinaryIO) -> State:
    """Of an open file."""
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _reader(shard: str) -> Reader:
    if shard.endswith(TAR):
        from felga.corpus import tarball as module
    else:  # pyarrow takes a while to load
        from felga.corpus import parquet_shard as module  # type: ignore[no-redef]
    return cast(Reader, module)
