"""What commands print: data on stdout, messages on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from felga.errors import StorageError
from felga.files import shown, storage_reason, write_whole

READER_GONE = 141
"""Exit code once nobody reads stdout any more, as of a program that SIGPIPE ended."""


def tolerant_streams() -> None:
    """Escape what the terminal's encoding lacks instead of failing on it."""
    for stream in (sys.stdout, sys.stderr):
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            reconfigure(errors="backslashreplace")


@contextmanager
def _reader() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        raise typer.Exit(READER_GONE) from error


def echo(text: str) -> None:
    """Write data to stdout; quietly stop the command if its reader is gone (``| head``)."""
    with _reader():
        sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
        sys.stdout.flush()


def echo_bytes(data: bytes) -> None:
    """:func:`echo` for bytes, which are written as they are."""
    with _reader():
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def only_ascii() -> bool:
    """Whether json must be ASCII: stdout is not UTF-8, and other escapes than json's would break it."""
    return not (sys.stdout.encoding or "").lower().startswith("utf")


def echo_json(value: Any) -> None:
    """Write indented json to stdout."""
    echo(json.dumps(value, ensure_ascii=only_ascii(), indent=1))


def say(line: str) -> None:
    """Write a message to stderr."""
    print(line, file=sys.stderr, flush=True)


def write_file(path: Path, text: str) -> None:
    """Write a result, in a new folder if need be.

    Raises:
        StorageError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
    except OSError as error:
        reason = storage_reason(error) or error.strerror
        raise StorageError(f"{shown(path)} cannot be written: {reason}") from error
