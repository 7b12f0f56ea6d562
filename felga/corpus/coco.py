"""COCO: a corpus by its annotation files and folder of images; ground truth; the official layout."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from felga.corpus.annotations import (
    CaptionRow,
    MalformedRow,
    as_id,
    caption_rows,
    finite,
    image_rows,
    integer,
    order,
    read_json,
)
from felga.corpus.captions import quoted
from felga.corpus.decode import read_file
from felga.corpus.items import (
    BadItem,
    ImageItem,
    Listing,
    TextItem,
    Texts,
    make_listing,
    texts_of,
    unicode_fault,
)
from felga.errors import BadInputError, NotFoundError
from felga.files import read_lines, shown
from felga.types import Box

THIN = 1.0  # pixels; boxes with a shorter side are left out
SPLITS = ("train2017", "val2017", "train2014", "val2014")


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
        files: image id -> its file name.
        thin: number of boxes left out because a side is shorter than a pixel.
    """

    categories: dict[int, str]
    truths: dict[str, list[Truth]]
    files: dict[str, str]
    thin: int


@dataclass(frozen=True, slots=True)
class CocoFiles:
    """The official files of one split.

    Attributes:
        name: one of :data:`SPLITS`.
    """

    name: str
    captions: Path
    instances: Path
    images: Path

    @property
    def year(self) -> int:
        """2014 or 2017."""
        return int(self.name[-4:])


def coco_files(root: Path, split: str) -> CocoFiles:
    """The files of a split below ``root``, by their official names.

    Raises:
        BadInputError: not a split of COCO 2014 or 2017.
        NotFoundError: names every file that is missing.
    """
    if split not in SPLITS:
        raise BadInputError(f"there is no split {split!r}: expected {', '.join(SPLITS)}")
    files = CocoFiles(
        split,
        root / "annotations" / f"captions_{split}.json",
        root / "annotations" / f"instances_{split}.json",
        root / split,
    )
    missing = [shown(path) for path in (files.captions, files.instances, files.images) if not path.exists()]
    if missing:
        raise NotFoundError(
            f"{', '.join(missing)} not found: give the folder of COCO with --root "
            f"(felga data coco{files.year} downloads it)"
        )
    return files


def coco(argument: str, *, texts: Texts = "joined") -> CocoCorpus:
    """The corpus ``coco:CAPTIONS.json@IMAGES``; without ``@IMAGES`` its texts alone.

    Raises:
        BadInputError: no annotation file is given.
        NotFoundError: no such folder of images.
    """
    file, at, images = argument.rpartition("@")
    if not at or Path(argument).is_file():
        file, images = argument, ""
    if not file:
        raise BadInputError("coco needs an annotation file: coco:CAPTIONS.json@IMAGES")
    return CocoCorpus(file, images or None, texts=texts)


class CocoCorpus:
    """The images listed in a COCO json, and their captions if it has any.

    ``image_id`` and ``text_id`` are COCO's ids. A file name that leads out of the folder of images, also by a
    link, is quarantined: the json may come from a stranger.
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
            ids: a file with the ids of the images to take, one per line; None: all.

        Raises:
            NotFoundError: the folder of images, or the file of ids, does not exist.
            BadInputError: the file of ids is empty or not UTF-8.
        """
        self._file = Path(annotations).absolute()
        if images is not None and not Path(images).is_dir():
            raise NotFoundError(
                f"{shown(images)} does not exist: give the folder of the COCO images with --images"
            )
        self.root = Path(images).absolute() if images is not None else self._file.parent
        self._with_images = images is not None
        self._ids = frozenset(read_lines(Path(ids), "image ids")) if ids is not None else None
        self._texts: Texts = texts

    def settings(self) -> Mapping[str, Any]:
        """The annotation file, and how captions become texts."""
        return {"annotations": str(self._file), "texts": self._texts}

    def read(self, item: ImageItem) -> bytes:
        """The bytes of an image.

        Raises:
            UnreadableImage: the file is gone, empty, not regular or too large.
        """
        return read_file(self.root / item.path)

    def scan(self) -> Listing:
        """List images and captions; malformed rows and missing files are bad items.

        Raises:
            NotFoundError: no annotation file.
            BadInputError: it is not a COCO json, or lacks one of the ids asked for.
        """
        data = read_json(self._file)
        bad: list[BadItem] = []
        images: list[ImageItem] = []
        known: set[str] = set()
        inside = _Inside(self.root)
        for row in image_rows(data):
            if isinstance(row, MalformedRow):
                bad.append(self._malformed("image", row))
                continue
            known.add(row.image_id)
            if not (self._with_images and self._asked_for(row.image_id)):
                continue
            path = row.file_name if row.fault else os.fsdecode(os.fsencode(row.file_name))
            status = row.fault or inside.status(path)
            if isinstance(status, str):
                bad.append(BadItem("image", row.image_id, shown(path), status))
            else:
                images.append(ImageItem(row.image_id, path, status.st_size, status.st_mtime_ns))
        if data["images"] and not known:
            raise BadInputError(
                f"{shown(self._file)} has no usable image: {bad[0].item_id}: {bad[0].reason}; not COCO"
            )
        self._check_ids(known)
        return make_listing(images, self._captions(data, known, bad), bad)

    def _captions(self, data: Mapping[str, Any], known: set[str], bad: list[BadItem]) -> list[TextItem]:
        captions: dict[str, list[CaptionRow]] = {}
        for row in caption_rows(data):
            if isinstance(row, MalformedRow):
                bad.append(self._malformed("text", row))
            elif row.image_id not in known:
                reason = "its image is not in the file"
                bad.append(BadItem("text", row.image_id, self._file.name, reason))
            elif self._asked_for(row.image_id):
                captions.setdefault(row.image_id, []).append(row)
        return [
            text
            for image_id, rows in captions.items()
            for text in texts_of(
                [row.caption for row in sorted(rows, key=lambda row: row.order)],
                image_id,
                image_id,
                self._texts,
            )
        ]

    def _asked_for(self, image_id: str) -> bool:
        return self._ids is None or image_id in self._ids

    def _check_ids(self, known: set[str]) -> None:
        if missing := sorted((self._ids or frozenset()) - known):
            raise BadInputError(
                f"{len(missing)} of the requested ids are not in {shown(self._file.name)}, "
                f"such as {quoted(missing[0])}"
            )

    def _malformed(self, kind: Literal["image", "text"], row: MalformedRow) -> BadItem:
        name = shown(self._file.name)
        return BadItem(kind, f"{name}:{row.where}", name, row.reason)


