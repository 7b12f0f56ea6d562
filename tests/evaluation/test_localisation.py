"""Boxes are judged as by plain loops and by pycocotools on files in COCO's own form."""

import contextlib
import io
from dataclasses import replace

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from felga.errors import BadInputError
from felga.evaluation.localisation import detection, grounding, localise, winning_boxes
from felga.evaluation.protocol import SIZES, Crowds, discovery_scores
from felga.search.scoring import GAMMA

from .test_protocol import exact_vectors, iou, make_split


def with_regions(seed=0):
    """A split whose every image has regions, some on its objects, with a quality."""
    split = make_split(seed, images=40, boxes=60)
    g = np.random.default_rng(seed)
    counts = g.integers(2, 7, split.images)
    image = np.repeat(np.arange(split.images), counts)
    corner = g.uniform(0, 100, (len(image), 2))
    boxes = np.concatenate([corner, corner + g.uniform(10, 60, (len(image), 2))], axis=1)
    for row, p in enumerate(image):
        own = np.flatnonzero(split.box_image == p)
        if len(own) and row % 3:
            boxes[row] = split.boxes[g.choice(own)] + g.uniform(-5, 5, 4)
        elif row and image[row - 1] == p:
            boxes[row] = boxes[row - 1] + 1  # a near duplicate
    whole = np.zeros(len(image), bool)
    whole[np.cumsum(counts) - 1] = True
    return replace(
        split,
        region_offsets=np.concatenate([[0], np.cumsum(counts)]),
        region_vectors=exact_vectors(g, len(image)),
        region_boxes=boxes.astype(np.float32),
        region_quality=g.uniform(0.05, 1, len(image)).astype(np.float32),
        region_whole=whole,
        crowds=Crowds(
            split.boxes[:3] + np.float32(2), split.box_class[:3], split.box_area[:3] * 4, split.box_image[3:6]
        ),
        phrase_vectors=exact_vectors(g, 20),
        phrase_box=g.choice(60, 20, replace=False),
    )


def region_scores(split, quality=False):
    scores = split.class_vectors.astype(float) @ split.region_vectors.T.astype(float)
    return scores + (GAMMA * np.log(split.region_quality.astype(float)) if quality else 0)


def rows_of(split, p):
    return range(split.region_offsets[p], split.region_offsets[p + 1])


def overlap(split, row, box):
    return iou(split.region_boxes[row].astype(float), split.boxes[box].astype(float))


@pytest.mark.parametrize("quality", [False, True])
def test_winning_boxes_equal_loops(quality):
    split = with_regions(1)
    scores = region_scores(split, quality)
    ious, best, areas, wholes = [], [], [], []
    for c in range(3):
        ranked = sorted(range(split.images), key=lambda p: -max(scores[c][r] for r in rows_of(split, p)))
        for p in ranked[:10]:
            own = [b for b in range(60) if (split.box_class[b], split.box_image[b]) == (c, p)]
            if own:
                winner = max(rows_of(split, p), key=lambda r: scores[c][r])
                ious.append(max(overlap(split, winner, b) for b in own))
                best.append(max(overlap(split, r, b) for r in rows_of(split, p) for b in own))
                areas.append(max(split.box_area[b] for b in own))
                wholes.append(split.region_whole[winner])
    (found,) = localise(split, quality=quality)
    found = found.winning_boxes
    assert found.images == len(ious) > 8
    assert 0 < found.fits < found.oracle
    assert found.fits == pytest.approx(np.mean([each >= 0.5 for each in ious]))
    assert found.mean_iou == pytest.approx(np.mean(ious))
    assert found.oracle == pytest.approx(np.mean([each >= 0.5 for each in best]))
    assert found.oracle_mean_iou == pytest.approx(np.mean(best))
    assert found.whole == pytest.approx(np.mean(wholes))
    for size, (low, high) in SIZES.items():
        own = [each >= 0.5 for each, area in zip(ious, areas, strict=True) if low <= area < high]
        assert found.per_size[size].of == len(own)
        assert found.per_size[size].share == (pytest.approx(np.mean(own)) if own else None)


def test_only_the_ranking_of_images_depends_on_the_owner():
    split = with_regions(2)
    hard, soft = localise(split, ("max", "soft"))
    scores = np.float32(region_scores(split))
    assert soft.winning_boxes == winning_boxes(split, discovery_scores(split, owner="soft"), scores)
    assert soft.winning_boxes != hard.winning_boxes
    assert (soft.detection, soft.grounding) == (hard.detection, hard.grounding)


def suppressed(boxes, scores):
    """Greedy NMS, by its definition."""
    kept = []
    for row in sorted(range(len(boxes)), key=lambda row: -scores[row]):
        if all(iou(boxes[row], boxes[other]) <= 0.7 for other in kept):
            kept.append(row)
    return kept


