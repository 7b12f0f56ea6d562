"""Whether the box is right, over plain arrays: what object discovery does not ask.

* :func:`winning_boxes`: of the first images for a class name that show the class, how many have their winning
  region on an object of the class (CorLoc, over a ranking).
* :func:`detection`: COCO's AP of all (box, class name, score), by pycocotools.
* :func:`grounding`: noun phrases of captions that name the only object of its class in the image. This is not
  RefCOCO: compare its figures with each other only.

Boxes and class names of the split are the judge; no method sees them.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from felga.boxes import AnyFloats, iou
from felga.errors import BadInputError, MissingError
from felga.evaluation.protocol import SIZES, Split, discovery_scores
from felga.evaluation.ranking import fragment_scores
from felga.evaluation.task_results import Detection, Grounding, Localisation, Owner, Share, WinningBoxes
from felga.search.segments import segment_max, top_owners
from felga.types import Flags, Floats, Rows, Scores

IOU = 0.5
"""From this IoU on, a box is right."""
TOP = 10
"""Images per class name in :func:`winning_boxes`."""
NMS = 0.7
"""IoU above which the worse of two regions is no detection of the same class."""


def localise(
    split: Split, owners: Sequence[Owner] = ("max",), *, quality: bool = False
) -> list[Localisation]:
    """All measures for each way to score an image; only the winning boxes depend on it.

    Args:
        split: with the embeddings of a method (:meth:`felga.evaluation.protocol.Split.embedded`).
        owners: what an image scores.
        quality: whether a region's score is its meaning and its quality.

    Raises:
        BadInputError: the split lacks boxes, or what the arguments ask for.
        MissingError: pycocotools is not installed.
    """
    if split.region_boxes is None or split.boxes is None:
        raise BadInputError("localisation needs split.region_boxes and split.boxes")
    u = split.region_quality if quality else None
    scores = fragment_scores(split.class_vectors, split.region_vectors, u)
    images = [discovery_scores(split, owner=owner, quality=quality) for owner in owners]
    found = detection(split, scores)
    grounded = grounding(split, u) if split.phrase_vectors is not None and len(split.phrase_vectors) else None
    return [Localisation(winning_boxes(split, each, scores), found, grounded) for each in images]


def winning_boxes(split: Split, image_scores: Scores, region_scores: Scores) -> WinningBoxes:
    """The boxes of the first hits: for each class that occurs, of its :data:`TOP` images that show it.

    The winning region is the one with the best fragment score. An image's size is that of its largest object
    of the class. The oracle takes the best region of each image instead.

    Args:
        image_scores: (C, P), what ranks the images.
        region_scores: (C, n).
    """
    ious, oracle, areas, wholes = [], [], [], []
    objects = _by_image(split.box_image, split.images)
    for c in np.unique(split.box_class).tolist():
        _, best = segment_max(np.ascontiguousarray(region_scores[c]), split.region_offsets)
        for p in top_owners(image_scores[c], TOP).tolist():
            own = objects[p][split.box_class[objects[p]] == c]
            if not len(own):
                continue
            start = int(split.region_offsets[p])
            overlap = _overlap(split, p, own).max(axis=1)
            ious.append(overlap[best[p] - start])
            oracle.append(overlap.max())
            areas.append(split.box_area[own].max())
            wholes.append(split.region_whole is not None and split.region_whole[best[p]])
    fits = np.array(ious) >= IOU
    return WinningBoxes(
        fits=_mean(fits),
        mean_iou=_mean(np.array(ious)),
        oracle=_mean(np.array(oracle) >= IOU),
        oracle_mean_iou=_mean(np.array(oracle)),
        whole=_mean(np.array(wholes, bool)),
        images=len(ious),
        per_size=_per_size(fits, np.array(areas)),
    )


def grounding(split: Split, quality: Scores | None = None) -> Grounding:
    """Accuracy of the best region, and of the best ground-truth box, of the image for each phrase.

    Over proposals it is the share of phrases whose best region has IoU >= :data:`IOU` with the box that the
    phrase names; over ground-truth boxes, the share for which that box is the best of all boxes of its image.
    Chance takes a region, or a box, at random.

    Args:
        quality: (n,) of the regions; None: by meaning alone.
    """
    if split.phrase_vectors is None or split.phrase_box is None:
        raise BadInputError("phrase grounding needs split.phrase_vectors and split.phrase_box")
    objects = _by_image(split.box_image, split.images)
    hit, possible, chance, hit_box, chance_box = [], [], [], [], []
    for vector, box in zip(split.phrase_vectors, split.phrase_box.tolist(), strict=True):
        p = int(split.box_image[box])
        part = slice(int(split.region_offsets[p]), int(split.region_offsets[p + 1]))
        right = _overlap(split, p, np.array([box]))[:, 0] >= IOU
        scores = fragment_scores(
            vector[None], split.region_vectors[part], None if quality is None else quality[part]
        )[0]
        hit.append(len(right) > 0 and right[scores.argmax()])
        possible.append(right.any())
        chance.append(right.mean() if len(right) else 0.0)
        own = fragment_scores(vector[None], split.box_vectors[objects[p]])[0]
        hit_box.append(objects[p][own.argmax()] == box)
        chance_box.append(1 / len(objects[p]))
    hits = np.array(hit, bool)
    return Grounding(
        accuracy=_mean(hits),
        oracle=_mean(np.array(possible)),
        chance=_mean(np.array(chance)),
        accuracy_of_boxes=_mean(np.array(hit_box)),
        chance_of_boxes=_mean(np.array(chance_box)),
        phrases=len(hits),
        per_size=_per_size(hits, split.box_area[split.phrase_box]),
    )


def detection(split: Split, region_scores: Scores, detected: Flags | None = None) -> Detection:
    """COCO's AP with every region as a detection of every class name, after NMS within each class.

    Crowds are ignored as by COCO where ``split.crowds`` is given. At most 100 detections of a class count in
    an image.

    Args:
        region_scores: (C, n).
        detected: (C, n), which regions are detections of which classes, without any NMS; None: as above.
    """
    coco, evaluator = pycocotools()
    truth = coco()
    truth.dataset = _dataset(split)
    kept = _kept(split, region_scores) if detected is None else detected
    image = np.repeat(np.arange(split.images), np.diff(split.region_offsets)) + 1
    corners = np.asarray(split.region_boxes, np.float64)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    precisions = []
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth.createIndex()
        for c in np.unique(split.box_class).tolist():  # one by one: all of COCO at once needs gigabytes
            rows = np.flatnonzero(kept[c])
            columns = [image[rows], *boxes[rows].T, region_scores[c, rows], np.full(len(rows), c + 1)]
            if not len(rows):
                precisions.append(np.zeros(4 + 1))
                continue
            evaluation = evaluator(truth, truth.loadRes(np.stack(columns, axis=1)), "bbox")
            evaluation.params.catIds = [c + 1]
            evaluation.evaluate()
            evaluation.accumulate()
            precisions.append(_summary(evaluation.eval["precision"][:, :, 0, :, -1]))
    each = np.array(precisions).reshape(-1, 5)
    means = [_mean(column[column > -1]) for column in each.T]
    ap, *by_size, ap50 = means
    return Detection(ap=ap, ap50=ap50, per_size=dict(zip(SIZES, by_size, strict=True)), classes=len(each))


def pycocotools() -> tuple[Any, Any]:
    """COCO and COCOeval of pycocotools.

    Raises:
        MissingError: it is not installed.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ModuleNotFoundError as error:
        raise MissingError("boxes are judged by pycocotools: pip install 'felga[bench]'") from error
    return COCO, COCOeval


