"""What an owner scores, given the scores of its fragments.

The paper's rule is the best fragment alone (FELGA, 4.3). It throws much away: nine texts in ten share their
best keyword with another text and tie with it. The soft rules let the other fragments count, too.
"""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias

import numpy as np

from felga.search.scoring import Extras
from felga.types import Scores

OwnerScore: TypeAlias = Literal["soft", "max"]
TEMPERATURE = 0.1
"""t of the soft score of a text, in units of the cosine."""
WHOLE = 0.5
"""Weight of the whole image beside the best region, which has weight 1."""


class OwnerRule(Protocol):
    """The score of an owner."""

    def score(self, scores: Scores, products: Scores, extras: Extras) -> float:
        """The score of an owner of n fragments.

        Args:
            scores: (n,) float32, of its fragments; ``-inf`` for one that does not count.
            products: (n,) float32, their inner products with the query.
            extras: each (n, ...).
        """
        ...

    def bound(self, scores: Scores, products: Scores) -> Scores:
        """The most that owners can score whose fragments score at most ``scores`` with inner products of at
        most ``products``; never falls."""
        ...


class BestFragment:
    """The score of the best fragment (FELGA, 4.3)."""

    def score(self, scores: Scores, products: Scores, extras: Extras) -> float:
        """The maximum."""
        return float(scores.max(initial=-np.inf))

    def bound(self, scores: Scores, products: Scores) -> Scores:
        """The scores themselves."""
        return scores


class SoftMean:
    """``t log(mean(exp(s / t)))`` over the fragments that count: between their mean and their maximum."""

    def __init__(self, t: float = TEMPERATURE) -> None:
        self.t = t

    def score(self, scores: Scores, products: Scores, extras: Extras) -> float:
        """As of :class:`OwnerRule`; the order of the fragments does not matter, to the bit."""
        counted = np.sort(scores[scores > -np.inf]).astype(np.float64)
        if not len(counted):
            return -np.inf
        best = counted[-1]
        return float(np.float32(best + self.t * np.log(np.exp((counted - best) / self.t).mean())))

    def bound(self, scores: Scores, products: Scores) -> Scores:
        """The scores themselves: no mean is above its maximum."""
        return scores


class BestAndWhole:
    """``(best + w * cos) / (1 + w)``, with the cosine of the region that is the whole image.

    An image whose whole does not count scores its best region.
    """

    def __init__(self, w: float = WHOLE) -> None:
        self.w = w

    def score(self, scores: Scores, products: Scores, extras: Extras) -> float:
        """As of :class:`OwnerRule`; ``extras["whole"]`` is (n,) bool."""
        best = scores.max(initial=-np.inf)
        whole = products[extras["whole"] & (scores > -np.inf)]
        return float(np.float32((best + self.w * whole[0]) / (1 + self.w))) if len(whole) else float(best)

    def bound(self, scores: Scores, products: Scores) -> Scores:
        """That of an image with a whole or of one without, whichever is higher."""
        both: Scores = np.maximum(scores, (scores + np.float32(self.w) * products) / np.float32(1 + self.w))
        return both


def image_rule(owner: OwnerScore) -> OwnerRule:
    """The rule for images."""
    return BestAndWhole() if owner == "soft" else BestFragment()


def text_rule(owner: OwnerScore) -> OwnerRule:
    """The rule for texts."""
    return SoftMean() if owner == "soft" else BestFragment()
