"""The scores of all owners for many queries: in tiles, exact, each distinct fragment multiplied once.

An owner scores what its best fragment scores (FELGA, 4.3). Owners share fragments (50,000 keywords of 5,000
texts are some 7,000 distinct ones), so a tile of queries is multiplied with the distinct ones, and each owner
then takes its maximum over its rows. That is less work, and owners with the same best fragment tie bit for
bit. Equal vectors must therefore be one fragment: given twice, they may be rounded differently.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from queue import Empty, SimpleQueue

import numpy as np
import torch
from torch import Tensor

from felga.errors import BadInputError
from felga.search.average_precision import Metrics, empty_metrics, metrics_of_keys, pack, pack_cosines
from felga.search.scoring import Extras, Scorer
from felga.search.segments import check_offsets, check_unit
from felga.types import Flags, Rows, Scores, Vectors

TILE = 128
"""Queries scored at once, at most."""
TILE_BYTES = 128 << 20
"""Memory of one worker's tile, unless a single query needs more."""
WORKERS = 2
_BYTES_PER_OWNER = 64  # per query: two float32 scores, key, flags, places of ties and of relevant owners


def owner_scores(
    queries: Vectors,
    fragments: Vectors,
    rows: Rows,
    offsets: Rows,
    *,
    scorer: Scorer | None = None,
    extras: Extras | None = None,
    workers: int = WORKERS,
) -> Scores:
    """The score of each owner for each query: (B, T) float32, ``-inf`` for an owner without fragments.

    Args:
        queries, fragments, rows, offsets, scorer, extras: as of :class:`ScoreMatrix`.
        workers: threads.

    Raises:
        BadInputError: as of :class:`ScoreMatrix`.
    """
    matrix = ScoreMatrix(queries, fragments, rows, offsets, scorer=scorer, extras=extras)
    scores = np.empty((matrix.count, matrix.owners), np.float32)

    def put(part: slice, permuted: Scores) -> None:
        scores[part, matrix.order] = permuted

    matrix.each_tile(put, workers)
    return scores


def owner_metrics(
    queries: Vectors,
    fragments: Vectors,
    rows: Rows,
    offsets: Rows,
    query_class: Rows,
    relevant: Flags,
    *,
    scorer: Scorer | None = None,
    extras: Extras | None = None,
    workers: int = WORKERS,
) -> Metrics:
    """Rank all T owners for each of B queries: the metrics of the rankings, without keeping (B, T) scores.

    Memory beside the input and 19 float64 per query: about ``workers * TILE_BYTES``, or per worker the ``4 U
    + 64 T`` bytes of one query where that is more. The metrics do not depend on the number of workers.

    Args:
        queries, fragments, rows, offsets, scorer, extras: as of :class:`ScoreMatrix`.
        query_class: (B,) integers, the row of ``relevant`` for each query.
        relevant: (C, T) bool, the owners that are relevant to a class of queries.
        workers: threads.

    Raises:
        BadInputError: as of :class:`ScoreMatrix`, or the classes do not fit.
    """
    relevant, query_class = np.asarray(relevant, bool), np.asarray(query_class, np.int64)
    matrix = ScoreMatrix(queries, fragments, rows, offsets, scorer=scorer, extras=extras)
    if relevant.ndim != 2 or relevant.shape[1] != matrix.owners:
        raise BadInputError(f"relevant {relevant.shape} must be (classes, {matrix.owners} owners)")
    if query_class.shape != (matrix.count,) or not _within(query_class, len(relevant)):
        raise BadInputError(f"each of {matrix.count} queries needs its class, in 0..{len(relevant) - 1}")
    permuted_relevant = relevant[:, matrix.order].astype(np.uint32)
    metrics = empty_metrics(matrix.count)
    packed = pack_cosines if scorer is None else pack

    def put(part: slice, permuted: Scores) -> None:
        keys = packed(permuted, permuted_relevant[query_class[part]])
        keys.sort(axis=1)
        tile = metrics_of_keys(keys)
        for field in fields(Metrics):
            getattr(metrics, field.name)[part] = getattr(tile, field.name)

    matrix.each_tile(put, workers)
    return metrics


