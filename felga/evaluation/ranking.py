"""Every query over every owner: what an owner scores, the metrics, and what chance would get.

The scores are those of a search (:mod:`felga.search.scoring`, :mod:`felga.search.rules`): ``max`` is the
paper's protocol (FELGA, 4.3), ``soft`` and quality are felga's own and rows of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from felga.errors import BadInputError
from felga.evaluation.task_results import Means, Owner, TaskResult
from felga.search.average_precision import CUTOFFS, Metrics, chance
from felga.search.matrix import WORKERS, owner_metrics, owner_scores
from felga.search.rules import image_rule, text_rule
from felga.search.scoring import MeaningAndQuality
from felga.types import Flags, Floats, Rows, Scores, Vectors


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
    owner: Owner = "max",
    whole: Flags | None = None,
    workers: int = WORKERS,
) -> Ranking:
    """Rank all texts for each query; arguments and errors of :func:`felga.search.matrix.owner_metrics`.

    By ``max``, ``rows`` should hold no whole texts.
    """
    each = owner_metrics(
        queries, fragments, rows, offsets, query_class, relevant,
        rule=text_rule(owner), whole=whole, workers=workers,
    )  # fmt: skip
    return Ranking(each, chance(each.relevant, len(offsets) - 1))


def with_wholes(
    keywords: Vectors, rows: Rows, offsets: Rows, texts: Vectors, counts: Flags
) -> tuple[tuple[Vectors, Rows, Rows], Flags]:
    """The fragments of P texts: their keywords, and behind them the wholes of the texts that count.

    Args:
        keywords, rows, offsets: (U, d), (m,) and (P + 1,), as in :class:`felga.evaluation.protocol.Split`.
        texts: (P, d) vectors of the whole texts.
        counts: (P,) which of them count.

    Returns:
        The same three for all fragments, and which of the (m',) rows are whole texts.
    """
    distinct, row_of = np.unique(texts[counts], axis=0, return_inverse=True)
    ends = offsets[1:][counts]
    return (
        np.concatenate([keywords, distinct]),
        np.insert(rows, ends, len(keywords) + row_of.reshape(-1)),
        offsets + np.concatenate([[0], np.cumsum(counts)]),
    ), np.insert(np.zeros(len(rows), bool), ends, True)


def image_scores(
    queries: Vectors,
    regions: Vectors,
    offsets: Rows,
    *,
    quality: Scores | None = None,
    whole: Flags | None = None,
    owner: Owner = "max",
) -> Scores:
    """The score of each image for each query: (B, P) float32, ``-inf`` without regions.

    Args:
        queries, regions: (B, d) and (n, d) unit vectors.
        offsets: (P + 1,) image ``p`` has the regions ``offsets[p]:offsets[p + 1]``.
        quality: (n,) of the regions; None: by meaning alone.
        whole: (n,) the regions that are whole images; for ``soft``. An image without one scores its best.

    Raises:
        BadInputError: ``soft`` without ``whole``, or as of :func:`felga.search.matrix.owner_scores`.
    """
    if owner == "soft" and whole is None:
        raise BadInputError("soft owner scores need to know which regions are whole images")
    scorer, extras = (None, None) if quality is None else (MeaningAndQuality(), {"quality": quality})
    rows = np.arange(len(regions))
    return owner_scores(
        queries, regions, rows, offsets, scorer=scorer, extras=extras, rule=image_rule(owner), whole=whole
    )


def fragment_scores(queries: Vectors, regions: Vectors, quality: Scores | None = None) -> Scores:
    """The score of each region for each query: (B, n) float32."""
    cosines = np.asarray(queries @ regions.T, np.float32)
    return cosines if quality is None else MeaningAndQuality().score(cosines, {"quality": quality})


def _means(metrics: Metrics, queries: Flags) -> Means:
    r1, r5, r10 = (_mean(metrics.recall[:, column], queries) for column in range(len(CUTOFFS)))
    return Means(_mean(metrics.average_precision, queries), r1, r5, r10, _mean(metrics.ndcg, queries))


def _mean(values: Floats, queries: Flags) -> float | None:
    return float(values[queries].mean()) if queries.any() else None
