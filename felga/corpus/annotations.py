"""The rows of COCO's annotation files, one by one: a malformed row costs that row alone."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from felga.corpus.captions import json_kind, load_json, quoted
from felga.corpus.items import path_fault, unicode_fault
from felga.errors import BadInputError, NotFoundError
from felga.files import read_regular, shown


class ImageRow(NamedTuple):
    """An image of a COCO file; ``fault`` is the reason why its file name cannot be used."""

    image_id: str
    file_name: str
    fault: str | None


class CaptionRow(NamedTuple):
    """A caption of a COCO file; ``order`` sorts the captions of an image by annotation id."""

    image_id: str
    order: tuple[int, float, str]
    caption: str


class MalformedRow(NamedTuple):
    """A row that cannot be used: where it stands, such as ``images[3]``, and the reason."""

    where: str
    reason: str


def read_json(path: Path) -> dict[str, Any]:
    """A json object with the lists ``images`` and ``annotations``; their rows are not checked.

    Read by json, not by pycocotools: that prints to stdout and builds indexes that are not needed here.

    Raises:
        NotFoundError: no such file.
        BadInputError: unreadable, not json, or not a COCO file.
    """
    expected = "expected a COCO annotation json"
    try:
        content = load_json(read_regular(path))
    except FileNotFoundError as error:
        raise NotFoundError(f"{shown(path)} does not exist: name a COCO annotation json") from error
    except OSError as error:
        raise BadInputError(f"{shown(path)} cannot be read ({error.strerror}): {expected}") from error
    except ValueError as error:
        raise BadInputError(f"{shown(path)} is not json ({error}): {expected}") from error
    for name in ("images", "annotations"):
        if not (isinstance(content, dict) and isinstance(content.get(name), list)):
            raise BadInputError(f"{shown(path)} has no list {name!r}: {expected}")
    data: dict[str, Any] = content
    return data


def image_rows(data: Mapping[str, Any]) -> Iterator[ImageRow | MalformedRow]:
    """The images of a COCO file; ids become text."""
    for n, row in enumerate(data["images"]):
        where = f"images[{n}]"
        if not isinstance(row, dict):
            yield MalformedRow(where, f"{json_kind(row)}, expected an object")
        elif (image_id := as_id(row.get("id"))) is None:
            yield MalformedRow(where, f"id is {quoted(row.get('id'))}, expected a number or a string")
        else:
            name = row.get("file_name")
            fault = _name_fault(name)
            yield ImageRow(image_id, quoted(name) if fault else str(name), fault)


def caption_rows(data: Mapping[str, Any]) -> Iterator[CaptionRow | MalformedRow]:
    """The captions of a COCO file; annotations without ``caption`` are skipped."""
    for n, row in enumerate(data["annotations"]):
        where = f"annotations[{n}]"
        if not isinstance(row, dict):
            yield MalformedRow(where, f"{json_kind(row)}, expected an object")
        elif (image_id := as_id(row.get("image_id"))) is None:
            reason = f"image_id is {quoted(row.get('image_id'))}, expected a number or a string"
            yield MalformedRow(where, reason)
        elif "caption" in row:
            caption = row["caption"]
            if not isinstance(caption, str):
                yield MalformedRow(where, f"caption is {json_kind(caption)}, expected a string")
            elif fault := unicode_fault(caption):
                yield MalformedRow(where, f"caption is {fault}")
            else:
                yield CaptionRow(image_id, order(row.get("id")), caption)


def as_id(value: Any) -> str | None:
    """An id as text, or None if it is none. Numbers may come as floats: 9.0 is the id 9."""
    if isinstance(value, str):
        return value if value and not unicode_fault(value) else None
    if isinstance(value, float) and value.is_integer():  # neither NaN nor infinite
        return str(int(value))
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def finite(value: Any) -> float | None:
    """A number that fits into float32, or None."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if -3e38 < value < 3e38 else None


def integer(value: Any) -> int | None:
    """An integer, also if it is written as a float or a string; else None."""
    text = as_id(value)
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


def order(annotation_id: Any) -> tuple[int, float, str]:
    """Sorts annotation ids of any type: numbers first, then strings, then the rest in the file's order."""
    if isinstance(annotation_id, str):
        return 1, 0.0, annotation_id
    number = finite(annotation_id)
    return (2, 0.0, "") if number is None else (0, number, "")


def _name_fault(name: Any) -> str | None:
    """Why a file name cannot be used: names of a corpus stay below its folder."""
    if not isinstance(name, str):
        return f"file_name is {json_kind(name)}, expected a string"
    if not name:
        return "file_name is empty"
    if fault := path_fault(name):
        return f"file_name {fault}"
    normal = posixpath.normpath(name)
    if posixpath.isabs(name) or normal == ".." or normal.startswith("../"):
        return f"file_name {quoted(name)} leaves the folder of images"
    return None