def test_detection_equals_coco_on_all_classes_at_once():
    split = with_regions(3)
    scores = region_scores(split)
    truth, found = COCO(), []
    annotations = [
        {"image_id": int(p), "category_id": int(c), "area": float(area), "iscrowd": crowd, "bbox": box}
        for crowd, (boxes, classes, areas, images) in enumerate(
            (
                (split.boxes, split.box_class, split.box_area, split.box_image),
                (
                    split.crowds.boxes,
                    split.crowds.box_class,
                    split.crowds.box_area,
                    split.crowds.box_image,
                ),
            )
        )
        for box, c, area, p in zip(
            np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(float).tolist(),
            classes, areas, images, strict=True,
        )
    ]  # fmt: skip
    truth.dataset = {
        "info": {},
        "images": [{"id": p} for p in range(split.images)],
        "categories": [{"id": c, "name": name} for c, name in enumerate(split.class_names)],
        "annotations": [{"id": i, **row} for i, row in enumerate(annotations, 1)],
    }
    dropped = 0
    for c in range(4):
        for p in range(split.images):
            rows = list(rows_of(split, p))
            kept = suppressed(split.region_boxes[rows].astype(float), scores[c][rows])
            dropped += len(rows) - len(kept)
            for row in (rows[i] for i in kept):
                x1, y1, x2, y2 = split.region_boxes[row].tolist()
                box = [x1, y1, x2 - x1, y2 - y1]
                found.append({"image_id": p, "category_id": c, "bbox": box, "score": float(scores[c][row])})
    assert dropped > 0
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    measured = detection(split, np.float32(scores))
    ap, ap50, _, small, medium, large = evaluation.stats[:6].tolist()
    assert measured.ap == pytest.approx(ap)
    assert measured.ap50 == pytest.approx(ap50)
    assert list(measured.per_size.values()) == [pytest.approx(x) for x in (small, medium, large)]
    assert (measured.classes, 0 < measured.ap < 1) == (3, True)
    assert detection(replace(split, crowds=None), np.float32(scores)).ap != measured.ap


@pytest.mark.parametrize("quality", [False, True])
def test_grounding_equals_loops(quality):
    split = with_regions(4)
    hits, possible, chance, boxes, chance_boxes = [], [], [], [], []
    for vector, box in zip(split.phrase_vectors, split.phrase_box, strict=True):
        p = split.box_image[box]
        gain = GAMMA * np.log(split.region_quality) if quality else np.zeros(len(split.region_vectors))
        winner = max(rows_of(split, p), key=lambda r: split.region_vectors[r] @ vector + gain[r])
        right = [overlap(split, r, box) >= 0.5 for r in rows_of(split, p)]
        hits.append(overlap(split, winner, box) >= 0.5)
        possible.append(any(right))
        chance.append(np.mean(right))
        own = np.flatnonzero(split.box_image == p)
        boxes.append(max(own, key=lambda b: split.box_vectors[b] @ vector) == box)
        chance_boxes.append(1 / len(own))
    found = grounding(split, split.region_quality if quality else None)
    assert found.accuracy == pytest.approx(np.mean(hits))
    assert found.oracle == pytest.approx(np.mean(possible))
    assert found.chance == pytest.approx(np.mean(chance))
    assert found.accuracy_of_boxes == pytest.approx(np.mean(boxes))
    assert found.chance_of_boxes == pytest.approx(np.mean(chance_boxes))
    assert found.phrases == 20
    large = [hit for hit, box in zip(hits, split.phrase_box, strict=True) if split.box_area[box] >= 96**2]
    assert found.per_size["large"].share == pytest.approx(np.mean(large))


def test_perfect_regions_are_right():
    split = with_regions(5)
    order = np.argsort(split.box_image, kind="stable")
    classes = np.eye(4, dtype=np.float32)
    perfect = replace(
        split,
        class_vectors=classes,
        region_vectors=classes[split.box_class[order]],
        region_boxes=split.boxes[order],
        region_offsets=np.searchsorted(split.box_image[order], np.arange(split.images + 1)),
        region_whole=None,
        region_quality=None,
        crowds=None,
        phrase_vectors=None,
        phrase_box=None,
    )
    (found,) = localise(perfect)
    assert found.winning_boxes.fits == found.winning_boxes.mean_iou == 1.0
    assert found.winning_boxes.whole == 0.0
    assert found.grounding is None


def test_what_is_missing_is_named():
    split = with_regions(6)
    with pytest.raises(BadInputError, match="region_boxes"):
        localise(replace(split, region_boxes=None))
    with pytest.raises(BadInputError, match="no quality of regions"):
        localise(replace(split, region_quality=None), quality=True)
    with pytest.raises(BadInputError, match="which regions are whole"):
        localise(replace(split, region_whole=None), ("soft",))
