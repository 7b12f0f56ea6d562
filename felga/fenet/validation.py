"""A score that needs captions alone: how well keywords find held-out images, and regions texts.

It mirrors the two tasks of the paper (3.1, 4.3) without annotations. *Discovery*: each keyword that occurs in
2 to 50 % of the texts is a query over the images; relevant are the images whose text has the keyword.
*Assignment*: for each such keyword, every region of every image whose text has it is a query over the texts;
relevant are the texts that have the keyword. Both are means of average precision, ranked and scored as
everywhere (:mod:`felga.search`).

A class name may be a word that no caption has. To judge a recipe on such words, train it on pairs
:meth:`~felga.fenet.features.Features.without` some of the queries, and score these alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from felga.errors import BadInputError, DivergedError
from felga.fenet.features import Features
from felga.search.average_precision import metrics
from felga.search.matrix import owner_metrics, owner_scores
from felga.types import Embedding, Flags, Rows, Vectors

RAREST, COMMONEST = 0.02, 0.5
"""Share of the texts that a keyword must occur in to be a query."""


class Score(NamedTuple):
    """Discovery and assignment, mean average precision in [0, 1]; NaN without a query."""

    discovery: float
    assignment: float

    @property
    def mean(self) -> float:
        """The criterion for choosing a checkpoint."""
        return (self.discovery + self.assignment) / 2

    def __str__(self) -> str:
        return f"{100 * self.discovery:.1f} / {100 * self.assignment:.1f}"


class Validation:
    """Held-out pairs with their queries, ready to score embeddings again and again.

    Attributes:
        queries: (w,) rows of ``features.keywords``, the keywords that are queries.
    """

    def __init__(self, features: Features) -> None:
        """Args: features: the held-out pairs."""
        self._features = features = features.take(features.usable)
        self._keywords, rows = np.unique(features.keyword_ids, return_inverse=True)  # (u,), (m,)
        self._keyword_rows = rows.astype(np.int64)
        counts = np.diff(features.keyword_offsets)
        has = np.zeros((len(features), len(self._keywords)), bool)  # has[i, u]: text i has keyword u
        has[np.repeat(np.arange(len(features)), counts), self._keyword_rows] = True
        share = has.sum(0) / max(len(features), 1)
        self._places: Rows = np.flatnonzero((share >= RAREST) & (share <= COMMONEST))  # (w,)
        self.queries: Rows = self._keywords[self._places]
        self._relevant: Flags = has[:, self._places].T.copy()  # (w, q)
        image = np.repeat(np.arange(len(features)), np.diff(features.region_offsets))  # (n,)
        self._word, self._region = np.nonzero(self._relevant[:, image])  # (a,) each: one assignment query

    def score(self, embedding: Embedding, queries: Rows | None = None) -> Score:
        """The score of an embedding.

        Args:
            queries: only these of :attr:`queries`; None: all.

        Raises:
            DivergedError: it gives vectors that are not finite or not of length 1.
        """
        asked = np.ones(len(self.queries), bool) if queries is None else np.isin(self.queries, queries)
        if not asked.any():
            return Score(float("nan"), float("nan"))
        features = self._features
        regions: Vectors = embedding.regions(features.regions, features.region_features)  # (n, d')
        keywords: Vectors = embedding.keywords(features.keywords[self._keywords])  # (u, d')
        mine = asked[self._word]  # (a,)
        try:
            images = owner_scores(
                keywords[self._places[asked]], regions, np.arange(len(regions)), features.region_offsets
            )
            assignment = owner_metrics(
                regions[self._region[mine]],
                keywords,
                self._keyword_rows,
                features.keyword_offsets,
                self._word[mine],
                self._relevant,
            )
        except BadInputError as error:  # the pairs fit: only the embedding can be wrong
            raise DivergedError(
                f"the network's output is unusable: {error}; train with a lower rate"
            ) from error
        discovery = metrics(images, self._relevant[asked])
        return Score(float(discovery.average_precision.mean()), float(assignment.average_precision.mean()))
