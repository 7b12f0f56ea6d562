"""The scores of all owners for many queries: in tiles, exact, each distinct fragment multiplied once.

An owner scores what its best fragment scores (FELGA, 4.3), or by another rule of :mod:`felga.search.rules`.
Owners share fragments (50,000 keywords of 5,000 texts are some 7,000 distinct ones), so a tile of queries is
multiplied with the distinct ones, and each owner then takes the maximum, or the mean, over its rows. That is
less work, and owners with the same best fragment (soft: with the same fragments) tie bit for bit. Equal
vectors must therefore be one fragment: given twice, they may be rounded differently. Fragments of whole texts
that come after all others cost a mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from queue import Empty, SimpleQueue
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from felga.errors import BadInputError
from felga.search.average_precision import Metrics, empty_metrics, metrics_of_keys, pack, pack_cosines
from felga.search.rules import BestAndWhole, BestFragment, SoftAndWhole, SoftMean
from felga.search.scoring import Extras, Scorer
from felga.search.segments import check_offsets, check_unit
from felga.types import Flags, Rows, Scores, Vectors

TILE = 128
"""Queries scored at once, at most."""
TILE_BYTES = 128 << 20
"""Memory of one worker's tile, unless a single query needs more."""
WORKERS = 2
Rule: TypeAlias = BestFragment | BestAndWhole | SoftMean | SoftAndWhole
_BYTES_PER_OWNER = 64  # per query: two float32 scores, key, flags, places of ties and of relevant owners


def owner_scores(
    queries: Vectors,
    fragments: Vectors,
    rows: Rows,
    offsets: Rows,
    *,
    scorer: Scorer | None = None,
    extras: Extras | None = None,
    rule: Rule | None = None,
    whole: Flags | None = None,
    workers: int = WORKERS,
) -> Scores:
    """The score of each owner for each query: (B, T) float32, ``-inf`` for an owner without fragments.

    Args:
        queries, fragments, rows, offsets, scorer, extras, rule, whole: as of :class:`ScoreMatrix`.
        workers: threads.

    Raises:
        BadInputError: as of :class:`ScoreMatrix`.
    """
    matrix = ScoreMatrix(
        queries, fragments, rows, offsets, scorer=scorer, extras=extras, rule=rule, whole=whole
    )
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
    rule: Rule | None = None,
    whole: Flags | None = None,
    workers: int = WORKERS,
) -> Metrics:
    """Rank all T owners for each of B queries: the metrics of the rankings, without keeping (B, T) scores.

    Memory beside the input and 19 float64 per query: about ``workers * TILE_BYTES``, or per worker the ``4 U
    + 64 T`` bytes of one query where that is more. The metrics do not depend on the number of workers.

    Args:
        queries, fragments, rows, offsets, scorer, extras, rule, whole: as of :class:`ScoreMatrix`.
        query_class: (B,) integers, the row of ``relevant`` for each query.
        relevant: (C, T) bool, the owners that are relevant to a class of queries.
        workers: threads.

    Raises:
        BadInputError: as of :class:`ScoreMatrix`, or the classes do not fit.
    """
    relevant, query_class = np.asarray(relevant, bool), np.asarray(query_class, np.int64)
    matrix = ScoreMatrix(
        queries, fragments, rows, offsets, scorer=scorer, extras=extras, rule=rule, whole=whole
    )
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
        rule: Rule | None = None,
        whole: Flags | None = None,
    ) -> None:
        """Check and arrange.

        Args:
            queries: (B, d) float32 unit vectors.
            fragments: (U, d) float32 unit vectors, no two alike.
            rows: (n,) integers, rows of ``fragments``, an owner's side by side.
            offsets: (T + 1,) integers, owner ``i`` has the fragments ``rows[offsets[i]:offsets[i + 1]]``.
            scorer: of fragments; None: the inner product.
            extras: columns for the scorer, (U, ...) each.
            rule: of owners; None: the best fragment. A soft mean needs finite scores.
            whole: (n,) bool, which of ``rows`` are the whole image or text, one of an owner at most; for a
                rule with a whole. None: none is.

        Raises:
            BadInputError: shapes or rows do not fit, or a vector is not finite and of length 1.
        """
        rows, offsets = np.asarray(rows, np.int64), np.asarray(offsets, np.int64)
        queries, fragments = (np.ascontiguousarray(x, np.float32) for x in (queries, fragments))
        _check_vectors(queries, fragments)
        check_offsets(offsets, len(rows))
        if not _within(rows, len(fragments)):
            raise BadInputError(f"rows must lie in 0..{len(fragments) - 1}, the fragments")
        self._t = rule.t if isinstance(rule, SoftMean | SoftAndWhole) else None
        self._w = rule.w if isinstance(rule, BestAndWhole | SoftAndWhole) else 0.0
        self.count, self.owners = len(queries), len(offsets) - 1
        owners = np.repeat(np.arange(self.owners), np.diff(offsets))
        rows, owners, wholes, of_wholes = _apart(rule, rows, owners, whole)
        lengths = np.bincount(owners, minlength=self.owners)
        first = np.cumsum(lengths) - lengths
        # The commonest fragment of each owner first: the slots below then reread the same few rows of a
        # product, from the cache. Equal counts by row: owners of the same fragments add them up in one order.
        rows = rows[np.lexsort((rows, -np.bincount(rows, minlength=1)[rows], owners))]
        self.order = np.argsort(-lengths, kind="stable")
        first, lengths = first[self.order], lengths[self.order]
        # The j-th fragment of every owner that has more than j: a prefix of the permuted owners.
        self._slots = [
            torch.from_numpy(rows[first[: np.searchsorted(-lengths, -j)] + j])
            for j in range(int(lengths[0]) if len(lengths) else 0)
        ]
        self._lengths = torch.from_numpy(lengths)
        self._wholes = torch.from_numpy(wholes)
        self._of_wholes = torch.from_numpy(np.argsort(self.order)[of_wholes])
        self._counted = int(rows.max()) + 1 if len(rows) else 0
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
        torch.mm(self._fragments, self._queries[part].T, out=each)
        top = best[: self.owners * n].view(-1, n)
        spare = other[: self.owners * n].view(-1, n)
        cosines = each[self._wholes]  # (owners with a whole, n), before the scorer
        self._score_owners(each, top, spare)
        if len(cosines):
            top[self._of_wholes] = (top[self._of_wholes] + self._w * cosines) / (1 + self._w)
        scores: Scores = top.T.contiguous().numpy()
        return scores

    def _score_owners(self, each: Tensor, top: Tensor, spare: Tensor) -> None:
        """From the products of all fragments, ``each`` (U, n), the owners' best or mean score in ``top``."""
        if self._scorer is not None:
            each.T.copy_(torch.from_numpy(self._scorer.score(each.T.numpy(), self._extras)))
        if self._t is not None and self._counted:  # t log(mean(exp(s / t))): a fragment is raised once
            each = each[: self._counted]
            highest = each.amax(0)  # (n,): exp() must not overflow
            each.sub_(highest).div_(self._t).exp_()
            filled = self._over_slots(each, top, spare, torch.add)
            filled.div_(self._lengths[: len(filled), None]).log_().mul_(self._t).add_(highest)
        else:
            self._over_slots(each, top, spare, torch.maximum)

    def _over_slots(self, each: Tensor, top: Tensor, spare: Tensor, combine: Callable[..., Tensor]) -> Tensor:
        """Combine each owner's rows in ``top`` (T, n), ``-inf`` without any; returns those with some."""
        filled = len(self._slots[0]) if self._slots else 0
        top[filled:] = -torch.inf
        for j, slot in enumerate(self._slots):
            if j == 0:
                torch.index_select(each, 0, slot, out=top[: len(slot)])
            else:
                torch.index_select(each, 0, slot, out=spare[: len(slot)])
                combine(top[: len(slot)], spare[: len(slot)], out=top[: len(slot)])
        return top[:filled]


