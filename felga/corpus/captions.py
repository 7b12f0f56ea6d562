"""Captions in a folder: ``NAME.txt`` beside ``NAME.jpg``, and the ``metadata.jsonl`` of an imagefolder."""

from __future__ import annotations

import codecs
import io
import json
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from felga.corpus.items import path_fault, unicode_fault
from felga.files import read_regular

MAX_TEXT = 2**20  # bytes of a sidecar or of a row: more is no caption
MAX_METADATA = 2**31  # bytes
CAPTION_KEYS = ("text", "caption", "captions")

_shortened = reprlib.Repr()
_shortened.maxstring = 100


class NoCaption(Exception):
    """A file or a row that is no caption; the message is the reason. Caught by the corpus."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of ``metadata.jsonl``; without a file name its captions are texts on their own."""

    file_name: str | None
    captions: list[str]


def read_sidecar(path: Path) -> list[str]:
    """The lines of a UTF-8 text file, with or without a BOM.

    Raises:
        NoCaption: unreadable, larger than :data:`MAX_TEXT`, or not UTF-8.
    """
    text = _text(_bytes(path, MAX_TEXT))
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def read_metadata(path: Path) -> Iterator[tuple[int, Row | NoCaption]]:
    """The rows of a ``metadata.jsonl`` with their line numbers from 1; a malformed one comes as its reason.

    Only ``\\n`` ends a line: json strings may hold other line separators, such as U+2028.

    Raises:
        NoCaption: unreadable, or larger than :data:`MAX_METADATA`.
    """
    data = _bytes(path, MAX_METADATA)
    for number, line in enumerate(io.BytesIO(data), 1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        try:
            yield number, _row(line)
        except NoCaption as reason:
            yield number, reason


def quoted(value: object) -> str:
    """A value in an error message: quoted, and cut if it is long."""
    return _shortened.repr(value)


def json_kind(value: Any) -> str:
    """What json calls a value."""
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")


def load_json(data: bytes | str) -> Any:
    """Json, whatever it holds.

    Raises:
        ValueError: not json, nested too deeply, or a number of too many digits.
    """
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _bytes(path: Path, limit: int) -> bytes:
    try:
        return read_regular(path, limit)
    except OSError as error:
        raise NoCaption(f"the file cannot be read: {error.strerror}") from error


def _text(data: bytes) -> str:
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        raise NoCaption(f"not UTF-8: byte {error.start} is 0x{data[error.start]:02x}") from error


def _row(line: bytes) -> Row:
    if len(line) > MAX_TEXT:
        raise NoCaption(f"the row has {len(line)} bytes, more than {MAX_TEXT}")
    try:
        row = load_json(_text(line))
    except ValueError as error:
        raise NoCaption(f"not json: {error}") from error
    if not isinstance(row, dict):
        raise NoCaption(f"{json_kind(row)}, expected an object with file_name and text")
    name = row.get("file_name")
    if not (name is None or isinstance(name, str)):
        raise NoCaption(f"file_name is {json_kind(name)}, expected a string")
    if name is not None and (fault := path_fault(name)):
        raise NoCaption(f"file_name {fault}")
    key = next((key for key in CAPTION_KEYS if row.get(key) is not None), None)
    if key is None:
        if name is None:
            raise NoCaption("neither file_name nor text")
        return Row(name, [])
    captions = [row[key]] if isinstance(row[key], str) else row[key]
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise NoCaption(f"{key} is {json_kind(row[key])}, expected a string or a list of strings")
    for caption in captions:
        if fault := unicode_fault(caption):
            raise NoCaption(f"{key} is {fault}")
    return Row(name, captions)
