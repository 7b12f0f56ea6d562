"""What a search is made of: a :class:`Searcher` that finds candidates, a :class:`Scorer` that scores them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from felga.types import Flags, Rows, Scores, Vectors

Extras: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""Columns with one value per fragment, such as a predicted IoU."""


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
    """What a fragment scores for a query: the one definition behind every ranking of a search."""

    def score(self, query: Vectors, vectors: Vectors, extras: Extras) -> Scores:
        """Scores (n,) of n fragments for one query.

        Args:
            query: (dim,) float32.
            vectors: (n, dim) float32.
            extras: each (n, ...).
        """
        ...

    def bound(self, products: Scores) -> Scores:
        """The most that fragments can score whose inner products are at most ``products``; never falls."""
        ...


class InnerProduct:
    """The cosine of unit vectors: the paper's score (FELGA, 4.3)."""

    def score(self, query: Vectors, vectors: Vectors, extras: Extras) -> Scores:
        """As of :class:`Scorer`; equal vectors score the same to the bit, wherever they lie."""
        # einsum sums each row on its own, unlike BLAS, whose rounding depends on the neighbours
        scores: Scores = np.einsum("nd,d->n", vectors, query).astype(np.float32, copy=False)
        return scores

    def bound(self, products: Scores) -> Scores:
        """The products themselves."""
        return products
