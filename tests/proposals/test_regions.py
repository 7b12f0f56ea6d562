"""Boxes become regions in one place: scaled, clipped, ordered, distinct."""

from __future__ import annotations

import numpy as np
import pytest

from felga.proposals.regions import as_regions, stretched
from felga.testing.proposer import check_regions
from felga.types import DecodedImage, Region

IMAGE = DecodedImage("a", np.zeros((20, 40, 3), np.uint8), 400, 200)


def test_boxes_are_scaled_from_their_frame_and_clipped():
    boxes = [[1, 2, 3, 4], [-5, 5, 20, 50]]
    assert as_regions(IMAGE, boxes, [2, 1], 10, frame=(40, 10)) == [
        Region((10.0, 40.0, 30.0, 80.0), 2.0),
        Region((0.0, 100.0, 200.0, 200.0), 1.0),
    ]
    assert as_regions(IMAGE, [[0.25, 0, 0.5, 0.5]], [1], 10, frame=(1, 1)) == [
        Region((100.0, 0.0, 200.0, 100.0), 1.0)
    ]
    assert as_regions(IMAGE, boxes[:1], [1], 10) == [Region((1.0, 2.0, 3.0, 4.0), 1.0)]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_boxes_and_scores_that_are_not_finite_are_dropped(bad):
    good, broken = [1, 2, 3, 4], [[5, 6, bad, 8], [bad, 6, 9, 8], [bad] * 4]
    assert as_regions(IMAGE, [*broken, good], [4, 3, 2, 1], 10) == [Region((1.0, 2.0, 3.0, 4.0), 1.0)]
    assert [r.score for r in as_regions(IMAGE, [good, [5, 6, 7, 8]], [bad, 1], 10)] == [1.0]


def test_empty_outside_and_whole_boxes_are_dropped():
    boxes = [
        [5, 5, 5, 9],
        [9, 5, 5, 9],
        [500, 5, 600, 9],
        [-1, -1, 999, 999],
        [0, 0, 400, 199],
        [0, 0, 400, 197],
    ]
    assert [r.box for r in as_regions(IMAGE, boxes, range(6), 10)] == [(0.0, 0.0, 400.0, 197.0)]


def test_a_box_that_float32_would_empty_is_dropped():
    assert as_regions(IMAGE, [[300, 5, 300 + 1e-7, 9]], [1], 10) == []


def test_of_equal_boxes_the_best_keeps_its_label():
    boxes, labels = [[1, 2, 3, 4], [1, 2, 3 + 1e-9, 4], [5, 6, 7, 8]], ["cat", "dog", None]
    assert as_regions(IMAGE, boxes, [1, 2, 1.5], 10, labels) == [
        Region((1.0, 2.0, 3.0, 4.0), 2.0, label="dog"),
        Region((5.0, 6.0, 7.0, 8.0), 1.5),
    ]


def test_ties_keep_their_order_and_top_is_a_prefix():
    boxes = [[i, 0, i + 5, 5] for i in range(20)]
    all_of_them = as_regions(IMAGE, boxes, np.ones(20), 100)
    assert [r.box[0] for r in all_of_them] == list(range(20))
    assert as_regions(IMAGE, boxes, np.ones(20), 3) == all_of_them[:3]
    assert as_regions(IMAGE, boxes, np.ones(20), 0) == []
    assert as_regions(IMAGE, [], [], 10) == []


def test_random_boxes_keep_the_contract():
    rng = np.random.default_rng(0)
    for scale in (1.0, 1e3, 1e300, 1e-300):
        boxes = rng.normal(100, 150, (200, 4)) * scale
        check_regions(IMAGE, as_regions(IMAGE, boxes, rng.normal(size=200), 50), 50)


def test_strips_are_stretched_to_32_to_1():
    assert stretched(np.zeros((1, 3200, 3), np.uint8)).shape == (100, 3200, 3)
    assert stretched(np.zeros((3200, 1, 3), np.uint8)).shape == (3200, 100, 3)
    assert stretched(np.zeros((10, 320, 3), np.uint8)).shape == (10, 320, 3)
