"""Where answers to class names go wrong in a labelled set: no box, wrong box or wrong concept.

A class that R labelled images show is asked for by its name, as ``felga search`` asks, and the answer is the
first R of the labelled images. Every image that shows the class is then in exactly one of four groups, and
every image of the answer in one of four, too; both times the first one that holds:

* of the images that show it: *no box*: no region has an IoU of 0.5 or more with an object of the class;
  *wrong concept*: it is not in the answer; *wrong box*: the best region is none of those that fit; *found*.
* of the images in the answer: *found*; *misplaced*: it shows the class, and the best region does not fit (a
  wrong box, or none that fits); *other class*: the best region fits an object of another class;
  *background*: it fits no object.

These are the categories of TIDE (Bolya et al. 2020, section 2.2) for a search that answers with one region
of each image: no box is its Missed; misplaced its Loc; other class its Cls; background its Bkg and Both. Its
Dupe cannot happen. Images that show a class only as a crowd are left out for this class.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from felga.boxes import iou
from felga.corpus.coco import Instances, Truth
from felga.engine import Engine
from felga.errors import BadInputError
from felga.files import shown
from felga.search.owners import Owner, best_owners
from felga.search.rules import image_rule
from felga.search.scoring import MeaningAndQuality
from felga.survey.names import Surveyed
from felga.types import Box, Flags, Progress

IOU = 0.5
"""From this IoU on, a region fits an object."""
Kind: TypeAlias = Literal["wrong box", "no box", "other class", "background"]


@dataclass(frozen=True, slots=True)
class ClassErrors:
    """Counts of one class, or of all together; see the module.

    Attributes:
        images: that show it; ``found + wrong_box + wrong_concept + no_box`` is the same.
        answers: images in the answer, as many, or fewer where images have no regions;
            ``found + misplaced + other_class + background`` is the same.
        taken_for: the other class that the best regions fit most often.
    """

    name: str
    images: int
    found: int
    wrong_box: int
    wrong_concept: int
    no_box: int
    answers: int
    misplaced: int
    other_class: int
    background: int
    taken_for: str | None = None


COUNTS = tuple(one.name for one in fields(ClassErrors) if one.type == "int")


@dataclass(frozen=True, slots=True)
class Mistake:
    """An image in the answer whose best region does not fit the class.

    Attributes:
        rank: in the answer, from 1.
        box: of the best region.
        shows: the class of the object that the box fits, of ``other class``; else None.
    """

    kind: Kind
    name: str
    rank: int
    score: float
    image_id: str
    path: str
    box: Box
    shows: str | None

    def as_dict(self) -> dict[str, Any]:
        """Its attributes as json values."""
        return {**asdict(self), "path": shown(self.path)}


@dataclass(frozen=True, slots=True)
class Breakdown:
    """The errors of a labelled set.

    Attributes:
        images: labelled images in the index.
        missing: labelled images that the index lacks.
        unlabelled: images of the index without an entry in the labels; they are left out.
        total: the sums over all classes.
        classes: those that an image shows, the commonest first.
        mistakes: of all answers, those of the best rank first.
    """

    images: int
    missing: int
    unlabelled: int
    total: ClassErrors
    classes: tuple[ClassErrors, ...]
    mistakes: tuple[Mistake, ...]


def breakdown(
    engine: Engine, labels: Instances, k: int = 50, *, progress: Progress | None = None
) -> Breakdown:
    """The errors of an index on a labelled set, with the ``k`` mistakes of the best rank.

    Images are matched by path, that of the labels' ``file_name``; if none has such a path, by id.

    Raises:
        BadInputError: ``k`` is below 1, the labels name no image of the index or no object in one, or a class
            has no name.
    """
    if k < 1:
        raise BadInputError(f"k must be at least 1, got {k}")
    job = _Job(Surveyed(engine), labels)
    found: list[ClassErrors] = []
    mistakes: list[_Wrong] = []
    for at, (category, own) in enumerate(job.shown.items(), 1):
        errors, wrong = job.of_class(category, own)
        found.append(errors)
        mistakes = sorted([*mistakes, *wrong], key=lambda one: one.rank)[:k]  # stable: common classes first
        if progress is not None:
            progress("classes", at, len(job.shown))
    sums = {name: sum(getattr(one, name) for one in found) for name in COUNTS}
    known = int(job.labelled.sum())
    return Breakdown(
        images=known,
        missing=len(labels.truths) - known,
        unlabelled=len(job.labelled) - known,
        total=ClassErrors("all", **sums),
        classes=tuple(found),
        mistakes=tuple(job.located(mistakes)),
    )


class _Wrong(NamedTuple):
    """A mistake whose image was not read yet; ``row`` is that of its region among all."""

    kind: Kind
    name: str
    rank: int
    score: float
    row: int
    shows: str | None


class _Job:
    """What all classes share.

    Attributes:
        labelled: (images,) bool.
        shown: class -> the images that show it, by position, the commonest class first.
    """

    def __init__(self, seen: Surveyed, labels: Instances) -> None:
        self._seen, self._names = seen, labels.categories
        truths = _matched(seen, labels)
        self.labelled: Flags = np.array([own is not None for own in truths], bool)
        self._fitting(truths)
        shown_by: dict[int, list[int]] = {}
        crowds: dict[int, list[int]] = {}
        for at, own in enumerate(truths):
            objects = {one.category_id for one in own or () if not one.crowd}
            for category in sorted(objects):
                shown_by.setdefault(category, []).append(at)
            for category in {one.category_id for one in own or ()} - objects:
                crowds.setdefault(category, []).append(at)
        if not shown_by:
            raise BadInputError("the labels hold no object in an image of the index: nothing can be judged")
        order = sorted(shown_by, key=lambda category: (-len(shown_by[category]), category))
        self.shown = {category: shown_by[category] for category in order}
        self._crowds = crowds
        names = [self._names[category] for category in order]
        if blank := [category for category in order if not self._names[category].strip()]:
            raise BadInputError(
                f"the category {blank[0]} of the labels has no name: a class is asked by name"
            )
        self._vectors = dict(zip(order, seen.queries.vectors(names), strict=True))

    def _fitting(self, truths: list[list[Truth] | None]) -> None:
        """Pairs of a region and the class of an object that it fits, with the IoU; by region."""
        rows: list[int] = []
        classes: list[int] = []
        ious: list[float] = []
        at = 0
        for batch in self._seen.index.images.batches(["boxes"]):
            for boxes in batch.column("boxes").to_pylist():
                objects = [one for one in truths[at] or () if not one.crowd]
                overlaps = iou(
                    np.array(boxes, np.float64).reshape(-1, 4),
                    np.array([one.box for one in objects], np.float64).reshape(-1, 4),
                )
                for region, other in np.argwhere(overlaps >= IOU).tolist():
                    rows.append(int(self._seen.offsets[at]) + region)
                    classes.append(objects[other].category_id)
                    ious.append(float(overlaps[region, other]))
                at += 1
        self._rows, self._classes = np.array(rows, np.int64), np.array(classes, np.int64)
        self._ious: npt.NDArray[np.float64] = np.array(ious, np.float64)

    def of_class(self, category: int, images: list[int]) -> tuple[ClassErrors, list[_Wrong]]:
        """The counts of a class that some images show, and its mistakes."""
        rows = self._rows[self._classes == category]
        fitted = set((np.searchsorted(self._seen.offsets, rows, side="right") - 1).tolist())
        fitting, shows = set(rows.tolist()), set(images)
        counts: Counter[str] = Counter()
        others: Counter[str] = Counter()
        mistakes: list[_Wrong] = []
        answer = self._answer(category, len(images))
        for rank, owner in enumerate(answer, 1):
            row = int(self._seen.offsets[owner.position]) + owner.best
            kind, other = self._kind(row, owner.position, category, shows, fitted, fitting)
            counts[kind or "found"] += 1
            if kind is not None:
                others.update([] if other is None else [other])
                mistakes.append(_Wrong(kind, self._names[category], rank, owner.score, row, other))
        no_box = len(images) - len(fitted)
        errors = ClassErrors(
            self._names[category],
            images=len(images),
            found=counts["found"],
            wrong_box=counts["wrong box"],
            wrong_concept=len(fitted) - counts["found"] - counts["wrong box"],
            no_box=no_box,
            answers=len(answer),
            misplaced=counts["wrong box"] + counts["no box"],
            other_class=counts["other class"],
            background=counts["background"],
            taken_for=others.most_common(1)[0][0] if others else None,
        )
        return errors, mistakes

    def _answer(self, category: int, k: int) -> list[Owner]:
        """The first ``k`` labelled images, as a search by the name of the class ranks them."""
        seen = self._seen
        images = self.labelled.copy()
        images[self._crowds.get(category, [])] = False
        (found,) = best_owners(
            seen.index.regions,
            seen.offsets,
            self._vectors[category][None],
            k,
            np.repeat(images, np.diff(seen.offsets)),
            scorer=MeaningAndQuality(),
            rule=image_rule("soft"),
            extras=seen.extras,
        )
        return found

    def _kind(
        self, row: int, image: int, category: int, shows: set[int], fitted: set[int], fitting: set[int]
    ) -> tuple[Kind | None, str | None]:
        """What is wrong with the best region of an image in the answer, and the other class that it fits."""
        if image in shows:
            kind: Kind | None = None if row in fitting else "wrong box" if image in fitted else "no box"
            return kind, None
        own = slice(*np.searchsorted(self._rows, [row, row + 1]).tolist())
        if not len(self._rows[own]):
            return "background", None
        return "other class", self._names[int(self._classes[own][self._ious[own].argmax()])]

    def located(self, mistakes: list[_Wrong]) -> list[Mistake]:
        """Mistakes with their image and the box of their region."""
        rows = np.array([one.row for one in mistakes], np.int64)
        images = np.searchsorted(self._seen.offsets, rows, side="right") - 1
        order = sorted(set(images.tolist()))
        columns = ["image_id", "path", "boxes"]
        about = dict(zip(order, self._seen.index.images.take(order, columns), strict=True))
        found = []
        for one, row, image in zip(mistakes, rows.tolist(), images.tolist(), strict=True):
            own = about[image]
            x1, y1, x2, y2 = own["boxes"][row - int(self._seen.offsets[image])]
            path = os.path.join(self._seen.engine.root, os.fsdecode(own["path"]))
            what = one.kind, one.name, one.rank, one.score
            found.append(Mistake(*what, own["image_id"], path, (x1, y1, x2, y2), one.shows))
        return found


def _matched(seen: Surveyed, labels: Instances) -> list[list[Truth] | None]:
    """The labels of each image of the index, None of those without."""
    table = seen.index.images.read(["image_id", "path"])
    paths = {os.fsencode(name): image_id for image_id, name in labels.files.items()}
    by_path = [paths.get(path) for path in table.column("path").to_pylist()]
    by_id = [own if own in labels.truths else None for own in table.column("image_id").to_pylist()]
    ids = by_path if any(own is not None for own in by_path) else by_id
    if all(own is None for own in ids):
        raise BadInputError(
            f"none of the {len(labels.truths)} labelled images is in {shown(seen.index.folder)}, by path or "
            "by id: give the labels of the images that were indexed, with file names relative to their folder"
        )
    return [None if own is None else labels.truths[own] for own in ids]
