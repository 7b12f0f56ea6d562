"""Regions and phrases of captions: recall of retrieval both ways, and average precision of tags.

These are the measures of :mod:`felga.alignment`, over plain arrays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from felga.search.average_precision import metrics
from felga.types import Flags, Rows, Scores

RANKS = (1, 5, 10)


def recalls(scores: Scores, right: Flags, ranks: Sequence[int] = RANKS) -> list[float]:
    """The share of queries with something right among the first K, for each K.

    Args:
        scores: (queries, things); of equal scores the first thing comes first.
        right: (queries, things) bool; a query without anything right is missed.
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, : max(ranks)]
    hits = np.take_along_axis(right, order, axis=1)
    return [float(hits[:, :rank].any(axis=1).mean()) for rank in ranks]


def tag_map(scores: Scores, classes: Rows) -> float:
    """Mean average precision of class names as tags, over the classes that occur.

    Args:
        scores: (regions, C) of the class names.
        classes: (regions,) 0..C-1, the class of each.
    """
    right = classes == np.arange(scores.shape[1])[:, None]
    found = metrics(np.ascontiguousarray(scores.T), right).average_precision
    return float(np.nanmean(found))