class ScoreMatrix:
    """Checked queries and owners, ready to be scored tile by tile.

    Attributes:
        count, owners: B and T.
        order: (T,) the permutation in which tiles have the owners: those with the most fragments first.
    """

    def __init__(
        self,
        queries: Vectors,
        fragments: Vectors,
        rows: Rows,
        offsets: Rows,
        *,
        scorer: Scorer | None = None,
        extras: Extras | None = None,
    ) -> None:
        """Check and arrange.

        Args:
            queries: (B, d) float32 unit vectors.
            fragments: (U, d) float32 unit vectors, no two alike.
            rows: (n,) integers, rows of ``fragments``, an owner's side by side.
            offsets: (T + 1,) integers, owner ``i`` has the fragments ``rows[offsets[i]:offsets[i + 1]]``.
            scorer: None: the inner product, by matrix products; another one is asked query by query.
            extras: columns for the scorer, (U, ...) each.

        Raises:
            BadInputError: shapes or rows do not fit, or a vector is not finite and of length 1.
        """
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
            raise BadInputError(f"rows must lie in 0..{len(fragments) - 1}, the fragments")

        lengths = np.diff(offsets)
        # The commonest fragment of each owner first: the slots below then reread the same few rows of a
        # product, from the cache.
        owner = np.repeat(np.arange(len(lengths)), lengths)
        rows = rows[np.lexsort((-np.bincount(rows, minlength=1)[rows], owner))]
        self.order = np.argsort(-lengths, kind="stable")
        self.count, self.owners = len(queries), len(lengths)
        first, lengths = offsets[:-1][self.order], lengths[self.order]
        # The j-th fragment of every owner that has more than j: a prefix of the permuted owners.
        self._slots = [
            torch.from_numpy(rows[first[: np.searchsorted(-lengths, -j)] + j])
            for j in range(int(lengths[0]) if len(lengths) else 0)
        ]
        self._queries, self._fragments = _tensor(queries), _tensor(fragments)
        self._scorer, self._extras = scorer, extras or {}

    def each_tile(self, put: Callable[[slice, Scores], None], workers: int = WORKERS) -> None:
        """Call ``put`` with each tile of queries and its scores (n, T), owners permuted; from many threads.

        Each of the ``workers`` uses one torch thread; torch's own number of threads is restored afterwards.
        """
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
        n = part.stop - part.start
        # The scores of one fragment for all queries lie side by side, so that an owner takes whole rows.
        each = product[: len(self._fragments) * n].view(-1, n)
        self._score_fragments(part, each)
        top = best[: self.owners * n].view(-1, n)
        spare = other[: self.owners * n].view(-1, n)
        top[len(self._slots[0]) if self._slots else 0 :] = -torch.inf
        for j, slot in enumerate(self._slots):
            if j == 0:
                torch.index_select(each, 0, slot, out=top[: len(slot)])
            else:
                torch.index_select(each, 0, slot, out=spare[: len(slot)])
                torch.maximum(top[: len(slot)], spare[: len(slot)], out=top[: len(slot)])
        scores: Scores = top.T.contiguous().numpy()
        return scores

    def _score_fragments(self, part: slice, out: Tensor) -> None:
        """The score of every fragment for the queries of a tile, into ``out`` (U, n)."""
        queries = self._queries[part]
        if self._scorer is None:
            torch.mm(self._fragments, queries.T, out=out)
            return
        fragments = self._fragments.numpy()
        for column, query in enumerate(queries.numpy()):
            out[:, column] = torch.from_numpy(self._scorer.score(query, fragments, self._extras))


def _tensor(vectors: Vectors) -> Tensor:
    """Copied only if the array is read-only, which torch refuses to share."""
    return torch.from_numpy(vectors) if vectors.flags.writeable else torch.tensor(vectors)


def _within(values: Rows, stop: int) -> bool:
    return values.size == 0 or bool(values.min() >= 0 and values.max() < stop)
