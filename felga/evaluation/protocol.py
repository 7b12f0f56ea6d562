"""FELGA's two tasks on COCO, as in its section 4.3, over plain arrays.

*Object discovery*: each class name is a query over the images, by their proposed regions (never ground-truth
boxes); relevant are the images that contain the class; mAP is the mean over the classes that occur.

*Description assignment*: each ground-truth box, except crowds, is cropped and is a query over the texts;
relevant are the texts of images that contain the box's class (``relevance="box"``), or the texts that mention
it (``"mention"``); mAP is the mean over boxes.

A method is a function from vectors to vectors: the identity for a frozen encoder, a FENet for a trained one.
It is applied once to each distinct vector.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from felga.errors import BadInputError
from felga.evaluation.class_names import mentions
from felga.evaluation.ranking import Ranking, rank
from felga.evaluation.task_results import Evaluation, SizeResult, TaskResult
from felga.search.average_precision import (
    average_precision,
    chance,
    metrics,
    precision_recall,
)
from felga.search.matrix import owner_scores
from felga.search.segments import check_offsets
from felga.types import Boxes, Flags, Floats, Rows, Scores, Transform, Vectors

Relevance: TypeAlias = Literal["box", "mention"]

SIZES: dict[str, tuple[float, float]] = {
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, float("inf")),
}
"""COCO's object sizes: area in pixels, from (inclusive) and to (exclusive)."""
RECALLS: Floats = np.linspace(0.0, 1.0, 101)
"""The recalls at which precision-recall curves are sampled."""


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """An encoded test split: C classes, P images with one text each, B ground-truth boxes without crowds.

    Vectors are float32, of one dim and of length 1. The regions of an image lie side by side, as do the
    keywords of a text; either may have none.

    Attributes:
        class_names: C names, the queries of object discovery.
        class_vectors: (C, dim).
        region_vectors: (n, dim) proposed regions.
        region_offsets: (P + 1,) image ``p`` has the regions ``region_offsets[p]:region_offsets[p + 1]``.
        keyword_vectors: (U, dim) the distinct keywords of all texts.
        keyword_rows: (m,) rows of ``keyword_vectors``.
        keyword_offsets: (P + 1,) the text of image ``p`` has ``keyword_rows[offsets[p]:offsets[p + 1]]``.
        box_vectors: (B, dim) the cropped ground-truth boxes, queries of description assignment.
        box_class: (B,) 0..C-1.
        box_area: (B,) COCO's ``area``, pixels of the original image.
        box_image: (B,) 0..P-1.
        contains: (C, P) bool, the images that show a class, be it only as a crowd.
        mentions: (C, P) bool, the texts that mention a class; for ``relevance="mention"``. See
            :func:`felga.evaluation.class_names.mentions`.
        image_vectors: (P, dim) of whole images, for :meth:`entire`.
        text_vectors: (P, dim) of whole texts, for :meth:`entire`.
        region_boxes: (n, 4) pixels, for :func:`proposal_ceiling`.
        boxes: (B, 4) pixels, for :func:`proposal_ceiling`.
        keywords: U words, for :func:`keyword_ceiling`.
        image_ids: P image ids, used for drawing.
    """

    class_names: Sequence[str]
    class_vectors: Vectors
    region_vectors: Vectors
    region_offsets: Rows
    keyword_vectors: Vectors
    keyword_rows: Rows
    keyword_offsets: Rows
    box_vectors: Vectors
    box_class: Rows
    box_area: npt.NDArray[np.floating[Any]]
    box_image: Rows
    contains: Flags
    mentions: Flags | None = None
    image_vectors: Vectors | None = None
    text_vectors: Vectors | None = None
    region_boxes: Boxes | None = None
    boxes: Boxes | None = None
    keywords: Sequence[str] | None = None
    image_ids: Sequence[str] | None = None

    def __post_init__(self) -> None:
        classes, images, boxes = len(self.class_names), self.images, len(self.box_vectors)
        regions, keywords = len(self.region_vectors), len(self.keyword_vectors)
        check_offsets(np.asarray(self.region_offsets), regions)
        check_offsets(np.asarray(self.keyword_offsets), len(self.keyword_rows))
        lengths = {
            "class_vectors": classes,
            "keyword_offsets": images + 1,
            "box_class": boxes,
            "box_area": boxes,
            "box_image": boxes,
            "contains": classes,
            "mentions": classes,
            "image_vectors": images,
            "text_vectors": images,
            "region_boxes": regions,
            "boxes": boxes,
            "keywords": keywords,
            "image_ids": images,
        }
        for name, expected in lengths.items():
            value = getattr(self, name)
            if value is not None and len(value) != expected:
                raise BadInputError(f"{name} has length {len(value)}, expected {expected}")
        for name in ("contains", "mentions"):
            value = getattr(self, name)
            if value is not None and value.shape != (classes, images):
                raise BadInputError(f"{name} {value.shape} must be ({classes} classes, {images} images)")
        for name, stop in (("box_class", classes), ("box_image", images)):
            value = getattr(self, name)
            if len(value) and not (value.min() >= 0 and value.max() < stop):
                raise BadInputError(f"{name} must lie in 0..{stop - 1}")

    @property
    def images(self) -> int:
        """P, the number of images and of texts."""
        return len(self.region_offsets) - 1

    def entire(self) -> Split:
        """The same split with the whole image as its only region and the whole text as its only keyword.

        For the rows "based on entire image/sentence" of the paper's tables (4.4).

        Raises:
            BadInputError: ``image_vectors`` or ``text_vectors`` is missing.
        """
        if self.image_vectors is None or self.text_vectors is None:
            raise BadInputError("the split lacks the vectors of whole images and texts")
        one_each = np.arange(self.images + 1)
        return replace(
            self,
            region_vectors=self.image_vectors,
            region_offsets=one_each,
            keyword_vectors=self.text_vectors,
            keyword_rows=one_each[:-1],
            keyword_offsets=one_each,
            region_boxes=None,
            keywords=None,
        )