class _Inside:
    """Looks up files that stay inside a folder, also where links lead."""

    def __init__(self, root: Path) -> None:
        self._root, self._real = root, os.path.realpath(root)
        self._folders: dict[str, bool] = {}

    def status(self, name: str) -> os.stat_result | str:
        """The status of a regular file, or the reason why there is none."""
        path = os.path.join(self._root, name)
        folder = os.path.dirname(path)
        try:
            is_link = stat.S_ISLNK(os.lstat(path).st_mode)
            status = os.stat(path)
        except OSError as error:
            return f"the file cannot be read: {error.strerror}"
        if folder not in self._folders:
            self._folders[folder] = self._holds(folder)
        if not self._folders[folder] or (is_link and not self._holds(path)):
            return "the file is a link that leaves the folder of images"
        if not stat.S_ISREG(status.st_mode):  # a pipe would never end
            return "not a regular file"
        return status

    def _holds(self, path: str) -> bool:
        return os.path.commonpath([self._real, os.path.realpath(path)]) == self._real


def read_coco(path: Path) -> dict[str, Any]:
    """A COCO json whose images and annotations all have the fields that COCO requires of them.

    Raises:
        NotFoundError: no such file.
        BadInputError: not a COCO file; or a malformed row, which the message names.
    """
    data = read_json(path)
    for image in image_rows(data):
        if isinstance(image, MalformedRow):
            raise _malformed(path, *image)
        if image.fault:
            raise _malformed(path, f"image {image.image_id}", image.fault)
    for n, row in enumerate(data["annotations"]):
        if not isinstance(row, dict) or as_id(row.get("image_id")) is None or as_id(row.get("id")) is None:
            raise _malformed(path, f"annotations[{n}]", "no usable id and image_id")
    return data


def read_instances(path: Path) -> Instances:
    """Ground truth of a COCO instances json; ``x, y, w, h`` becomes ``x1, y1, x2, y2``.

    A malformed row is an error, never skipped: it would silently change every measurement.

    Raises:
        NotFoundError: no such file.
        BadInputError: not a COCO instances json; or a malformed row, which the message names.
    """
    data = read_coco(path)
    rows = data["annotations"]
    if not isinstance(data.get("categories"), list) or any("bbox" not in row for row in rows):
        raise BadInputError(f"{shown(path)} has no categories and boxes: expected a COCO instances json")
    categories: dict[int, str] = {}
    for n, row in enumerate(data["categories"]):
        category = integer(row.get("id")) if isinstance(row, dict) else None
        name = row.get("name") if isinstance(row, dict) else None
        if category is None or not isinstance(name, str) or unicode_fault(name):
            raise _malformed(path, f"categories[{n}]", "expected an integer id and a name")
        categories[category] = name
    files = {str(as_id(row["id"])): str(row["file_name"]) for row in data["images"]}
    truths: dict[str, list[Truth]] = {image_id: [] for image_id in files}
    thin = 0
    for n in sorted(range(len(rows)), key=lambda n: order(rows[n]["id"])):
        image_id = str(as_id(rows[n]["image_id"]))
        where = f"annotations[{n}]"
        if image_id not in truths:
            raise _malformed(path, where, f"its image {quoted(image_id)} is not in the file")
        truth = _truth(rows[n], path, where)
        if truth.category_id not in categories:
            raise _malformed(path, where, f"its category {truth.category_id} is not in the file")
        if min(rows[n]["bbox"][2:]) < THIN:  # as written: the sides of the box may differ by rounding
            thin += 1
        else:
            truths[image_id].append(truth)
    return Instances(dict(sorted(categories.items())), truths, files, thin)


def _truth(row: Mapping[str, Any], path: Path, where: str) -> Truth:
    box, category, crowd = row["bbox"], integer(row.get("category_id")), row.get("iscrowd") or 0
    numbers = [finite(value) for value in box] if isinstance(box, list) else []
    x, y, width, height = numbers if len(numbers) == 4 else [None] * 4
    if x is None or y is None or width is None or height is None:
        raise _malformed(path, where, f"bbox is {quoted(box)}, expected [x, y, width, height]")
    if category is None:
        raise _malformed(path, where, f"category_id is {quoted(row.get('category_id'))}, expected an integer")
    if crowd not in (0, 1):
        raise _malformed(path, where, f"iscrowd is {quoted(crowd)}, expected 0 or 1")
    area = width * height if row.get("area") is None else finite(row["area"])
    if area is None or not math.isfinite(area):
        raise _malformed(path, where, f"area is {quoted(row['area'])}, expected a number")
    return Truth((x, y, x + width, y + height), category, bool(crowd), area)


def _malformed(path: Path, where: str, reason: str) -> BadInputError:
    return BadInputError(f"{shown(path)} is not a COCO file that can be used: {where}: {reason}")
