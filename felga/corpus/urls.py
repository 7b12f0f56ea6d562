"""Object storage by URL: ``s3://BUCKET/PREFIX``, or what else fsspec opens."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.spec import AbstractFileSystem

from felga.errors import BadInputError, MissingError
from felga.files import is_url, shown

TIMES = ("LastModified", "last_modified", "updated", "mtime", "created")
"""What S3, Azure, Google, local files and memory call the time of an object; the first one known counts."""


def open_url(url: str, expected: str) -> tuple[AbstractFileSystem, str]:
    """What opens a URL, and its path there.

    Args:
        expected: an example of a URL, for the errors.

    Raises:
        BadInputError: it is no URL that fsspec knows.
        MissingError: the package that opens it is not installed.
    """
    if not is_url(url):
        raise BadInputError(f"{shown(url)} is no URL of object storage: {expected}")
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise MissingError(f"{shown(url)} cannot be opened: {error}") from error
    except ValueError as error:
        raise BadInputError(f"{shown(url)} cannot be opened ({error}): {expected}") from error
    return fs, path


def everything_below(fs: AbstractFileSystem, path: str) -> dict[str, dict[str, Any]]:
    """All objects below a path, with what is known of each; an error where a part cannot be listed."""
    walking = AbstractFileSystem.find, AsyncFileSystem._find
    strictly = getattr(type(fs), "_find", type(fs).find) in walking  # others list all at once
    fs.invalidate_cache()
    found: dict[str, dict[str, Any]] = fs.find(
        path, detail=True, **({"on_error": "raise"} if strictly else {})
    )
    return found


def modified(about: Mapping[str, Any]) -> float | None:
    """When an object was written, in seconds since the epoch; None: its service does not say."""
    time = next((about[name] for name in TIMES if about.get(name)), None)
    if isinstance(time, str):
        time = datetime.fromisoformat(time)
    if isinstance(time, datetime):
        time = time.timestamp()
    return None if time is None else float(time)


def reason(error: Exception) -> str:
    """What a service said, in one line."""
    if isinstance(error, FileNotFoundError):
        return "it does not exist"
    text = " ".join(str(error).split())[:200].rstrip(". ")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
