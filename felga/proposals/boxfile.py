"""Boxes that another program proposed, read from a json file.

The form is recognized by its shape:

* COCO instances: ``{"images": [...], "annotations": [{"image_id", "bbox": [x, y, w, h], "category_id"}],
  "categories": [{"id", "name"}]}``; crowd annotations are skipped.
* COCO results, as written by COCO's tools and FiftyOne: ``[{"image_id", "bbox": [x, y, w, h], "score",
  "category_id"}]``.
* felga's form: ``{image_id: [{"box": [x1, y1, x2, y2], "score", "label"}]}``; a bare ``[x1, y1, x2, y2]``
  is accepted too.

Boxes are pixels of the upright original. A missing score is 1. Ids are compared as text. If a COCO file
lists ``images``, an image is also found by its ``file_name``, with or without folder and suffix.

A malformed row makes the whole file unusable: the error names the row and its image. A box outside its
image is dropped.
"""

from __future__ import annotations

import hashlib
import json
import os
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from felga.errors import BadInputError, NotFoundError
from felga.files import read_regular
from felga.proposals.regions import as_regions
from felga.types import Box, DecodedImage, Region

Form = Literal["coco", "results", "felga"]

VERSION = 1
"""Raised when the same file yields other regions."""
LARGEST = float(np.finfo(np.float32).max)


class Row(NamedTuple):
    """One box of a file: ``x1, y1, x2, y2`` pixels, its score and its label."""

    box: Box
    score: float
    label: str | None


def boxes(argument: str, *, device: str = "auto") -> BoxFile:
    """The proposer ``boxes:FILE``.

    Args:
        argument: the path of a json file.
        device: ignored.

    Raises:
        NotFoundError: no such file.
        BadInputError: unreadable, not json, not one of the three forms, or a malformed row.
    """
    if not argument:
        raise BadInputError("boxes needs a json file: boxes:FILE")
    return BoxFile(Path(os.path.expanduser(argument)))


class BoxFile:
    """Regions from a file; an image that the file does not list has none."""

    def __init__(self, path: Path) -> None:
        self.name = f"boxes:{path}"
        self.path = path
        data = _read(path)
        self._sha256 = hashlib.sha256(data).hexdigest()
        try:
            content = json.loads(data)
        except RecursionError as error:
            raise BadInputError(f"{str(path)!r} is not a box file: its json is nested too deeply") from error
        except ValueError as error:
            raise BadInputError(f"{str(path)!r} is not json: {error}") from error
        self.form = _form(content, path)
        self._rows: dict[str, list[Row]] = {}
        for image_id, row in READERS[self.form](content, path):
            self._rows.setdefault(image_id, []).append(row)
        self._ids = _ids_by_name(content, path) if self.form == "coco" else {}

    def settings(self) -> dict[str, Any]:
        """The form of the file and its sha256."""
        return {"name": "boxes", "version": VERSION, "form": self.form, "file": self._sha256}

    def propose(self, images: Sequence[DecodedImage], top: int) -> list[list[Region]]:
        """For each image the file's ``top`` best boxes, clipped to the image; ties keep the file's order."""
        return [self._propose(image, top) for image in images]

    def _propose(self, image: DecodedImage, top: int) -> list[Region]:
        rows = self._rows.get(image.image_id)
        if rows is None:
            rows = self._rows.get(self._ids.get(image.image_id, ""), [])
        corners = np.array([row.box for row in rows], np.float64).reshape(-1, 4)
        return as_regions(image, corners, [row.score for row in rows], top, [row.label for row in rows])


def _read(path: Path) -> bytes:
    try:
        return read_regular(path)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no box file {str(path)!r}") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise BadInputError(f"cannot read the box file {str(path)!r}: {reason}") from error


def _form(content: Any, path: Path) -> Form:
    if isinstance(content, list):
        return "results"
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        return "coco"
    if isinstance(content, dict) and all(isinstance(rows, list) for rows in content.values()):
        return "felga"
    forms = "COCO instances, a list of COCO results, or {image_id: [boxes]}"
    raise BadInputError(f"{str(path)!r} is not a box file: expected {forms}")


def _coco(content: Mapping[str, Any], path: Path) -> Iterator[tuple[str, Row]]:
    labels = _labels(content, path)
    for i, entry in enumerate(content["annotations"]):
        where = f"annotation {i} of {str(path)!r}"
        crowd = entry.get("iscrowd") if isinstance(entry, dict) else None
        if not (crowd is None or (isinstance(crowd, int) and crowd in (0, 1))):
            raise BadInputError(f"{where} has iscrowd {reprlib.repr(crowd)}: expected 0 or 1")
        if not crowd:
            yield _coco_row(entry, labels, where)


