"""Captions in files: ``NAME.txt`` or ``NAME.json`` beside ``NAME.jpg``, and an imagefolder's metadata."""

from __future__ import annotations

import codecs
import csv
import io
import json
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from felga.corpus.items import path_fault, unicode_fault

MAX_TEXT = 2**20  # bytes of a sidecar or of a row: more is no caption
MAX_JSON = 2**24  # bytes of a json beside an image, which may hold more than a caption
MAX_METADATA = 2**31  # bytes
CAPTION_KEYS = ("text", "caption", "captions")

_shortened = reprlib.Repr()
_shortened.maxstring = 100


class NoCaption(Exception):
    """A file or a row that is no caption; the message is the reason. Caught by the corpus."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the metadata; without a file name its captions are texts on their own."""

    file_name: str | None
    captions: list[str]


def sidecar_captions(data: bytes) -> list[str]:
    """The lines of a UTF-8 text, with or without a BOM.

    Raises:
        NoCaption: not UTF-8.
    """
    return _text(data).replace("\r\n", "\n").replace("\r", "\n").split("\n")


def json_captions(data: bytes) -> list[str]:
    """The captions in a json beside an image, under ``text``, ``caption`` or ``captions``, if any.

    Raises:
        NoCaption: not json, or a caption that is no string.
    """
    row = _json(data)
    return _captions(row) if isinstance(row, dict) else []


def metadata_csv_rows(data: bytes) -> Iterator[tuple[int, Row | NoCaption]]:
    """As :func:`metadata_rows`, of a ``metadata.csv`` with the columns ``file_name`` and ``text``.

    A row has the number of its last line; a field has at most 2**17 characters, as Python's csv reads.

    Raises:
        NoCaption: without these columns.
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    lines = csv.reader(io.StringIO(data.decode("utf-8", "surrogateescape"), newline=""))
    header: list[str] | None = None
    while True:
        try:
            values = next(lines)
            if not values:
                continue
            if header is None:
                header = values
                if "file_name" not in header and not set(CAPTION_KEYS) & set(header):
                    raise NoCaption(
                        f"its columns are {quoted(', '.join(header))}, expected file_name and text"
                    )
                continue
            row: Row | NoCaption = _fields_row(dict(zip(header, values, strict=False)))
        except StopIteration:
            return
        except csv.Error as error:
            if header is None:
                raise NoCaption(f"not csv: {error}") from error
            row = NoCaption(f"not csv: {error}")
        yield lines.line_num, row


def metadata_rows(data: bytes) -> Iterator[tuple[int, Row | NoCaption]]:
    """The rows of a ``metadata.jsonl`` with their line numbers from 1; a malformed one comes as its reason.

    Only ``\\n`` ends a line: json strings may hold other line separators, such as U+2028.
    """
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


def _text(data: bytes) -> str:
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        raise NoCaption(f"not UTF-8: byte {error.start} is 0x{data[error.start]:02x}") from error


def _row(line: bytes) -> Row:
    if len(line) > MAX_TEXT:
        raise NoCaption(f"the row has {len(line)} bytes, more than {MAX_TEXT}")
    row = _json(line)
    if not isinstance(row, dict):
        raise NoCaption(f"{json_kind(row)}, expected an object with file_name and text")
    return _checked(row)


def _fields_row(fields: dict[str, str]) -> Row | NoCaption:
    """A row of a csv, where an empty field is none."""
    try:
        return _checked({key: value for key, value in fields.items() if value})
    except NoCaption as reason:
        return reason


def _json(data: bytes) -> Any:
    try:
        return load_json(_text(data))
    except ValueError as error:
        raise NoCaption(f"not json: {error}") from error


def _checked(row: dict[str, Any]) -> Row:
    name = row.get("file_name")
    if not (name is None or isinstance(name, str)):
        raise NoCaption(f"file_name is {json_kind(name)}, expected a string")
    if name is not None and (fault := path_fault(name)):
        raise NoCaption(f"file_name {fault}")
    captions = _captions(row)
    if name is None and not any(row.get(key) is not None for key in CAPTION_KEYS):
        raise NoCaption("neither file_name nor text")
    return Row(name, captions)


def _captions(row: dict[str, Any]) -> list[str]:
    key = next((key for key in CAPTION_KEYS if row.get(key) is not None), None)
    if key is None:
        return []
    captions = [row[key]] if isinstance(row[key], str) else row[key]
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise NoCaption(f"{key} is {json_kind(row[key])}, expected a string or a list of strings")
    for caption in captions:
        if fault := unicode_fault(caption):
            raise NoCaption(f"{key} is {fault}")
    return captions
