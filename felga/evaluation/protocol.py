"""FELGA's two tasks on COCO, as in its section 4.3, over plain arrays.

*Object discovery*: each class name is a query over the images, by their proposed regions (never ground-truth
boxes); relevant are the images that contain the class; mAP is the mean over the classes that occur.

*Description assignment*: each ground-truth box, except crowds, is cropped and is a query over the texts;
relevant are the texts of images that contain the box's class (``relevance="box"``), or the texts that mention
it (``"mention"``); mAP is the mean over boxes.

A method is a :class:`felga.types.Embedding`: nothing for a frozen encoder, a FENet for a trained one.
:meth:`Split.embedded` applies it once to each distinct vector; everything else works on what it gives.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from felga.errors import BadInputError
from felga.evaluation.ranking import Ranking, image_scores, rank, with_wholes
from felga.evaluation.task_results import Evaluation, Owner, SizeResult, TaskResult
from felga.search.average_precision import (
    average_precision,
    chance,
    metrics,
    precision_recall,
)
from felga.search.segments import check_offsets
from felga.types import Boxes, Embedding, Flags, Floats, Frozen, RegionFeatures, Rows, Scores, Vectors

Relevance: TypeAlias = Literal["box", "mention"]
FROZEN = Frozen()

SIZES: dict[str, tuple[float, float]] = {
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, float("inf")),
}
"""COCO's object sizes: area in pixels, from (inclusive) and to (exclusive)."""
RECALLS: Floats = np.linspace(0.0, 1.0, 101)
"""The recalls at which precision-recall curves are sampled."""


