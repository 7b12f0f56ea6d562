"""The most that proposals and keywords allow in the two tasks."""

from __future__ import annotations

import numpy as np

from felga.boxes import iou as box_iou
from felga.corpus.class_names import mentions
from felga.errors import BadInputError
from felga.evaluation.protocol import Relevance, Split
from felga.search.average_precision import metrics
from felga.types import Flags, Floats


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
    hits = np.zeros(split.contains.shape, bool)
    order = np.argsort(split.box_image, kind="stable")
    bounds = np.searchsorted(split.box_image[order], np.arange(split.images + 1))
    for image in range(split.images):
        objects = order[bounds[image] : bounds[image + 1]]
        regions = slice(split.region_offsets[image], split.region_offsets[image + 1])
        if len(objects) and regions.start < regions.stop:
            overlap = box_iou(
                np.asarray(split.boxes[objects], np.float64),
                np.asarray(split.region_boxes[regions], np.float64),
            )
            hit = overlap.max(axis=1) >= iou
            hits[split.box_class[objects[hit]], image] = True
    return _mean(_precision_of_hits(hits, split.contains))


def keyword_ceiling(split: Split, relevance: Relevance = "box") -> float:
    """Description assignment's mAP if the keyword that names the box's class always won.

    A text is a hit for a class when one of its keywords names the class
    (:func:`felga.corpus.class_names.mentions`). Mean over boxes; otherwise as :func:`proposal_ceiling`.

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


def _precision_of_hits(hits: Flags, relevant: Flags) -> Floats:
    return metrics(hits.astype(np.float32), relevant).average_precision


def _mean(values: Floats) -> float:
    """Mean of the values that are not NaN; NaN without any."""
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else float("nan")