@dataclass(frozen=True, slots=True)
class TaskRanking:
    """The outcome of one task, query by query.

    Attributes:
        ranking: the metrics of each query.
        per_class: class name -> AP (discovery), or mean AP of its boxes (assignment); None where the class
            does not occur.
        per_size: ``small``, ``medium``, ``large``.
    """

    ranking: Ranking
    per_class: dict[str, float | None]
    per_size: dict[str, SizeResult]

    def result(self) -> TaskResult:
        """Its means."""
        return replace(self.ranking.result(), per_class=self.per_class, per_size=self.per_size)


def identity(vectors: Vectors) -> Vectors:
    """The method of a frozen encoder: vectors unchanged."""
    return vectors


def evaluate(split: Split, transform: Transform = identity, relevance: Relevance = "box") -> Evaluation:
    """Both tasks; arguments as of :func:`description_assignment`."""
    return Evaluation(
        object_discovery(split, transform).result(),
        description_assignment(split, transform, relevance).result(),
    )


def object_discovery(split: Split, transform: Transform = identity) -> TaskRanking:
    """Images by class names (3.1, 4.3).

    For the AP of a class at one size, the relevant images are those whose largest object of the class, except
    crowds, has that size; other images that contain the class are left out of that ranking.

    Raises:
        BadInputError: a vector is not finite or not of length 1.
    """
    scores = discovery_scores(split, transform)
    each = metrics(scores, split.contains)
    ranking = Ranking(each, chance(each.relevant, split.images))
    return TaskRanking(ranking, _by_class(split, each.average_precision), _discovery_by_size(split, scores))


def discovery_scores(split: Split, transform: Transform = identity) -> Scores:
    """The score of each image for each class name: (C, P) float32, ``-inf`` without regions."""
    rows = np.arange(len(split.region_vectors))
    return owner_scores(
        transform(split.class_vectors), transform(split.region_vectors), rows, split.region_offsets
    )


def description_assignment(
    split: Split, transform: Transform = identity, relevance: Relevance = "box"
) -> TaskRanking:
    """Texts by ground-truth boxes (3.1, 4.3).

    Args:
        split: the test split.
        transform: the method.
        relevance: ``box``: texts of images that contain the box's class; ``mention``: texts that mention it.

    Raises:
        BadInputError: ``mention`` without ``split.mentions``, or a vector is not finite or not of length 1.
    """
    relevant = split.contains if relevance == "box" else split.mentions
    if relevant is None:
        raise BadInputError('relevance "mention" needs split.mentions, the texts that mention each class')
    ranking = rank(
        transform(split.box_vectors),
        transform(split.keyword_vectors),
        split.keyword_rows,
        split.keyword_offsets,
        split.box_class,
        relevant,
    )
    precision = ranking.metrics.average_precision
    by_class = np.array([_mean(precision[split.box_class == i]) for i in range(len(split.class_names))])
    by_size = {
        size: _size_result(precision[(split.box_area >= low) & (split.box_area < high)])
        for size, (low, high) in SIZES.items()
    }
    return TaskRanking(ranking, _by_class(split, by_class), by_size)


