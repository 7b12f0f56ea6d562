"""Given boxes: proposals that another program made, read from a json file.

Three forms are known by their shape:

* COCO instances: ``{"images": [...], "annotations": [{"image_id", "bbox": [x, y, w, h], "category_id"}],
  "categories": [{"id", "name"}]}``; crowd annotations are left out.
* COCO results, as COCO's own tools and FiftyOne write them: ``[{"image_id", "bbox": [x, y, w, h], "score",
  "category_id"}]``.
* felga's own: ``{image_id: [{"box": [x1, y1, x2, y2], "score", "label"}]}``; a bare ``[x1, y1, x2, y2]``
  will do.

Boxes are pixels of the upright original. ``image_id`` is compared as text. A COCO file with ``file_name``
is also asked by that name, with or without its folder and suffix.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from felga.errors import BadInputError, NotFoundError
from felga.types import Box, DecodedImage, Region

Form = Literal["coco", "results", "felga"]

WHOLE = 0.99
"""A detector's box that covers this part of an image is the whole image, which has a row of its own."""


def boxes(argument: str, *, device: str = "auto") -> Given:
    """The proposer ``boxes:FILE``.

    Args:
        argument: the path of a json file.
        device: not used.

    Raises:
        NotFoundError: no such file. BadInputError: no json, of no known form, or a bad entry in it.
    """
    if not argument:
        raise BadInputError("boxes wants a json file: boxes:FILE")
    return Given(Path(argument).expanduser())


def as_regions(
    image: DecodedImage,
    boxes: npt.ArrayLike,
    scores: npt.ArrayLike,
    top: int,
    labels: Sequence[str | None] | None = None,
) -> list[Region]:
    """A detector's boxes as regions: cut to the image, best first, no two alike, never the whole image.

    Args:
        boxes: (n, 4) ``x1, y1, x2, y2``, pixels of the upright original; empty ones are dropped.
        scores: (n,), bigger is better; a tie keeps the given order.
        labels: (n,), the detector's names of classes.
    """
    limits = np.array([image.width, image.height] * 2, np.float32)
    cut = np.clip(np.asarray(boxes, np.float32).reshape(-1, 4), 0, limits)
    values = np.asarray(scores, np.float32).reshape(-1)
    found: dict[Box, Region] = {}
    for i in np.argsort(-values, kind="stable").tolist():
        x1, y1, x2, y2 = map(float, cut[i])
        covered = (x2 - x1) * (y2 - y1) / (image.width * image.height)
        if len(found) == top:
            break
        if x1 < x2 and y1 < y2 and covered < WHOLE and np.isfinite(values[i]):
            label = None if labels is None else labels[i]
            found.setdefault((x1, y1, x2, y2), Region((x1, y1, x2, y2), float(values[i]), label=label))
    return list(found.values())


class Given:
    """Proposals of a file; an image that it does not name has none."""

    name = "boxes"

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise NotFoundError(f"there is no file of boxes {str(path)!r}")
        self.path = path
        data = path.read_bytes()
        self._sha256 = hashlib.sha256(data).hexdigest()
        try:
            content = json.loads(data)
        except ValueError as error:
            raise BadInputError(f"{str(path)!r} is no json: {error}") from error
        self.form = _form(content, path)
        self.name = f"boxes:{path}"
        self._regions: dict[str, list[Region]] = {}
        for image_id, region in READ[self.form](content, path):
            self._regions.setdefault(image_id, []).append(region)
        for own in self._regions.values():
            own.sort(key=lambda region: -region.score)  # stable: ties keep the file's order
        self._names = _file_names(content) if self.form == "coco" else {}

    def settings(self) -> dict[str, Any]:
        """The form of the file and its sha256."""
        return {"name": "boxes", "form": self.form, "file": self._sha256}

    def propose(self, images: Sequence[DecodedImage], top: int) -> list[list[Region]]:
        """For each image its ``top`` best boxes of the file, cut to the image."""
        return [self._of(image)[:top] for image in images]

    def _of(self, image: DecodedImage) -> list[Region]:
        own = self._regions.get(image.image_id)
        if own is None:
            own = self._regions.get(self._names.get(image.image_id, ""), [])
        found = []
        for region in own:
            x1, y1, x2, y2 = region.box
            box = (max(x1, 0.0), max(y1, 0.0), min(x2, float(image.width)), min(y2, float(image.height)))
            if box[0] < box[2] and box[1] < box[3] and box != image.whole:
                found.append(Region(box, region.score, label=region.label))
        return found


