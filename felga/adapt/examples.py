"""What a head learns from: boxes of an image, each of a class, of the background, or left out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from felga.boxes import area, iou
from felga.corpus.coco import Instances, Truth, read_instances
from felga.errors import BadInputError, did_you_mean
from felga.files import shown
from felga.types import Boxes, DecodedImage, Rows

FOREGROUND, BACKGROUND = 0.5, 0.3  # IoU with an object from which, and below which
INSIDE_CROWD = 0.5  # share of a box
COPIES, SHIFT = 3, 0.15  # jittered copies of each object; how far a side moves, in sides


class Examples(NamedTuple):
    """Boxes (n, 4) float32 in pixels of the original, and their labels (n,): 0..C-1, or C, background."""

    boxes: Boxes
    labels: Rows


@dataclass(frozen=True, slots=True)
class Task:
    """Which classes are learned, and from which images.

    Attributes:
        classes: C distinct names.
        images: image id -> its file name, in the order of the ids.
        truths: image id -> its boxes of these classes.
    """

    classes: tuple[str, ...]
    images: dict[str, str]
    truths: dict[str, list[Truth]]
    _place: dict[int, int]

    @property
    def boxes(self) -> int:
        """How many boxes there are, without crowds."""
        return sum(not one.crowd for own in self.truths.values() for one in own)

    def examples(self, image: DecodedImage, proposals: Boxes) -> Examples:
        """The proposals, the objects and jittered copies of these; between the two IoUs none, nor in crowds.

        Args:
            proposals: (n, 4).

        Raises:
            BadInputError: a box lies outside its image.
        """
        own = self.truths[image.image_id]
        objects = _inside(image, _boxes(own, crowd=False))
        classes = np.array([self._place[one.category_id] for one in own if not one.crowd], np.int64)
        boxes = np.concatenate([proposals, objects, _jittered(objects, image)])
        boxes = boxes[area(boxes) > 0]
        labels = np.full(len(boxes), len(self.classes))
        if len(objects):
            overlap = iou(boxes, objects)
            best = overlap.max(1)
            labels[best >= BACKGROUND] = -1
            labels = np.where(best >= FOREGROUND, classes[overlap.argmax(1)], labels)
        for crowd in _boxes(own, crowd=True):
            shared = np.minimum(boxes[:, 2:], crowd[2:]) - np.maximum(boxes[:, :2], crowd[:2])
            inside = np.maximum(shared, 0).prod(1) > INSIDE_CROWD * area(boxes)
            labels[inside & (labels == len(self.classes))] = -1
        return Examples(boxes[labels >= 0], labels[labels >= 0])


def read_task(
    instances: Path, classes: Sequence[str] | None = None, leave_out: tuple[int, int] | None = None
) -> Task:
    """What is to be learned of a COCO instances json; arguments as of :func:`felga.adapt.adapting.adapt`.

    Raises:
        NotFoundError, BadInputError: the file is missing or no such json, has no box, or a class is unknown,
            there twice, unnamed, or without a box.
    """
    truth = read_instances(instances)
    chosen = _chosen(instances, truth, classes)
    ids = sorted(truth.files, key=lambda one: (not one.isdecimal(), int(one) if one.isdecimal() else 0, one))
    ids = [one for at, one in enumerate(ids) if leave_out is None or at % leave_out[0] != leave_out[1]]
    truths = {one: [box for box in truth.truths[one] if box.category_id in chosen] for one in ids}
    found = {box.category_id for own in truths.values() for box in own if not box.crowd}
    if not found:
        raise BadInputError(f"{shown(instances)} has no box to learn from: name COCO's instances json")
    if lacking := [name for category, name in chosen.items() if category not in found]:
        raise BadInputError(
            f"{shown(instances)} has no box of {lacking[0]!r}"
            + (f" and {len(lacking) - 1} other classes" if len(lacking) > 1 else "")
            + ": draw some, or choose the classes to learn with --classes"
        )
    place = {category: at for at, category in enumerate(chosen)}
    return Task(tuple(chosen.values()), {one: truth.files[one] for one in ids}, truths, place)


def _chosen(instances: Path, truth: Instances, classes: Sequence[str] | None) -> dict[int, str]:
    """Id -> name of the classes to learn, in the order of the ids."""
    known = list(truth.categories.values())
    asked = list(known if classes is None else classes)
    for name, count in Counter(asked).items():
        if name not in known:
            raise BadInputError(f"{shown(instances)} has no class {name!r}: {did_you_mean(name, known)}")
        if count > 1 or known.count(name) > 1:
            where = "--classes" if known.count(name) == 1 else shown(instances)
            raise BadInputError(f"{where} names the class {name!r} twice: each class needs a name of its own")
        if not name.strip():
            raise BadInputError(f"{shown(instances)} has a class without a name: give it one")
    return {category: name for category, name in truth.categories.items() if name in asked}


def _boxes(truths: Sequence[Truth], *, crowd: bool) -> Boxes:
    return np.array([one.box for one in truths if one.crowd is crowd], np.float32).reshape(-1, 4)


def _inside(image: DecodedImage, boxes: Boxes) -> Boxes:
    """Boxes cut to their image.

    Raises:
        BadInputError: one lies outside: the boxes are of another image, or of one that was resized or turned.
    """
    cut = np.clip(boxes, 0, np.array([image.width, image.height] * 2, np.float32))
    if len(outside := np.flatnonzero(area(cut) == 0)):
        box = ", ".join(f"{value:g}" for value in boxes[outside[0]].tolist())
        raise BadInputError(
            f"the box {box} lies outside its image {image.image_id}, which has {image.width}x{image.height} "
            "pixels: expected x1, y1, x2, y2 in pixels of the upright original"
        )
    return cut


def _jittered(objects: Boxes, image: DecodedImage) -> Boxes:
    """:data:`COPIES` copies of each object, every side moved a little; the same for the same image id."""
    mark = hashlib.sha256(image.image_id.encode()).digest()[:8]
    rng = np.random.default_rng(list(mark))
    sides = np.tile(objects[:, 2:] - objects[:, :2], (1, 2))
    copies = [objects + rng.uniform(-SHIFT, SHIFT, objects.shape) * sides for _ in range(COPIES)]
    limits = np.array([image.width, image.height] * 2)
    return np.clip(np.concatenate(copies), 0, limits).astype(np.float32)
