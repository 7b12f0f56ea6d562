"""What an owner scores, given the scores of its fragments.

The paper's rule is the best fragment alone (FELGA, 4.3). It throws much away: nine texts in ten share their
best keyword with another text and tie with it. The soft rules let the other fragments count, too.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from felga.asking import OwnerScore
from felga.search.scoring import Extras
from felga.search.segments import check_scores, segment_best
from felga.types import Rows, Scores

TEMPERATURE = 0.1
"""t of the soft score of a text, in units of the cosine; chosen as :data:`WHOLE`."""
WHOLE = 0.5
"""Weight of the whole image beside the best region, and of the whole text beside its keywords, which weigh 1;
for texts it was chosen on held-out captions of train2017 (bench/assignment_score.py)."""


class OwnerRule(Protocol):
    """The score of owners.

    Where fragments' scores and products rise, it does not fall, and rises by no more than the most of them.
    """

    def score(self, scores: Scores, products: Scores, offsets: Rows, extras: Extras) -> Scores:
        """Scores (m,) float32 of m owners, ``-inf`` without a fragment that counts; or (m, q) for q queries.

        Args:
            scores: (n,) or (n, q) float32, of their fragments; ``-inf`` for one that does not count.
            products: the same of their inner products with the query.
            offsets: (m + 1,) int64, owner ``i`` has the fragments ``offsets[i]:offsets[i + 1]``.
            extras: each (n, ...).

        Raises:
            BadInputError: a score is NaN.
        """
        ...

    def bound(self, scores: Scores, products: Scores) -> Scores:
        """The most that owners can score whose fragments score at most ``scores`` with inner products of at
        most ``products``."""
        ...


class BestFragment:
    """The score of the best fragment (FELGA, 4.3)."""

    def score(self, scores: Scores, products: Scores, offsets: Rows, extras: Extras) -> Scores:
        """As of :class:`OwnerRule`."""
        return segment_best(scores, offsets)

    def bound(self, scores: Scores, products: Scores) -> Scores:
        """The scores themselves."""
        return scores


class SoftMean:
    """``t log(mean(exp(s / t)))`` over the fragments that count: between their mean and their maximum."""

    def __init__(self, t: float = TEMPERATURE) -> None:
        self.t = t

    def score(self, scores: Scores, products: Scores, offsets: Rows, extras: Extras) -> Scores:
        """As of :class:`OwnerRule`; summed in float64, so that the order of fragments is lost in rounding."""
        best = segment_best(scores, offsets)
        counts = np.diff(offsets)
        filled = counts > 0
        if filled.any():
            highest = np.where(best == -np.inf, np.float32(0), best)  # of an owner that nothing counts of
            raised = np.exp((scores - np.repeat(highest, counts, axis=0)).astype(np.float64) / self.t)
            starts = offsets[:-1][filled]
            numbers = np.add.reduceat(scores > -np.inf, starts, dtype=np.int64)
            mean = np.add.reduceat(raised, starts) / np.maximum(numbers, 1)
            best[filled] += (self.t * np.log(np.where(numbers, mean, 1.0))).astype(np.float32)
        return best

    def bound(self, scores: Scores, products: Scores) -> Scores:
        """The scores themselves: no mean is above its maximum."""
        return scores


class BestAndWhole:
    """``(best + w * cos) / (1 + w)``, with the cosine of the region that is the whole image.

    An image whose whole does not count scores its best region.
    """

    def __init__(self, w: float = WHOLE) -> None:
        self.w = w

    def score(self, scores: Scores, products: Scores, offsets: Rows, extras: Extras) -> Scores:
        """As of :class:`OwnerRule`; ``extras["whole"]`` is (n,) bool, true for one of an owner at most."""
        best = segment_best(scores, offsets)
        rows, own = _wholes(offsets, extras)
        return _with_whole(best, own, scores[rows], products[rows], self.w)

    def bound(self, scores: Scores, products: Scores) -> Scores:
        """That of an image with a whole or of one without, whichever is higher."""
        both: Scores = np.maximum(scores, (scores + np.float32(self.w) * products) / np.float32(1 + self.w))
        return both


class SoftAndWhole:
    """``(soft + w * cos) / (1 + w)``: the :class:`SoftMean` of the keywords and the cosine of the whole text.

    A text whose whole does not count scores the soft mean of its keywords. A whole that is all that counts is
    the keyword, too.
    """

    def __init__(self, t: float = TEMPERATURE, w: float = WHOLE) -> None:
        self.t, self.w = t, w

    def score(self, scores: Scores, products: Scores, offsets: Rows, extras: Extras) -> Scores:
        """As of :class:`OwnerRule`; ``extras["whole"]`` is (n,) bool, true for one of an owner at most."""
        is_whole = extras["whole"].reshape(-1, *[1] * (scores.ndim - 1))
        keywords = np.where(is_whole, np.float32(-np.inf), scores)
        soft = SoftMean(self.t).score(keywords, products, offsets, extras)
        rows, own = _wholes(offsets, extras)
        soft[own] = np.where(soft[own] == -np.inf, scores[rows], soft[own])
        return _with_whole(soft, own, scores[rows], products[rows], self.w)

    def bound(self, scores: Scores, products: Scores) -> Scores:
        """As of :class:`BestAndWhole`: no mean is above its maximum."""
        return BestAndWhole(self.w).bound(scores, products)


def _wholes(offsets: Rows, extras: Extras) -> tuple[Rows, Rows]:
    """The fragments that are wholes, and their owners."""
    rows = np.flatnonzero(extras["whole"])
    return rows, np.searchsorted(offsets, rows, side="right") - 1


def _with_whole(owners: Scores, own: Rows, scores: Scores, products: Scores, w: float) -> Scores:
    """``(score + w * cos) / (1 + w)`` of the owners ``own``, if the whole counts: if it has a score."""
    check_scores(scores)
    both = (owners[own].astype(np.float64) + w * products) / (1 + w)
    owners[own] = np.where(scores > -np.inf, both, owners[own])
    return owners


def image_rule(owner: OwnerScore) -> BestAndWhole | BestFragment:
    """The rule for images."""
    return BestAndWhole() if owner == "soft" else BestFragment()


def text_rule(owner: OwnerScore) -> SoftAndWhole | BestFragment:
    """The rule for texts; by ``max``, whole texts should not count."""
    return SoftAndWhole() if owner == "soft" else BestFragment()
