"""Every query over every owner, in tiles: exact, each distinct fragment multiplied once, memory bounded.

An owner scores what its best fragment scores (FELGA, 4.3). Owners share fragments (50,000 keywords of 5,000
texts are some 7,000 distinct ones), so a tile of queries is multiplied with the distinct ones, and an owner
then takes its maximum by their rows. That is less work, and it makes owners with the same best fragment tie
bit for bit. Vectors that are equal must therefore be one fragment: given twice, rounding may part them.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import torch
from torch import Tensor

from felga.errors import BadInputError
from felga.evaluation.average_precision import (
    CUTOFFS,
    DEPTH,
    Metrics,
    chance,
    of_sorted,
    pack_cosines,
)
from felga.types import Flags, Floats, Rows, Scores, Vectors

TILE = 128
"""Queries that are ranked at once, at most."""
TILE_BYTES = 128 << 20
"""What one worker's tile may hold, unless a single query needs more."""
WORKERS = 2
_BYTES_PER_OWNER = 64  # of one query: two float32 scores, key, flags, places of ties and of relevant owners


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
    gallery = _Gallery(queries, fragments, rows, offsets)
    if relevant.ndim != 2 or relevant.shape[1] != gallery.owners:
        raise BadInputError(f"relevant {relevant.shape} must be (classes, {gallery.owners} owners)")
    if query_class.shape != (gallery.count,) or not _within(query_class, len(relevant)):
        raise BadInputError(f"each of {gallery.count} queries needs its class, in 0..{len(relevant) - 1}")
    turned = relevant[:, gallery.order].astype(np.uint32)
    found = _nothing(gallery.count)

    def put(part: slice, scores: Scores) -> None:
        keys = pack_cosines(scores, turned[query_class[part]])
        keys.sort(axis=1)
        tile = of_sorted(keys)
        for field in fields(Metrics):
            getattr(found, field.name)[part] = getattr(tile, field.name)

    gallery.each_tile(put, workers)
    return Ranking(found, chance(found.relevant, gallery.owners))


def owner_scores(
    queries: Vectors, fragments: Vectors, rows: Rows, offsets: Rows, *, workers: int = WORKERS
) -> Scores:
    """The scores that :func:`rank` ranks by, (B, T) float32, for B so few that they fit in memory.

    Arguments and errors are those of :func:`rank`.
    """
    gallery = _Gallery(queries, fragments, rows, offsets)
    scores = np.empty((gallery.count, gallery.owners), np.float32)

    def put(part: slice, turned: Scores) -> None:
        scores[part, gallery.order] = turned

    gallery.each_tile(put, workers)
    return scores