def _check_vectors(queries: Vectors, fragments: Vectors) -> None:
    """Refuse all but unit vectors of one length.

    Raises:
        BadInputError: says what is wrong.
    """
    if queries.ndim != 2 or fragments.ndim != 2 or queries.shape[1] != fragments.shape[1]:
        raise BadInputError(
            f"queries {queries.shape} and fragments {fragments.shape} must be (n, d) of the same d"
        )
    check_unit(queries, "query")
    check_unit(fragments, "fragment")


def _apart(rule: Rule | None, rows: Rows, owners: Rows, whole: Flags | None) -> tuple[Rows, Rows, Rows, Rows]:
    """The rows that a rule takes the best or the mean of, and their owners; its wholes, and theirs.

    Raises:
        BadInputError: ``whole`` is not a flag per row, or an owner has several.
    """
    if whole is None or not isinstance(rule, BestAndWhole | SoftAndWhole):
        return rows, owners, rows[:0], owners[:0]
    whole = np.asarray(whole, bool)
    if whole.shape != owners.shape or (np.bincount(owners[whole], minlength=1) > 1).any():
        raise BadInputError(f"whole {whole.shape} must mark at most one of each owner's rows {owners.shape}")
    kept = np.ones(len(rows), bool)
    if isinstance(rule, SoftAndWhole):  # a whole is not in the mean, unless it is all there is
        kept = ~whole | (np.bincount(owners, minlength=1)[owners] == 1)
    return rows[kept], owners[kept], rows[whole], owners[whole]


def _tensor(vectors: Vectors) -> Tensor:
    """Copied only if the array is read-only, which torch refuses to share."""
    return torch.from_numpy(vectors) if vectors.flags.writeable else torch.tensor(vectors)


def _within(values: Rows, stop: int) -> bool:
    return values.size == 0 or bool(values.min() >= 0 and values.max() < stop)