def _summary(precision: Floats) -> Floats:
    """AP of all objects and of each size, and AP50, (5,) from (IoU thresholds, recalls, sizes); -1: none."""
    areas = [precision[:, :, area] for area in range(4)]
    return np.array([part.mean() if part.min() > -1 else -1.0 for part in (*areas, precision[0, :, 0])])


def _dataset(split: Split) -> dict[str, Any]:
    """The ground truth in COCO's form; ids are places, counted from 1."""
    groups = [(split.boxes, split.box_class, split.box_area, split.box_image, 0)]
    if split.crowds is not None:
        crowds = split.crowds
        groups.append((crowds.boxes, crowds.box_class, crowds.box_area, crowds.box_image, 1))
    annotations: list[Mapping[str, Any]] = []
    for boxes, classes, areas, images, crowd in groups:
        for (x1, y1, x2, y2), c, area, p in zip(
            np.asarray(boxes, np.float64).tolist(),
            classes.tolist(),
            areas.tolist(),
            images.tolist(),
            strict=True,
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": p + 1,
                    "category_id": c + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": area,
                    "iscrowd": crowd,
                }
            )
    return {
        "images": [{"id": p + 1} for p in range(split.images)],
        "categories": [{"id": c + 1, "name": name} for c, name in enumerate(split.class_names)],
        "annotations": annotations,
        "info": {},
    }


def _kept(split: Split, scores: Scores) -> Flags:
    """The regions that greedy NMS keeps for each class: (C, n) bool, all classes of an image at once."""
    kept = np.ones(scores.shape, bool)
    classes = np.arange(len(scores))
    for p in range(split.images):
        part = slice(int(split.region_offsets[p]), int(split.region_offsets[p + 1]))
        boxes = np.asarray(split.region_boxes[part], np.float64)  # type: ignore[index]
        near = iou(boxes, boxes) > NMS
        np.fill_diagonal(near, False)
        if not near.any():
            continue
        own = kept[:, part]
        order = np.argsort(-scores[:, part], axis=1, kind="stable")
        earlier = np.zeros_like(own)  # regions that came before in the order of a class
        for place in order.T:
            own &= ~(near[place] & own[classes, place][:, None] & ~earlier)
            earlier[classes, place] = True
    return kept


def _overlap(split: Split, p: int, boxes: Rows) -> AnyFloats:
    """IoU of the regions of an image with some ground-truth boxes, float64."""
    part = slice(int(split.region_offsets[p]), int(split.region_offsets[p + 1]))
    regions, objects = split.region_boxes[part], split.boxes[boxes]  # type: ignore[index]
    return iou(np.asarray(regions, np.float64), np.asarray(objects, np.float64))


def _by_image(image: Rows, images: int) -> list[Rows]:
    order = np.argsort(image, kind="stable")
    bounds = np.searchsorted(image[order], np.arange(images + 1))
    return [order[bounds[p] : bounds[p + 1]] for p in range(images)]


def _per_size(hits: Flags, areas: npt.NDArray[np.floating[Any]]) -> dict[str, Share]:
    shares = {}
    for size, (low, high) in SIZES.items():
        of_size = hits[(areas >= low) & (areas < high)]
        shares[size] = Share(_mean(of_size), len(of_size))
    return shares


def _mean(values: Any) -> float | None:
    return float(np.mean(values)) if len(values) else None
