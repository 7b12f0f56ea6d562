"""Files: written whole or not at all, read without surprises, fingerprinted; json that is always UTF-8."""

from __future__ import annotations

import codecs
import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from felga.errors import BadInputError, FelgaError, NotFoundError, StorageError

_STORAGE = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EFBIG: "a file would exceed the size limit",
    errno.EIO: "the disk reports an error",
}
_STORAGE_TEXT = {  # libraries that report the system's error in words alone
    r"No space left on device|os error 28\b": errno.ENOSPC,
    r"[Qq]uota exceeded|os error 122\b": errno.EDQUOT,
    r"Read-only file system|os error 30\b": errno.EROFS,
    r"Permission denied|os error 13\b": errno.EACCES,
    r"Operation not permitted|os error 1\b": errno.EPERM,
    r"File too large|os error 27\b": errno.EFBIG,
    r"Input/output error|os error 5\b": errno.EIO,
}


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def open_regular(path: str | Path) -> Iterator[BinaryIO]:
    """A regular file, open for reading; never blocks on a pipe or a device.

    Raises:
        OSError: the file cannot be opened, or is not regular.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        yield file


def read_regular(path: Path, limit: int | None = None) -> bytes:
    """The bytes of a regular file; never blocks on a pipe or a device.

    Args:
        limit: the largest size accepted, in bytes.

    Raises:
        OSError: the file cannot be read, is not regular, or exceeds ``limit``.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if limit is not None and size > limit:
            raise OSError(errno.EFBIG, f"{size} bytes exceed the limit of {limit}", str(path))
        return file.read(size)  # bounded: some files of /proc look regular and never end


def write_whole(path: Path, data: bytes) -> None:
    """Write ``data`` so that a reader, or a crash, sees either the old file or the new one.

    Raises:
        OSError: the file cannot be written; the old one is intact.
    """
    part = part_of(path)
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    sync_folder(path.parent)


def part_of(path: Path) -> Path:
    """The name under which ``path`` is written before it is renamed; whatever was there is removed.

    Removing it first matters: a link planted under that name must not lead the write elsewhere.
    """
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    return part


def publish(part: Path, path: Path) -> None:
    """Give a finished file its name: synced to disk, then renamed."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` survive a loss of power (POSIX; a no-op elsewhere)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turn a full disk, a read-only folder or missing permission into one sentence.

    Raises:
        StorageError: for any such error of the system, Lance or FAISS; other errors pass.
    """
    try:
        yield
    except FelgaError:
        raise
    except (OSError, RuntimeError) as error:
        reason = storage_reason(error)
        if reason is None:
            raise
        raise StorageError(
            f"{shown(folder)} cannot be written: {reason}; nothing was lost, run again"
        ) from error


def storage_reason(error: BaseException) -> str | None:
    """What is wrong with the disk or its permissions, if that is what the error is about."""
    code = getattr(error, "errno", None)
    if code not in _STORAGE:
        code = next((code for words, code in _STORAGE_TEXT.items() if re.search(words, str(error))), None)
    return _STORAGE.get(code) if code is not None else None


def located(root: str | os.PathLike[str], path: bytes) -> str:
    """Where an image of an index is: below the ``root`` of its corpus, or at its URL."""
    return (
        os.fsdecode(path) if is_url(os.fsdecode(path)) else os.path.join(os.fspath(root), os.fsdecode(path))
    )


def is_url(path: str) -> bool:
    """Whether a path is a URL, and of no file: ``https://...``, ``s3://...``."""
    return re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", path) is not None


def shown(path: str | bytes | os.PathLike[str]) -> str:
    r"""A path as text that any terminal and any json reader accepts: undecodable bytes as ``\xNN``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Json with sorted keys, so that equal values have equal text; lone surrogates are escaped."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, indent=indent)
    return re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text)


def canonical(value: Any) -> Any:
    """``value`` as it would come back from json: tuples become lists, keys become strings."""
    return json.loads(to_json(value))


def read_lines(path: Path, what: str) -> list[str]:
    r"""The lines of a UTF-8 text file, stripped, without blank ones; a BOM is ignored.

    Lines end as on Unix, Windows or old Macs: other separators, such as U+2028, may stand in a query. A pipe
    is read to its end.

    Args:
        what: what each line holds, in the plural, such as "queries"; for error messages.

    Raises:
        NotFoundError: no such file.
        BadInputError: unreadable, not UTF-8, or without any line.
    """
    try:
        text = path.read_bytes().removeprefix(codecs.BOM_UTF8).decode()
    except FileNotFoundError as error:
        raise NotFoundError(f"{shown(path)} does not exist: name a file of {what}, one per line") from error
    except UnicodeDecodeError as error:
        raise BadInputError(
            f"{shown(path)} is not UTF-8 (byte {error.start}): expected {what}, one per line"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise BadInputError(
            f"{shown(path)} cannot be read ({reason}): expected {what}, one per line"
        ) from error
    lines = [line for part in text.replace("\r", "\n").split("\n") if (line := part.strip())]
    if not lines:
        raise BadInputError(f"{shown(path)} is empty: expected {what}, one per line")
    return lines
