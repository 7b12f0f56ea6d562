"""How well queries rank their relevant owners: all scores and their average precision, tile by tile."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from felga.errors import BadInputError
from felga.search.average_precision import CUTOFFS, DEPTH, Metrics, chance, metrics_of_keys, pack_cosines
from felga.search.matrix import WORKERS, Gallery, within
from felga.types import Flags, Floats, Rows, Scores, Vectors


@dataclass(frozen=True, slots=True)
class Ranking:
    """What B queries got, and what chance would have got them."""

    metrics: Metrics
    chance: Metrics

    @property
    def scored(self) -> Flags:
        """(B,) bool, the queries with at least one relevant owner: only these count."""
        return self.metrics.relevant > 0

    def summary(self, queries: Flags | None = None) -> dict[str, Any]:
        """Means over the queries with at least one relevant owner, as json values in [0, 1].

        Args:
            queries: (B,) bool, the queries to look at; all of them by default.

        Returns:
            ``map`` (ties as scikit-learn has them), ``map_optimistic``, ``map_pessimistic``, ``r@1``,
            ``r@5``, ``r@10``, ``ndcg@10``, ``chance`` (the same figures of a random order), ``queries``
            (those that count) and ``left_out`` (those without a relevant owner). None where no query counts.
        """
        asked = np.ones(len(self.scored), bool) if queries is None else queries
        counted = asked & self.scored
        return {
            **_means(self.metrics, counted),
            "chance": {
                name: value for name, value in _means(self.chance, counted).items() if "mistic" not in name
            },
            "queries": int(counted.sum()),
            "left_out": int((asked & ~counted).sum()),
        }


def _means(found: Metrics, queries: Flags) -> dict[str, float | None]:
    def mean(values: Floats) -> float | None:
        return float(values[queries].mean()) if queries.any() else None

    return {
        "map": mean(found.average_precision),
        "map_optimistic": mean(found.optimistic),
        "map_pessimistic": mean(found.pessimistic),
        **{f"r@{k}": mean(found.recall[:, column]) for column, k in enumerate(CUTOFFS)},
        f"ndcg@{DEPTH}": mean(found.ndcg),
    }


def rank(
    queries: Vectors,
    fragments: Vectors,
    rows: Rows,
    offsets: Rows,
    query_class: Rows,
    relevant: Flags,
    *,
    workers: int = WORKERS,
) -> Ranking:
    """Rank all T owners for each of B queries, and say how good the rankings are.

    Memory, beside the input and 19 float64 for each query: at most ``workers * TILE_BYTES``, about, or one
    query's ``4 U + 64 T`` bytes for each worker where that is more. The matrix product and the ranking run in
    ``workers`` threads of one torch thread each; torch's own number of threads is put back afterwards.
    A query's figures do not depend on the number of workers.

    Args:
        queries: (B, d) float32 unit vectors.
        fragments: (U, d) float32 unit vectors, no two alike.
        rows: (n,) integers, rows of ``fragments``, an owner's side by side.
        offsets: (T + 1,) integers, owner ``i`` has the fragments ``rows[offsets[i]:offsets[i + 1]]``; without
            any, it scores ``-inf``.
        query_class: (B,) integers, the row of ``relevant`` that a query has.
        relevant: (C, T) bool, the owners that are relevant to a class of queries.
        workers: threads.

    Raises:
        BadInputError: shapes, rows or classes do not fit, or a vector is not finite and of length 1.
    """
    relevant, query_class = np.asarray(relevant, bool), np.asarray(query_class, np.int64)
    gallery = Gallery(queries, fragments, rows, offsets)
    if relevant.ndim != 2 or relevant.shape[1] != gallery.owners:
        raise BadInputError(f"relevant {relevant.shape} must be (classes, {gallery.owners} owners)")
    if query_class.shape != (gallery.count,) or not within(query_class, len(relevant)):
        raise BadInputError(f"each of {gallery.count} queries needs its class, in 0..{len(relevant) - 1}")
    permuted = relevant[:, gallery.order].astype(np.uint32)
    found = empty_metrics(gallery.count)

    def put(part: slice, scores: Scores) -> None:
        keys = pack_cosines(scores, permuted[query_class[part]])
        keys.sort(axis=1)
        tile = metrics_of_keys(keys)
        for field in fields(Metrics):
            getattr(found, field.name)[part] = getattr(tile, field.name)

    gallery.each_tile(put, workers)
    return Ranking(found, chance(found.relevant, gallery.owners))


def empty_metrics(count: int) -> Metrics:
    def one() -> Floats:
        return np.full(count, np.nan)

    return Metrics(
        one(), one(), one(), np.full((count, len(CUTOFFS)), np.nan), one(), np.zeros(count, np.int64)
    )
