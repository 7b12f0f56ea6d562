"""Every query over every owner: what an owner scores, the metrics, and what chance would get.

An owner scores what its best fragment scores (``max``; FELGA, 4.3), which is the paper's protocol. ``soft``
owner scores are felga's own: an image's best region counts with the cosine of its whole,
``(best + 0.5 whole) / 1.5``, and a text by a soft maximum, ``t log mean exp(score / t)`` with t = 0.1.

With a quality u, the predicted IoU of its box, a region scores ``cos + gamma ln u``, which ranks as
``exp(cos / gamma) u`` does: meaning times quality. A region of unknown quality (NaN) scores its cosine.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from felga.errors import BadInputError
from felga.evaluation.task_results import Means, Owner, TaskResult
from felga.search.average_precision import CUTOFFS, Metrics, chance, empty_metrics, metrics
from felga.search.matrix import WORKERS, owner_metrics, owner_scores
from felga.search.scoring import Extras
from felga.types import Flags, Floats, Rows, Scores, Vectors

TEMPERATURE = 0.1
WHOLE = 0.5
GAMMA = 0.05
TILE = 128  # queries at a time


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
    workers: int = WORKERS,
) -> Ranking:
    """Rank all owners for each query; arguments and errors of :func:`felga.search.matrix.owner_metrics`."""
    if owner == "max":
        each = owner_metrics(queries, fragments, rows, offsets, query_class, relevant, workers=workers)
    else:
        each = _soft_metrics(queries, fragments, rows, offsets, query_class, relevant)
    return Ranking(each, chance(each.relevant, len(offsets) - 1))


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
    scorer, extras = (None, {}) if quality is None else (MeaningAndQuality(), {"quality": quality})
    best = owner_scores(queries, regions, np.arange(len(regions)), offsets, scorer=scorer, extras=extras)
    if owner == "max":
        return best
    if whole is None:
        raise BadInputError("soft owner scores need to know which regions are whole images")
    rows = np.flatnonzero(whole)
    images = np.searchsorted(offsets, rows, side="right") - 1
    of_whole = fragment_scores(queries, regions[rows])
    best[:, images] = (best[:, images] + WHOLE * of_whole) / (1 + WHOLE)
    return best


def fragment_scores(queries: Vectors, regions: Vectors, quality: Scores | None = None) -> Scores:
    """The score of each region for each query: (B, n) float32."""
    scores = queries @ regions.T
    if quality is not None:
        scores = scores + np.nan_to_num(np.float32(GAMMA) * np.log(quality), nan=0.0)
    return np.asarray(scores, np.float32)


class MeaningAndQuality:
    """A :class:`felga.search.scoring.Scorer`: ``cos + gamma ln u``, u the column ``quality``, in (0, 1]."""

    def score(self, query: Vectors, vectors: Vectors, extras: Extras) -> Scores:
        """Scores (n,)."""
        scores: Scores = fragment_scores(query[None], vectors, extras["quality"])[0]
        return scores

    def bound(self, products: Scores) -> Scores:
        """The products themselves: ln u is at most 0."""
        return products


def _soft_metrics(
    queries: Vectors, fragments: Vectors, rows: Rows, offsets: Rows, query_class: Rows, relevant: Flags
) -> Metrics:
    """Metrics by ``t log mean exp(cos / t)``; cosines are at most 1, so nothing overflows."""
    lengths = np.diff(offsets)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    rows = rows[np.lexsort((rows, owner))]  # texts of the same keywords add them up in one order: they tie
    some = lengths > 0
    each = empty_metrics(len(queries))
    for start in range(0, len(queries), TILE):
        tile = slice(start, start + TILE)
        powers = np.exp(fragments @ queries[tile].T / TEMPERATURE, dtype=np.float64)  # (U, tile)
        scores = np.full((len(lengths), powers.shape[1]), -np.inf)
        if some.any():
            sums = np.add.reduceat(powers[rows], offsets[:-1][some], axis=0)
            scores[some] = TEMPERATURE * np.log(sums / lengths[some, None])
        found = metrics(np.ascontiguousarray(scores.T, np.float32), relevant[query_class[tile]])
        for field in fields(Metrics):
            getattr(each, field.name)[tile] = getattr(found, field.name)
    return each


def _means(metrics: Metrics, queries: Flags) -> Means:
    r1, r5, r10 = (_mean(metrics.recall[:, column], queries) for column in range(len(CUTOFFS)))
    return Means(_mean(metrics.average_precision, queries), r1, r5, r10, _mean(metrics.ndcg, queries))


def _mean(values: Floats, queries: Flags) -> float | None:
    return float(values[queries].mean()) if queries.any() else None
