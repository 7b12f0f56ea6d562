"""How good a ranking is: average precision, R@k and nDCG@10, exact and independent of the order within ties.

Ties are the norm here: two texts with the same best keyword have the same score, bit for bit, and nine texts
in ten share their best keyword with another. So no metric may depend on how ties are ordered:

* Average precision follows scikit-learn: one threshold per distinct score, so an owner counts with the
  precision at the *end* of its tie. The bounds beside it are what the best and the worst order of the ties
  would get. The convention is never below the worst order; it may be above the best one, where a tie is full
  of relevant owners that all get the precision of its last.
* R@k (is any relevant owner among the first k?) and nDCG@10 (gains 0 or 1, discount ``1 / log2(rank + 1)``)
  are expected values over all orders of the ties, equally likely.

Owners are sorted once. A score and its relevance are packed into one integer, so that sorting plain values
suffices: the lowest bit says relevant, the bits above it say how bad the score is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from felga.errors import BadInputError
from felga.types import Flags, Floats, Rows, Scores

Keys: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]

CUTOFFS = (1, 5, 10)
"""The k of R@k."""
DEPTH = 10
"""The k of nDCG@k."""

_NARROW = np.float32(1.5)
"""Scores up to this, such as cosines, fit into 31 bits, which leaves one for the relevance."""
_LAST = np.float32(1.75)
"""The badness of ``-inf`` in those bits: worse than every cosine."""
_SIGN = np.uint32(1 << 31)
_DISCOUNT = 1.0 / np.log2(np.arange(DEPTH) + 2.0)


@dataclass(frozen=True, slots=True)
class Metrics:
    """Metrics of n queries, each in [0, 1]; NaN for a query without any relevant owner.

    Attributes:
        average_precision: (n,) float64, scikit-learn's convention for ties.
        optimistic: (n,) float64, average precision when each tie has its relevant owners first.
        pessimistic: (n,) float64, average precision when each tie has them last.
        recall: (n, 3) float64, R@1, R@5, R@10: the probability, over the orders of ties, that at least one
            relevant owner is among the first k.
        ndcg: (n,) float64, nDCG@10, expected over the orders of ties.
        relevant: (n,) int64, number of relevant owners.
    """

    average_precision: Floats
    optimistic: Floats
    pessimistic: Floats
    recall: Floats
    ndcg: Floats
    relevant: Rows


def metrics(scores: Scores, relevant: Flags) -> Metrics:
    """Metrics of n queries over the same T owners.

    Args:
        scores: (n, T) float32, higher is better; may be negative or infinite, ``-inf`` for an owner without
            fragments. Other floats are rounded to float32, which may create ties.
        relevant: (n, T) bool.

    Raises:
        BadInputError: a score is NaN, or the shapes differ.

    >>> found = metrics(np.float32([[0.9, 0.5, 0.5, -0.2]]), np.array([[False, True, False, True]]))
    >>> round(float(found.average_precision[0]), 4)  # precision 1/3 at the tie's end, 2/4 at the last
    0.4167
    >>> float(found.optimistic[0]), round(float(found.pessimistic[0]), 4)
    (0.5, 0.4167)
    """
    scores = np.asarray(scores, np.float32)
    relevant = np.asarray(relevant, bool)
    if scores.ndim != 2 or scores.shape != relevant.shape:
        raise BadInputError(
            f"scores {scores.shape} and relevant {relevant.shape} must have the same shape (queries, owners)"
        )
    if np.isnan(scores).any():
        raise BadInputError("a score is NaN: a vector of the query or of a fragment is damaged")
    keys = pack(scores, relevant.astype(np.uint32))
    keys.sort(axis=1)
    return metrics_of_keys(keys)


def average_precision(scores: Scores, relevant: Flags) -> float:
    """Average precision of one query: scores (T,) float32, relevant (T,) bool; see :func:`metrics`.

    >>> average_precision(np.float32([-0.1, -0.3]), np.array([True, False]))
    1.0
    """
    return float(metrics(np.asarray(scores)[None], np.asarray(relevant)[None]).average_precision[0])


def chance(relevant: Rows, owners: int) -> Metrics:
    """The expected metrics of a random order of distinct scores, in closed form.

    With P of n owners relevant and H_n the n-th harmonic number: the owner at rank k is relevant with
    probability P/n, and then each of the k - 1 before it with (P-1)/(n-1), so that

        E[AP] = 1/n * (H_n + (P - 1) / (n - 1) * (n - H_n)),
        E[R@k] = 1 - C(n - P, k) / C(n, k),
        E[nDCG] = P/n * sum of the discounts / the ideal sum.

    (If all owners had one score, scikit-learn's convention would give P/n, the precision at the tie's end.)

    Args:
        relevant: (n,) int64, number of owners that are relevant to each query.
        owners: number of owners.

    >>> round(float(chance(np.array([1]), 2).average_precision[0]), 4)  # ranks 1 and 2, equally likely
    0.75
    """
    relevant = np.asarray(relevant, np.int64)
    some = np.where(relevant > 0, 1.0, np.nan)
    harmonic = float(np.sum(1.0 / np.arange(1, owners + 1)))
    share = (relevant - 1) / max(owners - 1, 1)
    expected = some * (harmonic + share * (owners - harmonic)) / max(owners, 1)
    drawn = np.minimum(CUTOFFS, owners)
    recall = some[:, None] * (1.0 - _all_miss(np.full((1, 1), owners), relevant[:, None], drawn))
    gain = relevant / max(owners, 1) * _DISCOUNT[:owners].sum()
    ndcg = some * gain / np.where(relevant > 0, _ideal(relevant), 1.0)
    return Metrics(expected, expected, expected, recall, ndcg, relevant)


def precision_recall(scores: Scores, relevant: Flags) -> tuple[Floats, Floats]:
    """Precision and recall at each distinct score of one query, best score first.

    Args:
        scores: (T,) float32, not NaN.
        relevant: (T,) bool, at least one.

    Returns:
        precision, recall: (thresholds,) float64 each; recall does not fall and ends at 1.

    Raises:
        BadInputError: nothing is relevant, a score is NaN, or the shapes differ.
    """
    scores = np.asarray(scores, np.float32)
    relevant = np.asarray(relevant, bool)
    if scores.ndim != 1 or scores.shape != relevant.shape or not relevant.any() or np.isnan(scores).any():
        raise BadInputError(
            "a curve needs scores without NaN and as many relevance flags, at least one of them true"
        )
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    hits = np.cumsum(relevant[order])[ends]
    return hits / (ends + 1.0), hits / float(relevant.sum())


def empty_metrics(count: int) -> Metrics:
    """Metrics of ``count`` queries without any relevant owner, in arrays that may be filled in."""
    one, two, three, ndcg = (np.full(count, np.nan) for _ in range(4))
    recall = np.full((count, len(CUTOFFS)), np.nan)
    return Metrics(one, two, three, recall, ndcg, np.zeros(count, np.int64))


def pack(scores: Scores, relevant: npt.NDArray[np.uint32]) -> Keys:
    """One integer per owner; in ascending order they are the ranking, best first, relevant last in a tie.

    Args:
        scores: (n, T) float32 without NaN.
        relevant: (n, T) uint32, 0 or 1.

    Returns:
        (n, T) uint32 where every score is a cosine or ``-inf``, else uint64.
    """
    finite = scores[scores > -np.inf]
    if not finite.size or np.abs(finite).max() <= _NARROW:
        return pack_cosines(scores, relevant)
    bits = np.subtract(np.float32(0), scores).view(np.int32)
    order = bits.view(np.uint32) ^ ((bits >> 31).view(np.uint32) | _SIGN)
    return (order.astype(np.uint64) << np.uint64(1)) | relevant


def pack_cosines(scores: Scores, relevant: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """:func:`pack` of scores in [-1.5, 1.5] or ``-inf``, which is not checked; uint32.

    The bits of positive floats sort like the floats; those of negative ones do so once complemented. The
    order is that of the badness ``0 - score``, which is never -0.0. Its top exponent bit only says "2 or
    more", so shifting the sign out and reusing that bit as the sign loses nothing.
    """
    bad = np.subtract(np.float32(0), scores)
    np.minimum(bad, _LAST, out=bad)
    bits = bad.view(np.int32)
    keys = bits >> 31
    keys ^= bits
    keys <<= 1
    order = keys.view(np.uint32)
    order ^= _SIGN  # after the shift, the sign's place holds the top exponent bit: 1 for a negative float
    order |= relevant
    return order


def metrics_of_keys(keys: Keys) -> Metrics:
    """Metrics of n queries from the keys of :func:`pack`, each row in ascending order.

    Relevant owners come last in a tie, so the last relevant one of a tie is the tie's end: the positions of
    the relevant owners and of the ends are all that is needed.

    Args:
        keys: (n, T) uint32 or uint64.
    """
    n, owners = keys.shape
    if n == 0 or owners == 0:
        return empty_metrics(n)
    hit = (keys & keys.dtype.type(1)).astype(bool)
    closes = np.ones((n, owners), bool)
    np.greater(keys[:, 1:] ^ keys[:, :-1], 1, out=closes[:, :-1])
    ends = np.flatnonzero(closes)  # the last place of each tie; places are numbered through all rows
    places = np.flatnonzero(hit)  # of the relevant owners
    row_at = np.arange(n) * owners
    bounds = np.searchsorted(places, np.append(row_at, n * owners))  # a row's relevant owners
    relevant = np.diff(bounds)
    some = relevant > 0

    def mean(values: Floats, at: Rows) -> Floats:  # over the relevant owners of each row
        total = np.full(n, np.nan)
        if some.any():
            total[some] = np.add.reduceat(values, at[:-1][some]) / relevant[some]
        return total

    seen = np.arange(1.0, len(places) + 1)
    seen -= np.repeat(bounds[:-1], relevant)  # relevant owners up to this one, in its row
    rank = places - np.repeat(row_at - 1.0, relevant)
    pessimistic = seen / rank

    last = np.flatnonzero(closes.ravel()[places])  # the last relevant owner of each tie that has one
    size = np.diff(last, prepend=-1)  # the relevant owners in each of these ties
    exact = size * pessimistic[last]
    # The best order puts the i-th relevant owner of a tie at the i-th place of the tie: only the irrelevant
    # owners before the tie are ahead of it. Their number never falls, so it is filled forwards.
    tie = np.flatnonzero(hit.ravel()[ends])
    start = np.where(tie > 0, ends[tie - 1] + 1, 0)
    first = last - size + 1
    ahead = np.zeros(len(places), np.int64)
    ahead[first] = start - first
    np.maximum.accumulate(ahead, out=ahead)
    behind = places - np.arange(len(places)) - ahead  # irrelevant owners of the same tie
    rank -= behind
    optimistic = np.divide(seen, rank, out=rank)

    recall, ndcg = _top(hit, closes, ends, places, bounds)
    return Metrics(
        mean(exact, np.searchsorted(last, bounds)),
        mean(optimistic, bounds),
        mean(pessimistic, bounds),
        recall,
        ndcg,
        relevant,
    )


def _top(hit: Flags, closes: Flags, ends: Rows, places: Rows, bounds: Rows) -> tuple[Floats, Floats]:
    """R@k (n, 3) and nDCG (n,) from the ties that reach into the first ranks; see :func:`metrics_of_keys`."""
    n, owners = hit.shape
    depth = min(DEPTH, owners)
    row_at = np.arange(n)[:, None] * owners
    closed: Rows = np.cumsum(closes[:, :depth], axis=1) - closes[:, :depth]
    tie = np.searchsorted(ends, row_at) + closed  # (n, depth) the tie at each of the first ranks
    start = np.where(closed > 0, ends[tie - 1] + 1 - row_at, 0)
    stop = ends[tie] + 1 - row_at
    found = np.zeros((n, depth + 1), np.int64)  # relevant owners among the first i
    np.cumsum(hit[:, :depth], axis=1, out=found[:, 1:])
    before = np.take_along_axis(found, start, axis=1)
    after = np.take_along_axis(found, np.minimum(stop, depth), axis=1)
    cut = np.searchsorted(places, stop[:, -1:] + row_at) - bounds[:-1, None]  # only the last tie may go on
    inside = np.where(stop > depth, cut, after) - before

    relevant = np.diff(bounds)
    some = np.where(relevant > 0, 1.0, np.nan)
    at = np.minimum(CUTOFFS, depth) - 1  # the tie at this rank is the only one that may be cut
    miss = _all_miss((stop - start)[:, at], inside[:, at], at + 1 - start[:, at])
    recall = some[:, None] * np.where(before[:, at] > 0, 1.0, 1.0 - miss)
    gain = (inside / (stop - start)) @ _DISCOUNT[:depth]
    return recall, some * gain / np.where(relevant > 0, _ideal(relevant), 1.0)


def _all_miss(size: Rows, relevant: Rows, drawn: Rows) -> Floats:
    """Probability that ``drawn`` (at most 10) of ``size`` owners hold no relevant one: hypergeometric."""
    size, relevant, drawn = (np.asarray(x)[..., None] for x in (size, relevant, drawn))
    i = np.arange(max(CUTOFFS))
    steps = np.maximum(size - relevant - i, 0) / np.maximum(size - i, 1)
    return np.asarray(np.where(i < drawn, steps, 1.0).prod(axis=-1))


def _ideal(relevant: Rows) -> Floats:
    """The discounted gain of the best order: its first ranks are all relevant."""
    return np.concatenate([[0.0], np.cumsum(_DISCOUNT)])[np.minimum(relevant, DEPTH)]