def discovery_curve(split: Split, transform: Transform = identity) -> tuple[Floats, Floats]:
    """Object discovery's precision at :data:`RECALLS`, mean over classes: recall (101,), precision (101,).

    A class's precision at a recall is the best one at that recall or a higher one, as in PASCAL VOC and COCO,
    so the area under the curve is not the mAP of the tables.
    """
    scores = discovery_scores(split, transform)
    curves = []
    for row in np.flatnonzero(split.contains.any(axis=1)):
        precision, recall = precision_recall(scores[row], split.contains[row])
        best = np.maximum.accumulate(precision[::-1])[::-1]
        curves.append(best[np.searchsorted(recall, RECALLS - 1e-12)])
    if not curves:
        raise BadInputError("no image contains any class")
    return RECALLS, np.asarray(np.mean(curves, axis=0))


def proposal_ceiling(split: Split, iou: float = 0.5) -> float:
    """Object discovery's mAP if the right proposal always won: what the proposals alone allow.

    An image is a hit for a class when one of its proposals has IoU >= ``iou`` with one of its ground-truth
    boxes of the class. All hits are ranked first, all other images tie behind them. An encoder may exceed
    this by what it sees around an object. An image that shows a class only as a crowd is never a hit.

    Raises:
        BadInputError: ``region_boxes`` or ``boxes`` is missing.
    """
    if split.region_boxes is None or split.boxes is None:
        raise BadInputError("the proposal ceiling needs split.region_boxes and split.boxes")
    import torch
    from torchvision.ops import box_iou

    hits = np.zeros(split.contains.shape, bool)
    order = np.argsort(split.box_image, kind="stable")
    bounds = np.searchsorted(split.box_image[order], np.arange(split.images + 1))
    for image in range(split.images):
        objects = order[bounds[image] : bounds[image + 1]]
        regions = slice(split.region_offsets[image], split.region_offsets[image + 1])
        if len(objects) and regions.start < regions.stop:
            overlap = box_iou(
                torch.tensor(split.boxes[objects], dtype=torch.float64),
                torch.tensor(split.region_boxes[regions], dtype=torch.float64),
            )
            hit = (overlap.amax(dim=1) >= iou).numpy()
            hits[split.box_class[objects[hit]], image] = True
    return _mean(_precision_of_hits(hits, split.contains))


def keyword_ceiling(split: Split, relevance: Relevance = "box") -> float:
    """Description assignment's mAP if the keyword that names the box's class always won.

    A text is a hit for a class when one of its keywords names the class
    (:func:`felga.evaluation.class_names.mentions`). Mean over boxes; otherwise as :func:`proposal_ceiling`.

    Raises:
        BadInputError: ``keywords`` is missing, or ``mentions`` with the relevance ``mention``.
    """
    relevant = split.contains if relevance == "box" else split.mentions
    if split.keywords is None or relevant is None:
        raise BadInputError('the keyword ceiling needs split.keywords, and split.mentions for "mention"')
    named = mentions(split.keywords, split.class_names)[:, split.keyword_rows]
    running = np.concatenate([np.zeros((len(named), 1), np.int64), np.cumsum(named, axis=1)], axis=1)
    hits = np.diff(running[:, split.keyword_offsets], axis=1) > 0
    return _mean(_precision_of_hits(hits, relevant)[split.box_class])


def check_disjoint(train_ids: Collection[object], test_ids: Collection[object]) -> None:
    """Refuse to test on images that were trained on.

    Raises:
        BadInputError: names their number and one of them.
    """
    shared = set(train_ids) & set(test_ids)
    if shared:
        raise BadInputError(
            f"{len(shared)} of {len(test_ids)} test images were trained on, such as "
            f"{min(shared, key=str)}: train without them"
        )


def _by_class(split: Split, values: Floats) -> dict[str, float | None]:
    return {
        name: None if np.isnan(value) else float(value)
        for name, value in zip(split.class_names, values, strict=True)
    }


def _discovery_by_size(split: Split, scores: Scores) -> dict[str, SizeResult]:
    largest = np.full(split.contains.shape, -1.0)
    np.maximum.at(largest, (split.box_class, split.box_image), split.box_area)
    by_size = {}
    for size, (low, high) in SIZES.items():
        right = (largest >= low) & (largest < high) & split.contains
        kept = right | ~split.contains
        by_size[size] = _size_result(
            np.array(
                [
                    average_precision(scores[i, kept[i]], right[i, kept[i]]) if right[i].any() else np.nan
                    for i in range(len(scores))
                ]
            )
        )
    return by_size


def _size_result(precision: Floats) -> SizeResult:
    counted = int((~np.isnan(precision)).sum())
    return SizeResult(_mean(precision) if counted else None, counted)


def _precision_of_hits(hits: Flags, relevant: Flags) -> Floats:
    return metrics(hits.astype(np.float32), relevant).average_precision


def _mean(values: Floats) -> float:
    """Mean of the values that are not NaN; NaN without any."""
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else float("nan")
