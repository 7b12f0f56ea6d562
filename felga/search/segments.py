"""Owners and their fragments: the checks of vectors and offsets, and the best fragment of each owner."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from felga.errors import BadInputError
from felga.types import Rows, Scores, Vectors

UNIT = 0.01  # how far from 1 the length of a vector may be: what half precision may lose


def check_unit(vectors: Vectors, what: str) -> None:
    """Refuse vectors that are not finite or not of length 1 (within :data:`UNIT`).

    Raises:
        BadInputError: says how many, and the first.
    """
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    bad = np.flatnonzero(~(np.abs(lengths - 1.0) <= UNIT))  # NaN and infinity are among these
    if len(bad):
        raise BadInputError(
            f"{len(bad)} of {len(vectors)} {what} vectors are not of length 1 (row {bad[0]} has length "
            f"{lengths[bad[0]]:g}): normalise them, and look for NaN"
        )


def check_offsets(offsets: Rows, count: int) -> None:
    """Refuse offsets that do not run from 0 to ``count`` without falling.

    Raises:
        BadInputError: they do not.
    """
    if offsets.ndim != 1 or not len(offsets) or offsets[0] != 0 or offsets[-1] != count:
        raise BadInputError(f"offsets must run from 0 to {count}, the number of fragments")
    if (np.diff(offsets) < 0).any():
        raise BadInputError("offsets must not fall")


def check_scores(scores: Scores) -> None:
    """Refuse scores of which one is NaN.

    Raises:
        BadInputError: one is.
    """
    if np.isnan(scores).any():
        raise BadInputError("a fragment's score is NaN: its vector or the query's is damaged")


def ranges(start: int, stop: int, offsets: Rows, most: int) -> Iterator[tuple[int, int]]:
    """The owners ``start:stop`` in ranges of at most ``most`` fragments; an owner is never split.

    >>> list(ranges(0, 4, np.array([0, 3, 6, 6, 20]), 6))
    [(0, 3), (3, 4)]
    """
    while start < stop:
        full = int(np.searchsorted(offsets, offsets[start] + most, side="right")) - 1
        end = max(start + 1, min(stop, full))
        yield start, end
        start = end


def segment_best(scores: Scores, offsets: Rows) -> Scores:
    """What the best fragment of each owner scores: (m, ...) of (n, ...), ``-inf`` without fragments.

    Args:
        scores: (n,) float32, one per fragment, an owner's fragments side by side; or (n, q) for q queries.
        offsets: (m + 1,) int64, owner ``i`` has the rows ``offsets[i]:offsets[i + 1]``.

    Raises:
        BadInputError: a score is NaN, or the offsets do not cover the scores.
    """
    check_offsets(offsets, len(scores))
    counts = np.diff(offsets)
    best = np.full((len(counts), *scores.shape[1:]), -np.inf, np.float32)
    if scores.ndim > 1:
        _fill_by_slots(best, scores, offsets[:-1], counts)
    elif (filled := counts > 0).any():
        best[filled] = np.maximum.reduceat(scores, offsets[:-1][filled])
    check_scores(best)  # a maximum with NaN is NaN
    return best


def _fill_by_slots(best: Scores, scores: Scores, starts: Rows, counts: Rows) -> None:
    """The first fragment of every owner, then the second of those that have one, and so on: whole rows at
    once, which is faster than reducing one owner after the other."""
    order = np.argsort(-counts, kind="stable")
    starts, counts = starts[order], -counts[order]
    found = np.full_like(best, -np.inf)
    for slot in range(-int(counts[0]) if len(counts) else 0):
        some = int(np.searchsorted(counts, -slot))  # owners with more than ``slot``
        np.maximum(found[:some], scores[starts[:some] + slot], out=found[:some])
    best[order] = found


def segment_max(scores: Scores, offsets: Rows) -> tuple[Scores, Rows]:
    """Best fragment of each owner: an image scores what its best region scores (FELGA, 4.3).

    Args:
        scores: (n,) float32, one per fragment, an owner's fragments side by side.
        offsets: (m + 1,) int64, owner ``i`` has the rows ``offsets[i]:offsets[i + 1]``.

    Returns:
        best (m,) float32, ``-inf`` without fragments; rows (m,) int64, the lowest on ties, ``-1``
        without fragments.

    Raises:
        BadInputError: a score is NaN, or the offsets do not cover the scores.

    >>> best, rows = segment_max(np.float32([0.1, 0.7, 0.7, -0.2]), np.array([0, 3, 3, 4]))
    >>> best.tolist(), rows.tolist()
    ([0.699999988079071, -inf, -0.20000000298023224], [1, -1, 3])
    """
    scores = np.asarray(scores, np.float32)
    offsets = np.asarray(offsets, np.int64)
    best = segment_best(scores, offsets)
    rows = np.full(len(best), -1, np.int64)
    owner = np.repeat(np.arange(len(best)), np.diff(offsets))
    at = np.flatnonzero(scores == best[owner])[::-1]
    rows[owner[at]] = at  # written from the last to the first: the lowest row stays
    return best, rows


def top_owners(best: Scores, k: int) -> Rows:
    """The ``k`` best owners, best first; ties go to the lower owner. ``-inf`` is never a hit.

    >>> top_owners(np.float32([0.2, -np.inf, 0.9, 0.2]), 3).tolist()
    [2, 0, 3]
    """
    best = np.asarray(best, np.float32)
    candidates = np.flatnonzero(best > -np.inf)
    if 0 < k < len(candidates):
        threshold = -np.partition(-best[candidates], k - 1)[k - 1]
        candidates = candidates[best[candidates] >= threshold]
    order = np.argsort(-best[candidates], kind="stable")
    return candidates[order[: max(k, 0)]].astype(np.int64)
