"""What training would bring, told in seconds by captions alone."""

from __future__ import annotations

import numpy as np

from felga.fenet.closed_form import fit
from felga.fenet.features import Features
from felga.fenet.validation import Score, Validation
from felga.types import Embedding, Frozen

MOST_PAIRS = 2000
"""More pairs are sampled down to these."""
HELD_OUT = 0.25


def forecast(features: Features, current: Embedding | None = None) -> tuple[Score, Score]:
    """The score of an index now, and what the closed form of the `locked` recipe would score.

    The closed form is fitted to three quarters of the pairs, at most 2,000 in all, and both are judged on the
    rest (:mod:`felga.fenet.validation`). A whole training scores more.

    Args:
        features: the pairs of an index, with features of regions.
        current: the FENet of the index; None: the frozen vectors. If it was trained on these pairs, it is
            judged on what it has seen.

    Returns:
        The score now and the one forecast; NaN if no keyword is common enough to judge by.

    Raises:
        BadInputError: the regions have no features, or the pairs fewer than two distinct keywords.
    """
    order = np.random.default_rng(0).permutation(features.usable)[:MOST_PAIRS]
    held, pairs = np.split(order, [round(HELD_OUT * len(order))])
    validation = Validation(features.take(np.sort(held)))
    trained = fit(features, np.sort(pairs))
    return validation.score(current or Frozen()), validation.score(trained)
