"""What a search is made of: a :class:`Searcher` that finds candidates, a :class:`Scorer` that scores them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from felga.types import Flags, Rows, Scores, Vectors

GAMMA = 0.1
"""Weight of ln(quality) in the score of a region; chosen on train2017 (bench/quality_weight.py)."""
Extras: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""Columns with one value per fragment: ``quality``, ``whole``."""


class Candidates(NamedTuple):
    """The fragments that a searcher found for q queries.

    Attributes:
        scores: (q, n) float32, inner products, best first; ``-inf`` where there are no more.
        rows: (q, n) int64, fragments; ``-1`` where there are no more.
        bound: (q,) float32, an upper bound on the inner product of every fragment that is not listed;
            ``-inf`` if all are.
    """

    scores: Scores
    rows: Rows
    bound: Scores


class Searcher(Protocol):
    """The fragments of one modality, searchable by inner product."""

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        ...

    def __len__(self) -> int:
        """Number of fragments."""
        ...

    def candidates(self, queries: Vectors, n: int, allowed: Flags | None = None) -> Candidates:
        """The ``n`` best fragments of each query (q, dim), among the ``allowed`` (fragments,), if given."""
        ...

    def vectors(self, start: int, stop: int) -> Vectors:
        """The fragments ``start:stop``: (stop - start, dim) float32."""
        ...


class Scorer(Protocol):
    """What a fragment scores for a query: the one definition behind every ranking."""

    def score(self, products: Scores, extras: Extras) -> Scores:
        """Scores of n fragments, (..., n) float32.

        Args:
            products: (..., n) float32, inner products of the fragments with a query, or with several.
            extras: each (n, ...).
        """
        ...

    def bound(self, products: Scores) -> Scores:
        """The most that fragments can score whose inner products are at most ``products``; never falls."""
        ...


class InnerProduct:
    """The cosine of unit vectors: the paper's score (FELGA, 4.3)."""

    def score(self, products: Scores, extras: Extras) -> Scores:
        """The products themselves."""
        return products

    def bound(self, products: Scores) -> Scores:
        """The products themselves."""
        return products


class MeaningAndQuality:
    """``cos + gamma * ln(u)``: what a region means, and how well it fits an object (``extras["quality"]``).

    A contrastive model says p(word | region) ~ exp(cos / tau). Times u^g, with the predicted IoU u in (0, 1],
    that orders regions as ``cos + g tau ln(u)`` does (ObjEmbed multiplies its sigmoid of the cosine by u
    likewise). A region of unknown quality (NaN) counts as one of quality 1: it scores its cosine.

    Attributes:
        gamma: g tau, at least 0.
    """

    def __init__(self, gamma: float = GAMMA) -> None:
        self.gamma = gamma

    def score(self, products: Scores, extras: Extras) -> Scores:
        """As of :class:`Scorer`; ``extras["quality"]`` is (n,) float32."""
        penalty = np.float32(self.gamma) * np.log(extras["quality"], dtype=np.float32)
        return products + np.nan_to_num(penalty, nan=0.0)

    def bound(self, products: Scores) -> Scores:
        """The products themselves: ln(u) is at most 0."""
        return products


def inner_products(query: Vectors, vectors: Vectors) -> Scores:
    """(n,) of a query (dim,) with (n, dim); equal vectors score the same to the bit, wherever they lie."""
    # einsum sums each row on its own, unlike BLAS, whose rounding depends on the neighbours
    products: Scores = np.einsum("nd,d->n", vectors, query).astype(np.float32, copy=False)
    return products