def _form(content: Any, path: Path) -> Form:
    if isinstance(content, list):
        return "results"
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        return "coco"
    if isinstance(content, dict) and all(isinstance(own, list) for own in content.values()):
        return "felga"
    wanted = "COCO instances, a list of COCO results, or {image_id: [boxes]}"
    raise BadInputError(f"{str(path)!r} holds no boxes: wanted {wanted}")


def _coco(content: Mapping[str, Any], path: Path) -> Iterator[tuple[str, Region]]:
    labels = _labels(content, path)
    for i, entry in enumerate(content["annotations"]):
        if not (isinstance(entry, dict) and entry.get("iscrowd")):
            yield _entry(entry, labels, f"annotation {i} of {str(path)!r}")


def _results(content: Sequence[Any], path: Path) -> Iterator[tuple[str, Region]]:
    for i, entry in enumerate(content):
        yield _entry(entry, {}, f"entry {i} of {str(path)!r}")


def _felga(content: Mapping[str, Sequence[Any]], path: Path) -> Iterator[tuple[str, Region]]:
    for image_id, own in content.items():
        for i, entry in enumerate(own):
            where = f"box {i} of {image_id!r} in {str(path)!r}"
            given = entry if isinstance(entry, dict) else {"box": entry}
            if "box" not in given:
                raise BadInputError(f"{where} has no 'box'")
            label = given.get("label")
            box = _numbers(given["box"], where, "[x1, y1, x2, y2]")
            yield image_id, _region(box, given, None if label is None else str(label), where)


def _entry(entry: Any, labels: Mapping[Any, str], where: str) -> tuple[str, Region]:
    if not isinstance(entry, dict) or "image_id" not in entry or "bbox" not in entry:
        raise BadInputError(f"{where} has no 'image_id' or no 'bbox'")
    x, y, width, height = _numbers(entry["bbox"], where, "[x, y, width, height]")
    category = entry.get("category_id")
    label = None if category is None else labels.get(category, str(category))
    return str(entry["image_id"]), _region((x, y, x + width, y + height), entry, label, where)


def _region(box: Box, entry: Mapping[str, Any], label: str | None, where: str) -> Region:
    score = entry.get("score", 1.0)
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise BadInputError(f"{where} has the score {score!r}; wanted a finite number")
    if not (box[0] < box[2] and box[1] < box[3]):
        raise BadInputError(f"{where} encloses nothing: {list(box)}")
    return Region(box, float(score), label=label)


def _numbers(value: Any, where: str, wanted: str) -> Box:
    numbers = value if isinstance(value, list) else []
    good = [float(v) for v in numbers if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) != 4 or len(good) != 4 or not all(map(math.isfinite, good)):
        raise BadInputError(f"{where} has the box {value!r}; wanted {wanted}")
    return good[0], good[1], good[2], good[3]


READ: dict[Form, Callable[[Any, Path], Iterator[tuple[str, Region]]]] = {
    "coco": _coco,
    "results": _results,
    "felga": _felga,
}


def _labels(content: Mapping[str, Any], path: Path) -> dict[Any, str]:
    try:
        return {own["id"]: str(own["name"]) for own in content.get("categories", [])}
    except (TypeError, KeyError) as error:
        raise BadInputError(f"a category of {str(path)!r} has no 'id' or no 'name'") from error


def _file_names(content: Mapping[str, Any]) -> dict[str, str]:
    """File name, with and without its suffix, -> image_id."""
    names: dict[str, str] = {}
    for image in content.get("images", []):
        if isinstance(image, dict) and "file_name" in image and "id" in image:
            name = str(image["file_name"])
            for own in (name, Path(name).name, Path(name).stem):
                names.setdefault(own, str(image["id"]))
    return names
