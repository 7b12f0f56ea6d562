"""COCO: official annotation files with their folder of images."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from felga.corpus.items import BadItem, ImageItem, Listing, TextItem, Texts, texts_of
from felga.errors import BadInputError, NotFoundError
from felga.types import Box

THIN = 1.0  # pixels; a box with a shorter side shows nothing


@dataclass(frozen=True, slots=True)
class Truth:
    """A ground-truth box: ``x1, y1, x2, y2`` pixels, its class, whether it marks a crowd, its area.

    ``area`` is the annotation's: of the mask, in square pixels.
    """

    box: Box
    category_id: int
    crowd: bool
    area: float


@dataclass(frozen=True, slots=True)
class Instances:
    """A detection annotation file.

    Attributes:
        categories: id -> name, in the order of the ids.
        truths: image id -> its boxes; every image of the file has an entry.
        thin: how many boxes were left out because a side is under a pixel.
    """

    categories: dict[int, str]
    truths: dict[str, list[Truth]]
    thin: int


class CocoCorpus:
    """The images that a COCO json lists, and their captions if it has any.

    ``image_id`` and ``text_id`` are COCO's own ids.
    """

    kind = "coco"

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path | None = None,
        *,
        ids: str | Path | None = None,
        texts: Texts = "joined",
    ) -> None:
        """
        Args:
            annotations: captions or instances json.
            images: the folder of the images; None: texts alone.
            ids: a file with the image ids to take, one a line; None: all.
        """
        self._file = Path(annotations).absolute()
        if images is not None and not Path(images).is_dir():
            raise NotFoundError(f"{images} is not there: name the folder of the COCO images by --images")
        self.root = Path(images).absolute() if images is not None else self._file.parent
        self._with_images = images is not None
        self._ids = _read_ids(Path(ids)) if ids is not None else None
        self._texts: Texts = texts

    def settings(self) -> Mapping[str, Any]:
        """The annotation file, and how captions become texts."""
        return {"annotations": str(self._file), "texts": self._texts}

    def scan(self) -> Listing:
        """List images in the order of their ids; a file that is not there is a bad item."""
        data = read_coco(self._file)
        wanted = {str(row["id"]): str(row["file_name"]) for row in data["images"]}
        if self._ids is not None:
            if missing := sorted(self._ids - set(wanted)):
                raise BadInputError(
                    f"{len(missing)} of the ids asked for are not in {self._file.name}, such as {missing[0]}"
                )
            wanted = {image_id: name for image_id, name in wanted.items() if image_id in self._ids}
        images, bad = [], []
        for image_id, name in sorted(wanted.items()) if self._with_images else ():
            try:
                found = os.stat(self.root / name)
                if not stat.S_ISREG(found.st_mode):
                    raise OSError(0, "no regular file")
            except OSError as error:
                bad.append(BadItem("image", image_id, name, f"the file cannot be read: {error.strerror}"))
            else:
                images.append(ImageItem(image_id, name, found.st_size, found.st_mtime_ns))
        captions: dict[str, list[str]] = {}
        for row in sorted(data["annotations"], key=lambda row: row["id"]):
            if "caption" in row and str(row["image_id"]) in wanted:
                captions.setdefault(str(row["image_id"]), []).append(str(row["caption"]))
        texts: list[TextItem] = []
        for image_id in sorted(captions):
            texts += texts_of(captions[image_id], image_id, image_id, self._texts)
        return Listing(images, sorted(texts, key=lambda text: text.text_id), bad)


def read_instances(path: Path) -> Instances:
    """Ground truth of a COCO instances json; ``x, y, w, h`` becomes ``x1, y1, x2, y2`` here."""
    data = read_coco(path)
    if not isinstance(data.get("categories"), list) or any("bbox" not in row for row in data["annotations"]):
        raise BadInputError(f"{path} has no categories and boxes: wanted a COCO instances json")
    categories = {int(row["id"]): str(row["name"]) for row in data["categories"]}
    truths: dict[str, list[Truth]] = {str(row["id"]): [] for row in data["images"]}
    thin = 0
    for row in sorted(data["annotations"], key=lambda row: row["id"]):
        x, y, width, height = (float(value) for value in row["bbox"])
        if min(width, height) < THIN:
            thin += 1
            continue
        truth = Truth(
            (x, y, x + width, y + height),
            int(row["category_id"]),
            bool(row.get("iscrowd", 0)),
            float(row.get("area", width * height)),
        )
        truths[str(row["image_id"])].append(truth)
    return Instances(dict(sorted(categories.items())), truths, thin)


def read_coco(path: Path) -> dict[str, Any]:
    """A COCO json, checked for ``images`` and ``annotations``.

    Read by json, not by pycocotools: that prints on stdout and builds indexes that are not needed here.
    """
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} is not there: name a COCO annotation json") from error
    except (ValueError, OSError) as error:
        raise BadInputError(
            f"{path} cannot be read as json ({error}): wanted a COCO annotation json"
        ) from error
    rows_needed = {"images": ("id", "file_name"), "annotations": ("id", "image_id")}
    for name, keys in rows_needed.items():
        rows = data.get(name) if isinstance(data, dict) else None
        if not isinstance(rows, list):
            raise BadInputError(f"{path} has no list {name!r}: wanted a COCO captions or instances json")
        for row in rows:
            if not isinstance(row, dict) or any(key not in row for key in keys):
                raise BadInputError(
                    f"{path} has a row in {name!r} without {' or '.join(keys)}: not COCO's format"
                )
    found: dict[str, Any] = data
    return found


def _read_ids(path: Path) -> frozenset[str]:
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} is not there: name a file of image ids, one a line") from error
    except (UnicodeDecodeError, OSError) as error:
        raise BadInputError(
            f"{path} is not readable as text ({error}): wanted image ids, one a line"
        ) from error
    ids = frozenset(line.strip() for line in text.splitlines() if line.strip())
    if not ids:
        raise BadInputError(f"{path} holds no id: wanted image ids, one a line")
    return ids