def _results(content: Sequence[Any], path: Path) -> Iterator[tuple[str, Row]]:
    for i, entry in enumerate(content):
        yield _coco_row(entry, {}, f"entry {i} of {str(path)!r}")


def _felga(content: Mapping[str, Sequence[Any]], path: Path) -> Iterator[tuple[str, Row]]:
    for name, rows in content.items():
        image_id = _text(name, repr(str(path)), "image id")
        for i, row in enumerate(rows):
            where = f"box {i} of image {image_id!r} in {str(path)!r}"
            entry = row if isinstance(row, dict) else {"box": row}
            if "box" not in entry:
                raise BadInputError(f"{where} has no 'box'")
            label = entry.get("label")
            box = _numbers(entry["box"], where, "[x1, y1, x2, y2]")
            yield image_id, _row(box, entry, None if label is None else _text(label, where, "label"), where)


def _coco_row(entry: Any, labels: Mapping[str, str], where: str) -> tuple[str, Row]:
    if not isinstance(entry, dict) or "image_id" not in entry or "bbox" not in entry:
        raise BadInputError(f"{where} has no 'image_id' or no 'bbox'")
    image_id = _text(entry["image_id"], where, "image_id")
    where = f"{where} (image {image_id!r})"
    x, y, width, height = _numbers(entry["bbox"], where, "[x, y, width, height]")
    label = None
    if entry.get("category_id") is not None:
        category = _text(entry["category_id"], where, "category_id")
        label = labels.get(category, category)
    return image_id, _row((x, y, x + width, y + height), entry, label, where)


def _row(box: Box, entry: Mapping[str, Any], label: str | None, where: str) -> Row:
    score = _float(entry.get("score", 1.0))
    if score is None:
        raise BadInputError(f"{where} has the score {reprlib.repr(entry['score'])}: expected a finite number")
    if not (box[0] < box[2] and box[1] < box[3]):
        raise BadInputError(f"{where} encloses nothing: {list(box)}")
    return Row(box, score, label)


def _numbers(value: Any, where: str, form: str) -> Box:
    numbers = [_float(number) for number in value] if isinstance(value, list) and len(value) == 4 else []
    finite = [number for number in numbers if number is not None]
    if len(finite) != 4:
        raise BadInputError(f"{where} has the box {reprlib.repr(value)}: expected {form}, finite numbers")
    return finite[0], finite[1], finite[2], finite[3]


def _float(value: Any) -> float | None:
    """A json number that float32 can hold; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= LARGEST else None


def _text(value: Any, where: str, what: str) -> str:
    """A json string, or an integer as text."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise BadInputError(f"{where} has the {what} {reprlib.repr(value)}: expected a string or an integer")
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadInputError(f"{where} has the {what} {reprlib.repr(value)}: not valid Unicode") from error
    return text


READERS: dict[Form, Callable[[Any, Path], Iterator[tuple[str, Row]]]] = {
    "coco": _coco,
    "results": _results,
    "felga": _felga,
}


def _objects(content: Mapping[str, Any], key: str, path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The objects listed under ``key``, each with its place for error messages; none without the key."""
    rows = content.get(key, [])
    if not isinstance(rows, list):
        raise BadInputError(f"{key!r} of {str(path)!r} is {reprlib.repr(rows)}: expected a list of objects")
    for i, row in enumerate(rows):
        where = f"{key}[{i}] of {str(path)!r}"
        if not isinstance(row, dict):
            raise BadInputError(f"{where} is {reprlib.repr(row)}: expected an object")
        yield where, row


def _labels(content: Mapping[str, Any], path: Path) -> dict[str, str]:
    """Category id -> name."""
    labels = {}
    for where, row in _objects(content, "categories", path):
        if "id" not in row or "name" not in row:
            raise BadInputError(f"{where} has no 'id' or no 'name'")
        labels[_text(row["id"], where, "id")] = _text(row["name"], where, "name")
    return labels


def _ids_by_name(content: Mapping[str, Any], path: Path) -> dict[str, str]:
    """File name -> image id; also without folder and suffix, unless two images would share that name."""
    names: dict[str, str] = {}
    short: dict[str, set[str]] = {}
    for where, row in _objects(content, "images", path):
        if "file_name" in row and "id" in row:
            image_id = _text(row["id"], where, "id")
            name = _text(row["file_name"], where, "file_name")
            names[name] = image_id
            for key in (Path(name).name, Path(name).stem):
                short.setdefault(key, set()).add(image_id)
    return {key: next(iter(ids)) for key, ids in short.items() if len(ids) == 1} | names
