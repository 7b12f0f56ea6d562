"""All owners for many queries, in tiles: exact, each distinct fragment multiplied once, memory bounded.

An owner scores what its best fragment scores (FELGA, 4.3). Owners share fragments (the 50,000 keywords of
5,000 texts are some 7,000 distinct ones), so a tile of queries is multiplied with the distinct ones, and an
owner then takes its maximum over their rows. That is less work, and it makes owners with the same best
fragment tie bit for bit. Equal vectors must therefore be one fragment: given twice, rounding may part them.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue

import numpy as np
import torch
from torch import Tensor

from felga.errors import BadInputError
from felga.search.segments import check_offsets, check_unit
from felga.types import Rows, Scores, Vectors

TILE = 128
"""Queries ranked at once, at most."""
TILE_BYTES = 128 << 20
"""What one worker's tile may hold, unless a single query needs more."""
WORKERS = 2
_BYTES_PER_OWNER = 64  # of one query: two float32 scores, key, flags, places of ties and of relevant owners


def owner_scores(
    queries: Vectors, fragments: Vectors, rows: Rows, offsets: Rows, *, workers: int = WORKERS
) -> Scores:
    """What each owner scores for each query: (B, T) float32, for B so few that they fit in memory.

    Args:
        queries: (B, d) float32 unit vectors.
        fragments: (U, d) float32 unit vectors, no two alike.
        rows: (n,) integers, rows of ``fragments``, an owner's side by side.
        offsets: (T + 1,) integers, owner ``i`` has the fragments ``rows[offsets[i]:offsets[i + 1]]``; without
            any it scores ``-inf``.
        workers: threads.

    Raises:
        BadInputError: shapes or rows do not fit, or a vector is not finite and of length 1.
    """
    gallery = Gallery(queries, fragments, rows, offsets)
    scores = np.empty((gallery.count, gallery.owners), np.float32)

    def put(part: slice, permuted: Scores) -> None:
        scores[part, gallery.order] = permuted

    gallery.each_tile(put, workers)
    return scores


class Gallery:
    """Checked queries and owners; the owners permuted so that those with the most fragments come first."""

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
        if not within(rows, len(fragments)):
            raise BadInputError(f"the rows of fragments must lie in 0..{len(fragments) - 1}")

        lengths = np.diff(offsets)
        # The commonest fragment of each owner first: the slots below then reread the same few rows of a
        # product, from the cache.
        owner = np.repeat(np.arange(len(lengths)), lengths)
        rows = rows[np.lexsort((-np.bincount(rows, minlength=1)[rows], owner))]
        self.order = np.argsort(-lengths, kind="stable")
        self.count, self.owners = len(queries), len(lengths)
        first, lengths = offsets[:-1][self.order], lengths[self.order]
        # The j-th fragment of every owner that has so many: a prefix of the permuted owners.
        self._slots = [
            torch.from_numpy(rows[first[: np.searchsorted(-lengths, -j)] + j])
            for j in range(int(lengths[0]) if len(lengths) else 0)
        ]
        self._queries, self._fragments = _tensor(queries), _tensor(fragments)

    def each_tile(self, put: Callable[[slice, Scores], None], workers: int) -> None:
        """Call ``put`` with each tile of queries and its scores (n, T), permuted; from many threads."""
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


def _tensor(vectors: Vectors) -> Tensor:
    """Without a copy where the array may be written, which torch insists on."""
    return torch.from_numpy(vectors) if vectors.flags.writeable else torch.tensor(vectors)


def within(values: Rows, stop: int) -> bool:
    return values.size == 0 or bool(values.min() >= 0 and values.max() < stop)
