"""Recall and average precision of tags against plain loops and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from felga.evaluation.phrases_of_regions import recalls, tag_map


def test_recall_counts_queries_with_something_right_among_the_first():
    rng = np.random.default_rng(0)
    scores, right = rng.normal(size=(30, 40)).astype(np.float32), rng.random((30, 40)) < 0.05
    right[3] = False
    expected = []
    for rank in (1, 5, 10):
        hits = 0
        for row in range(30):
            first = sorted(range(40), key=lambda column, row=row: -scores[row, column])[:rank]
            hits += any(right[row, column] for column in first)
        expected.append(hits / 30)
    assert recalls(scores, right) == pytest.approx(expected)
    assert 0 < expected[0] < expected[2] < 1


def test_tags_are_averaged_over_the_classes_that_occur():
    rng = np.random.default_rng(1)
    scores, classes = rng.normal(size=(50, 4)).astype(np.float32), rng.integers(0, 3, 50)
    expected = np.mean([average_precision_score(classes == c, scores[:, c]) for c in range(3)])
    assert tag_map(scores, classes) == pytest.approx(float(expected), abs=1e-6)
