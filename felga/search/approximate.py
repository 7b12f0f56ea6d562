"""Approximate search: a FAISS index over codes of the fragments, which names those worth looking at.

It decides which owners are scored, and no score: these are exact, of the vectors themselves. It is built over
files of fragments (:mod:`felga.search.flat`) and goes on being used while some of them are replaced: of the
others it keeps what it knows, and those that it does not know are searched exactly.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from felga.errors import BadIndexError, BadInputError
from felga.files import part_of, publish, shown
from felga.search.flat import FlatSearcher
from felga.types import Progress, Rows, Vectors

LEAST = 100_000
"""Fragments for which ``auto`` builds an index; fewer are searched exactly, in milliseconds."""
BLOCK = 16_384  # fragments added at once
POINTS, ROUNDS, SEED = 40, 10, 1234  # per list, and of k-means: FAISS's defaults ask for 256 and 25
FEWEST = 65_536  # fragments that codes are trained on, if there are as many
FEW = 8  # queries that one thread answers faster than two
_EFFORTS = "nprobe", "efSearch"


@dataclass(frozen=True, slots=True)
class Depth:
    """How much an approximate search looks at.

    Attributes:
        effort: lists that are visited (``nprobe`` of FAISS's IVF), or nodes (``efSearch`` of its HNSW); 0 for
            a kind of index without such a number.
        fetch: fragments that are named for each owner wanted.
    """

    effort: int
    fetch: int


def factory_for(fragments: int, dim: int) -> str | None:
    """The FAISS factory that ``auto`` takes; None: so few fragments are best searched exactly.

    Lists of similar fragments, and in them product quantization with 4 bits for each 4 dimensions, which the
    processor compares 32 at a time (FAISS's fast scan): the fastest of bench/speed.py.
    """
    if fragments < LEAST:
        return None
    lists = 2 ** round(math.log2(4 * math.sqrt(fragments)))
    codes = max(1, dim // 4)
    while dim % codes:
        codes -= 1
    return f"IVF{lists},PQ{codes}x4fs"


def check_factory(factory: str, dim: int) -> None:
    """Refuse what FAISS cannot make of a factory string.

    Raises:
        BadInputError: says what it said.
    """
    _made(factory, dim)


def write_approximate(
    flat: FlatSearcher, factory: str, path: Path, progress: Progress = lambda stage, done, total: None
) -> None:
    """Build an index over all fragments and write it: whole or not at all.

    Memory is that of the codes, and of the fragments that they are trained on.

    Args:
        factory: of FAISS, such as ``IVF4096,PQ128x4fs``.
        progress: called with ``approximate``, how many fragments were added, and of how many.

    Raises:
        BadInputError: there is no such factory, or there are too few fragments to train it.
    """
    made = _made(factory, flat.dim)
    ivf = faiss.try_extract_index_ivf(made)
    lists = 0 if ivf is None else int(ivf.nlist)
    if ivf is not None:
        ivf.cp.niter, ivf.cp.max_points_per_centroid, ivf.cp.seed = ROUNDS, POINTS, SEED
    for part in (made, ivf):  # recall is measured, so FAISS need not warn of few points on stderr
        for quantizer in (part, getattr(part, "pq", None)):
            if (clustering := getattr(quantizer, "cp", None)) is not None:
                clustering.min_points_per_centroid = 1
    if not made.is_trained:
        wanted = min(len(flat), max(FEWEST, POINTS * lists))
        sample = np.linspace(0, len(flat) - 1, wanted).astype(np.int64)
        try:
            made.train(flat.take(np.unique(sample)))
        except RuntimeError as error:
            raise BadInputError(
                f"{factory} cannot be trained on {len(flat)} fragments ({_reason(error)}): use fewer lists, "
                "or --index flat"
            ) from error
    for start in range(0, len(flat), BLOCK):
        stop = min(start + BLOCK, len(flat))
        made.add(flat.vectors(start, stop))
        progress("approximate", stop, len(flat))
    part = part_of(path)
    faiss.write_index(made, str(part))
    publish(part, path)


class ApproximateSearcher:
    """The codes of some files of fragments; see :class:`felga.search.owners.Shortlister`.

    Attributes:
        depth: how much to look at.
        effort: the name of FAISS's number that trades speed for recall, and the most that it can be; ``""``
            and 0 if this kind of index has none.
        rest: ranges of the fragments that there are no codes of.
    """

    def __init__(
        self,
        path: Path,
        flat: FlatSearcher,
        counts: Sequence[int],
        starts: Sequence[int | None],
        depth: Depth,
    ) -> None:
        """Read the codes into memory.

        Args:
            flat: all fragments.
            counts: of the fragments in each file that the codes were made of.
            starts: where each of these files begins in ``flat``; None: it is gone.
            depth: how much to look at.

        Raises:
            BadIndexError: FAISS cannot read it, or it is not an index of these fragments.
        """
        try:
            self._codes = faiss.read_index(str(path))
        except RuntimeError as error:
            raise BadIndexError(f"{shown(path)} is not readable by FAISS: index again") from error
        total = sum(counts)
        if (self._codes.d, self._codes.ntotal) != (flat.dim, total) or self._codes.metric_type:
            raise BadIndexError(
                f"{shown(path)} is no index of {total} fragments by inner product: index again"
            )
        self.effort = _effort_of(self._codes)
        self._ends = np.cumsum(counts)
        shift = [-1 if start is None else start for start in starts]
        self._firsts = np.array(shift, np.int64)
        live = sum(count for count, start in zip(counts, shift, strict=True) if start >= 0)
        self._live = live / total
        self.depth = depth
        known = sorted(
            (start, start + count) for start, count in zip(shift, counts, strict=True) if start >= 0
        )
        edges = [0, *(edge for span in known for edge in span), len(flat)]
        self.rest = [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]

    def shortlist(self, queries: Vectors, k: int) -> list[Rows]:
        """For each query (q, dim), the fragments whose codes are nearest, ``k * depth.fetch`` of them."""
        if not self._live:
            return [np.empty(0, np.int64)] * len(queries)
        wanted = min(math.ceil(k * self.depth.fetch / self._live), self._codes.ntotal)
        if name := self.effort[0]:
            faiss.ParameterSpace().set_index_parameter(self._codes, name, self.depth.effort)
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1 if len(queries) < FEW else threads)  # of this thread
        try:
            _, ids = self._codes.search(np.ascontiguousarray(queries, np.float32), wanted)
        finally:
            faiss.omp_set_num_threads(threads)
        return [self._rows(own) for own in ids]

    def _rows(self, ids: Rows) -> Rows:
        """The fragments with these codes, of those that are not gone."""
        ids = ids[ids >= 0]
        file = np.searchsorted(self._ends, ids, side="right")
        before = np.concatenate([[0], self._ends[:-1]])
        rows: Rows = self._firsts[file] + ids - before[file]
        return rows[self._firsts[file] >= 0]


def depths(searcher: ApproximateSearcher, fragments: int) -> list[Depth]:
    """Depths to try, the cheapest first: a code compared costs 1, a fragment that is named and read 128."""
    name, most = searcher.effort
    efforts, each = [0], 0.0  # how many, and the cost of one
    if name == "nprobe":
        efforts, each = sorted({max(1, most >> shift) for shift in range(8)}), fragments / most
    elif name == "efSearch":
        efforts, each = [64 << shift for shift in range(6)], 16.0
    tried = [Depth(effort, fetch) for effort in efforts for fetch in (10, 30, 90, 270)]
    return sorted(tried, key=lambda depth: (depth.effort * each + 1280 * depth.fetch, depth.fetch))


def _effort_of(codes: Any) -> tuple[str, int]:
    ivf = faiss.try_extract_index_ivf(codes)
    if ivf is not None:
        return _EFFORTS[0], int(ivf.nlist)
    inner = faiss.downcast_index(codes)
    while isinstance(inner, faiss.IndexPreTransform):
        inner = faiss.downcast_index(inner.index)
    return (_EFFORTS[1], int(codes.ntotal)) if isinstance(inner, faiss.IndexHNSW) else ("", 0)


def _made(factory: str, dim: int) -> Any:
    try:
        return faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise BadInputError(
            f"FAISS makes no index of {dim} dimensions by {factory!r} ({_reason(error)}): use flat, auto, or "
            "a factory such as IVF4096,PQ128x4fs"
        ) from error


def _reason(error: RuntimeError) -> str:
    """FAISS's own words, without the place in its source."""
    return re.sub(r"^Error in .*? at \S+: (Error: )?", "", str(error)).strip().rstrip(".")[:160]
