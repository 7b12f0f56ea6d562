"""Every query over every owner: the metrics, and what chance would get."""

from __future__ import annotations

from dataclasses import dataclass

from felga.evaluation.task_results import Means, TaskResult
from felga.search.average_precision import CUTOFFS, Metrics, chance
from felga.search.matrix import WORKERS, owner_metrics
from felga.types import Flags, Floats, Rows, Vectors


@dataclass(frozen=True, slots=True)
class Ranking:
    """The metrics of B queries, and the expected ones of a random order."""

    metrics: Metrics
    chance: Metrics

    @property
    def scored(self) -> Flags:
        """(B,) bool, the queries with at least one relevant owner: only these count."""
        return self.metrics.relevant > 0

    def result(self) -> TaskResult:
        """Means over the queries that count."""
        own, expected = (_means(each, self.scored) for each in (self.metrics, self.chance))
        counted = int(self.scored.sum())
        return TaskResult(
            map=own.map,
            map_optimistic=_mean(self.metrics.optimistic, self.scored),
            map_pessimistic=_mean(self.metrics.pessimistic, self.scored),
            r1=own.r1,
            r5=own.r5,
            r10=own.r10,
            ndcg10=own.ndcg10,
            chance=expected,
            queries=counted,
            left_out=len(self.scored) - counted,
        )


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
    """Rank all owners for each query; arguments and errors of :func:`felga.search.matrix.owner_metrics`."""
    metrics = owner_metrics(queries, fragments, rows, offsets, query_class, relevant, workers=workers)
    return Ranking(metrics, chance(metrics.relevant, len(offsets) - 1))


def _means(metrics: Metrics, queries: Flags) -> Means:
    r1, r5, r10 = (_mean(metrics.recall[:, column], queries) for column in range(len(CUTOFFS)))
    return Means(_mean(metrics.average_precision, queries), r1, r5, r10, _mean(metrics.ndcg, queries))


def _mean(values: Floats, queries: Flags) -> float | None:
    return float(values[queries].mean()) if queries.any() else None