@dataclass(frozen=True, slots=True, eq=False)
class Crowds:
    """Ground-truth boxes that mark many objects at once: neither queries nor missed.

    Attributes:
        boxes: (K, 4) pixels.
        box_class: (K,) 0..C-1.
        box_area: (K,) COCO's ``area``.
        box_image: (K,) 0..P-1.
    """

    boxes: Boxes
    box_class: Rows
    box_area: Floats
    box_image: Rows


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
            :func:`felga.corpus.class_names.mentions`.
        image_vectors: (P, dim) of whole images, for :meth:`entire`.
        text_vectors: (P, dim) of whole texts, for :meth:`entire` and for soft scores.
        text_whole: (P,) bool, the texts whose whole counts in soft scores; None: none. It is no keyword.
        region_boxes: (n, 4) pixels.
        boxes: (B, 4) pixels.
        crowds: the crowds that the boxes leave out.
        keywords: U words, for :func:`felga.evaluation.ceilings.keyword_ceiling`.
        image_ids: P image ids, used for drawing.
        region_quality: (n,) float32, predicted IoU with an object; NaN where none was predicted.
        region_whole: (n,) bool, the regions that are whole images.
        region_features, box_features, image_features: (n or B or P, f) what the encoder's network saw of
            them, for a method that takes it.
        phrase_vectors: (Q, dim) noun phrases of the texts, each naming one box; for
            :func:`felga.evaluation.localisation.grounding`.
        phrase_box: (Q,) the box that each phrase names, 0..B-1.
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
    text_whole: Flags | None = None
    region_boxes: Boxes | None = None
    boxes: Boxes | None = None
    keywords: Sequence[str] | None = None
    image_ids: Sequence[str] | None = None
    crowds: Crowds | None = None
    region_quality: Scores | None = None
    region_whole: Flags | None = None
    region_features: RegionFeatures | None = None
    box_features: RegionFeatures | None = None
    image_features: RegionFeatures | None = None
    phrase_vectors: Vectors | None = None
    phrase_box: Rows | None = None

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
            "text_whole": images,
            "region_boxes": regions,
            "boxes": boxes,
            "keywords": keywords,
            "image_ids": images,
            "region_quality": regions,
            "region_whole": regions,
            "region_features": regions,
            "box_features": boxes,
            "image_features": images,
            "phrase_box": len(self.phrase_vectors) if self.phrase_vectors is not None else 0,
        }
        for name, expected in lengths.items():
            value = getattr(self, name)
            if value is not None and len(value) != expected:
                raise BadInputError(f"{name} has length {len(value)}, expected {expected}")
        for name in ("contains", "mentions"):
            value = getattr(self, name)
            if value is not None and value.shape != (classes, images):
                raise BadInputError(f"{name} {value.shape} must be ({classes} classes, {images} images)")
        for name, stop in (("box_class", classes), ("box_image", images), ("phrase_box", boxes)):
            value = getattr(self, name)
            if value is not None and len(value) and not (value.min() >= 0 and value.max() < stop):
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
            text_whole=None,
            region_boxes=None,
            keywords=None,
            region_quality=None,
            region_whole=np.ones(self.images, bool),
            region_features=self.image_features,
        )

    def embedded(self, embedding: Embedding) -> Split:
        """The same split with the fragment embeddings in place of the frozen vectors.

        Whole images are dropped: take :meth:`entire` before.
        """
        phrases, texts = self.phrase_vectors, self.text_vectors
        return replace(
            self,
            class_vectors=embedding.keywords(self.class_vectors),
            keyword_vectors=embedding.keywords(self.keyword_vectors),
            phrase_vectors=None if phrases is None else embedding.keywords(phrases),
            region_vectors=embedding.regions(self.region_vectors, self.region_features),
            box_vectors=embedding.regions(self.box_vectors, self.box_features),
            region_features=None,
            box_features=None,
            image_vectors=None,
            text_vectors=None if texts is None else embedding.keywords(texts),
            image_features=None,
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


def evaluate(
    split: Split,
    embedding: Embedding = FROZEN,
    relevance: Relevance = "box",
    *,
    owner: Owner = "max",
    quality: bool = False,
) -> Evaluation:
    """Both tasks.

    Args:
        split: frozen vectors.
        embedding: the method, applied once to each distinct vector.
        relevance: of :func:`description_assignment`.
        owner: what an image or text scores, :mod:`felga.evaluation.ranking`.
        quality: whether a region's score is its meaning and its quality.

    Raises:
        BadInputError: as of the tasks.
    """
    embedded = split.embedded(embedding)
    return Evaluation(
        object_discovery(embedded, owner=owner, quality=quality).result(),
        description_assignment(embedded, relevance, owner=owner).result(),
    )


def object_discovery(split: Split, *, owner: Owner = "max", quality: bool = False) -> TaskRanking:
    """Images by class names (3.1, 4.3).

    For the AP of a class at one size, the relevant images are those whose largest object of the class, except
    crowds, has that size; other images that contain the class are left out of that ranking.

    Raises:
        BadInputError: a vector is not finite or not of length 1; ``quality`` without
            ``split.region_quality``; ``soft`` without ``split.region_whole``.
    """
    scores = discovery_scores(split, owner=owner, quality=quality)
    each = metrics(scores, split.contains)
    ranking = Ranking(each, chance(each.relevant, split.images))
    return TaskRanking(ranking, _by_class(split, each.average_precision), _discovery_by_size(split, scores))


def discovery_scores(split: Split, *, owner: Owner = "max", quality: bool = False) -> Scores:
    """The score of each image for each class name: (C, P) float32, ``-inf`` without regions."""
    if quality and split.region_quality is None:
        raise BadInputError("the split has no quality of regions: its proposer does not predict one")
    return image_scores(
        split.class_vectors,
        split.region_vectors,
        split.region_offsets,
        quality=split.region_quality if quality else None,
        whole=split.region_whole,
        owner=owner,
    )


def description_assignment(
    split: Split, relevance: Relevance = "box", *, owner: Owner = "max"
) -> TaskRanking:
    """Texts by ground-truth boxes (3.1, 4.3).

    Args:
        split: the test split.
        relevance: ``box``: texts of images that contain the box's class; ``mention``: texts that mention it.
        owner: what a text scores.

    Raises:
        BadInputError: ``mention`` without ``split.mentions``, ``soft`` with ``split.text_whole`` and without
            ``split.text_vectors``, or a vector is not finite or not of length 1.
    """
    relevant = split.contains if relevance == "box" else split.mentions
    if relevant is None:
        raise BadInputError('relevance "mention" needs split.mentions, the texts that mention each class')
    fragments = split.keyword_vectors, split.keyword_rows, split.keyword_offsets
    if owner == "soft" and split.text_whole is not None:
        if split.text_vectors is None:
            raise BadInputError("soft scores need the vectors of the whole texts that count")
        fragments, whole = with_wholes(*fragments, split.text_vectors, split.text_whole)
    else:
        whole = None
    ranking = rank(split.box_vectors, *fragments, split.box_class, relevant, owner=owner, whole=whole)
    precision = ranking.metrics.average_precision
    by_class = np.array([_mean(precision[split.box_class == i]) for i in range(len(split.class_names))])
    by_size = {
        size: _size_result(precision[(split.box_area >= low) & (split.box_area < high)])
        for size, (low, high) in SIZES.items()
    }
    return TaskRanking(ranking, _by_class(split, by_class), by_size)


def discovery_curve(split: Split) -> tuple[Floats, Floats]:
    """Object discovery's precision at :data:`RECALLS`, mean over classes: recall (101,), precision (101,).

    A class's precision at a recall is the best one at that recall or a higher one, as in PASCAL VOC and COCO,
    so the area under the curve is not the mAP of the tables.
    """
    scores = discovery_scores(split)
    curves = []
    for row in np.flatnonzero(split.contains.any(axis=1)):
        precision, recall = precision_recall(scores[row], split.contains[row])
        best = np.maximum.accumulate(precision[::-1])[::-1]
        curves.append(best[np.searchsorted(recall, RECALLS - 1e-12)])
    if not curves:
        raise BadInputError("no image contains any class")
    return RECALLS, np.asarray(np.mean(curves, axis=0))


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


def _mean(values: Floats) -> float:
    """Mean of the values that are not NaN; NaN without any."""
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else float("nan")