class _Gallery:
    """Checked queries and owners; the owners turned so that those with the most fragments come first."""

    def __init__(self, queries: Vectors, fragments: Vectors, rows: Rows, offsets: Rows) -> None:
        rows, offsets = np.asarray(rows, np.int64), np.asarray(offsets, np.int64)
        queries, fragments = (np.ascontiguousarray(x, np.float32) for x in (queries, fragments))
        if queries.ndim != 2 or fragments.ndim != 2 or queries.shape[1] != fragments.shape[1]:
            raise BadInputError(
                f"queries {queries.shape} and fragments {fragments.shape} must be (n, d) of the same d"
            )
        check_unit(queries, "query")
        check_unit(fragments, "fragment")
        check_offsets(offsets, len(rows))
        if not _within(rows, len(fragments)):
            raise BadInputError(f"the rows of fragments must lie in 0..{len(fragments) - 1}")

        lengths = np.diff(offsets)
        # The commonest fragment of each owner first: the slots below then reread the same few rows of a
        # product, from the cache.
        owner = np.repeat(np.arange(len(lengths)), lengths)
        rows = rows[np.lexsort((-np.bincount(rows, minlength=1)[rows], owner))]
        self.order = np.argsort(-lengths, kind="stable")
        self.count, self.owners = len(queries), len(lengths)
        first, lengths = offsets[:-1][self.order], lengths[self.order]
        # The j-th fragment of every owner that has so many: a prefix of the turned owners.
        self._slots = [
            torch.from_numpy(rows[first[: np.searchsorted(-lengths, -j)] + j])
            for j in range(int(lengths[0]) if len(lengths) else 0)
        ]
        self._queries, self._fragments = _tensor(queries), _tensor(fragments)

    def each_tile(self, put: Callable[[slice, Scores], None], workers: int) -> None:
        """Call ``put`` with each tile of queries and its scores (n, T), owners turned; from many threads."""
        one_query = 4 * len(self._fragments) + _BYTES_PER_OWNER * self.owners
        tile = max(1, min(TILE, TILE_BYTES // max(one_query, 1)))
        starts: SimpleQueue[int] = SimpleQueue()
        for start in range(0, self.count, tile):
            starts.put(start)

        def work() -> None:
            torch.set_num_threads(1)  # of this thread
            product = torch.empty(len(self._fragments) * tile)
            best, other = torch.empty(self.owners * tile), torch.empty(self.owners * tile)
            while True:
                try:
                    start = starts.get_nowait()
                except Empty:
                    return
                part = slice(start, min(start + tile, self.count))
                put(part, self._score(part, product, best, other))

        before = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(workers) as pool:
                for job in [pool.submit(work) for _ in range(workers)]:
                    job.result()
        finally:
            torch.set_num_threads(before)

    def _score(self, part: slice, product: Tensor, best: Tensor, other: Tensor) -> Scores:
        queries = self._queries[part]
        n = len(queries)
        # A fragment's scores of all queries lie side by side, so that an owner takes whole rows.
        cosines = product[: len(self._fragments) * n].view(-1, n)
        torch.mm(self._fragments, queries.T, out=cosines)
        top = best[: self.owners * n].view(-1, n)
        spare = other[: self.owners * n].view(-1, n)
        top[len(self._slots[0]) if self._slots else 0 :] = -torch.inf
        for j, slot in enumerate(self._slots):
            if j == 0:
                torch.index_select(cosines, 0, slot, out=top[: len(slot)])
            else:
                torch.index_select(cosines, 0, slot, out=spare[: len(slot)])
                torch.maximum(top[: len(slot)], spare[: len(slot)], out=top[: len(slot)])
        scores: Scores = top.T.contiguous().numpy()
        return scores


def check_unit(vectors: Vectors, what: str) -> None:
    """Refuse vectors that are not finite or not of length 1 (within 0.01, what half precision may lose).

    Raises:
        BadInputError: says how many, and the first.
    """
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    bad = np.flatnonzero(~(np.abs(lengths - 1.0) <= 0.01))  # NaN and infinity are among these
    if len(bad):
        raise BadInputError(
            f"{len(bad)} of {len(vectors)} {what} vectors are not of length 1 (row {bad[0]} has "
            f"{lengths[bad[0]]:g}): normalise them, and look for NaN"
        )


def check_offsets(offsets: Rows, count: int) -> None:
    """Refuse offsets that do not run from 0 to ``count`` without falling.

    Raises:
        BadInputError: they do not.
    """
    if offsets.ndim != 1 or not len(offsets) or offsets[0] != 0 or offsets[-1] != count:
        raise BadInputError(f"offsets must run from 0 to {count}, the number of fragments")
    if (np.diff(offsets) < 0).any():
        raise BadInputError("offsets must not fall")


def _nothing(count: int) -> Metrics:
    def one() -> Floats:
        return np.full(count, np.nan)

    return Metrics(
        one(), one(), one(), np.full((count, len(CUTOFFS)), np.nan), one(), np.zeros(count, np.int64)
    )


def _tensor(vectors: Vectors) -> Tensor:
    """Without a copy where the array may be written, which torch insists on."""
    return torch.from_numpy(vectors) if vectors.flags.writeable else torch.tensor(vectors)


def _within(values: Rows, stop: int) -> bool:
    return values.size == 0 or bool(values.min() >= 0 and values.max() < stop)
