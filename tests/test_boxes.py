"""Area, IoU and greedy suppression, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from felga.boxes import area, distinct, iou

NUMBERS = st.integers(-3, 6) | st.floats(
    -3, 6, width=16
)  # integers: edges that meet, equal boxes, exact halves
BOXES = st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), max_size=8)  # also inverted ones


def plain_area(box):
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def plain_iou(a, b):
    part = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    if not (shared := plain_area(part)):
        return 0.0
    return shared / (plain_area(a) + plain_area(b) - shared)


def as_array(boxes, dtype=np.float64):
    return np.array(boxes, dtype).reshape(-1, 4)


@given(BOXES, BOXES)
def test_area_and_iou_equal_loops(a, b):
    assert area(as_array(a)).tolist() == [plain_area(box) for box in a]
    found = iou(as_array(a), as_array(b))
    assert found.shape == (len(a), len(b))
    assert found.tolist() == [[plain_iou(one, other) for other in b] for one in a]


@given(BOXES, st.integers(0, 9), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_distinct_equals_a_loop_over_all_pairs(boxes, most, overlap):
    kept = []
    for row, box in enumerate(boxes):
        if len(kept) < most and all(plain_iou(box, boxes[other]) <= overlap for other in kept):
            kept.append(row)
    found = distinct(as_array(boxes), most, overlap)
    assert found.tolist() == kept
    assert found.dtype == np.int64


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_precision_is_that_of_the_boxes(dtype):
    boxes = as_array([(0, 0, 3, 1), (0, 0, 1, 1)], dtype)
    assert area(boxes).dtype == iou(boxes, boxes).dtype == dtype
    assert iou(boxes, boxes)[0, 1] == dtype(1) / dtype(3)


def test_an_iou_of_exactly_the_limit_is_no_duplicate():
    boxes = as_array([(0, 0, 2, 1), (0, 0, 1, 1), (0, 0, 1.01, 1)])
    assert distinct(boxes, 3, 0.5).tolist() == [0, 1]
    assert distinct(boxes[[0, 2]], 3, 0.5).tolist() == [0]


@pytest.mark.filterwarnings("error")
def test_a_box_without_area_overlaps_nothing_not_even_itself():
    point = as_array([(1, 1, 1, 1), (0, 0, 2, 2)])
    assert iou(point, point).tolist() == [[0, 0], [0, 1]]
