"""What a search is made of: a :class:`Searcher` that holds fragments, a :class:`Scorer` that scores them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from felga.types import Rows, Scores, Vectors

GAMMA = 0.1
"""Weight of ln(quality) in the score of a region; chosen on train2017 (bench/quality_weight.py)."""
Extras: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""Columns with one value per fragment: ``quality``, ``whole``."""


class Searcher(Protocol):
    """The fragments of one modality, to be searched by inner product."""

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        ...

    def __len__(self) -> int:
        """Number of fragments."""
        ...

    def products(self, queries: Vectors, start: int, stop: int) -> Scores:
        """(stop - start, q) float32, inner products of the fragments ``start:stop`` with queries (q, dim).

        Fast, and up to :meth:`error`. May be called from several threads.
        """
        ...

    def products_of(self, query: Vectors, rows: Rows) -> Scores:
        """(n,) float32 of some fragments with a query (dim,), as :meth:`products`."""
        ...

    def error(self, queries: Vectors) -> float:
        """How far :meth:`products` with these queries may lie from :func:`inner_products`, at most."""
        ...

    def vectors(self, start: int, stop: int) -> Vectors:
        """The fragments ``start:stop``: (stop - start, dim) float32."""
        ...

    def take(self, rows: Rows) -> Vectors:
        """Some fragments: (n, dim) float32, as in :meth:`vectors`."""
        ...


class Scorer(Protocol):
    """What a fragment scores for a query: the one definition behind every ranking.

    Where a product rises, the score does not fall, and rises by no more.
    """

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
        return products + np.fmin(penalty, np.float32(0))  # NaN is the larger one

    def bound(self, products: Scores) -> Scores:
        """The products themselves: ln(u) is at most 0."""
        return products


def inner_products(query: Vectors, vectors: Vectors) -> Scores:
    """(n,) of a query (dim,) with (n, dim); equal vectors score the same to the bit, wherever they lie."""
    # einsum sums each row on its own, unlike BLAS, whose rounding depends on the neighbours
    products: Scores = np.einsum("nd,d->n", vectors, query).astype(np.float32, copy=False)
    return products
