"""Regions and what captions say about them, from COCO's boxes and captions: what alignment learns from.

COCO has no region captions. A phrase describes a box for certain only if a caption of the image names
the box's class and the image has one box of that class, no crowd. AlignCap's abstract names no data: this is
ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from felga.alignment.phrases import region_phrase
from felga.corpus.annotations import CaptionRow, caption_rows
from felga.corpus.coco import Instances, read_coco, read_instances
from felga.errors import BadInputError
from felga.files import shown
from felga.types import Boxes, Rows

LeaveOut = tuple[int, int]
"""``(n, k)``: images whose position, by id, is k modulo n are held out."""


@dataclass(frozen=True, slots=True, eq=False)
class RegionTexts:
    """The boxes of some images, without crowds, in the order of the images.

    Attributes:
        images: id and file of each.
        class_names: C names, in the order of their ids.
        boxes: (N, 4) pixels.
        box_image: (N,) 0..images-1; box_class: (N,) 0..C-1.
        phrases: of each box; empty where no caption surely describes it.
    """

    images: list[tuple[str, Path]]
    class_names: list[str]
    boxes: Boxes
    box_image: Rows
    box_class: Rows
    phrases: list[list[str]]

    @property
    def described(self) -> Rows:
        """The boxes with phrases."""
        return np.flatnonzero([len(own) > 0 for own in self.phrases])


def read_region_texts(
    instances: Path, captions: Path, images: Path, *, leave_out: LeaveOut | None = None, only: bool = False
) -> RegionTexts:
    """The boxes of an instances file with phrases from the captions of the same images.

    Args:
        images: the folder of the images.
        leave_out: without these images, or with ``only`` these images alone.

    Raises:
        NotFoundError: no such file.
        BadInputError: not COCO files, or no caption describes a box.
    """
    truth = read_instances(instances)
    spoken = _captions(captions)
    ids = sorted(truth.truths, key=lambda one: (len(one), one))
    if leave_out is not None:
        n, k = leave_out
        ids = [one for at, one in enumerate(ids) if (at % n == k) == only]
    names, place = list(truth.categories.values()), {one: c for c, one in enumerate(truth.categories)}
    boxes, box_image, box_class, phrases = [], [], [], []
    for at, image_id in enumerate(ids):
        counts = Counter(one.category_id for one in truth.truths[image_id])
        for one in truth.truths[image_id]:
            if one.crowd:
                continue
            name = truth.categories[one.category_id]
            said = spoken.get(image_id, ()) if counts[one.category_id] == 1 else ()
            phrases.append([p for text in said if (p := region_phrase(text, name)) is not None])
            boxes.append(one.box)
            box_image.append(at)
            box_class.append(place[one.category_id])
    if not any(phrases):
        raise BadInputError(
            f"no caption of {shown(captions)} names an object of {shown(instances)} that is alone of its "
            "class in its image: name the captions and instances of the same images"
        )
    return RegionTexts(
        _files(ids, truth, images),
        names,
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(box_image, np.int64),
        np.array(box_class, np.int64),
        phrases,
    )


def _files(ids: Sequence[str], truth: Instances, images: Path) -> list[tuple[str, Path]]:
    return [(one, images / truth.files[one]) for one in ids]


def _captions(path: Path) -> dict[str, list[str]]:
    """Image id -> its captions, in the order of their ids."""
    rows = [row for row in caption_rows(read_coco(path)) if isinstance(row, CaptionRow)]
    if not rows:
        raise BadInputError(f"{shown(path)} has no captions: expected a COCO captions json")
    found: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda row: row.order):
        found.setdefault(row.image_id, []).append(row.caption)
    return found
