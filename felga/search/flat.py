"""Exact search by FAISS: flat files, mapped into memory. The only file that knows FAISS."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import faiss
import numpy as np

from felga.errors import BadIndexError
from felga.files import part_of, publish, shown
from felga.search.scoring import Candidates
from felga.types import Flags, Vectors

_HEADER = struct.Struct("<4siqqqBi")  # type, d, n, two unused numbers, trained, metric
_COUNT = struct.Struct("<Q")
_TYPE, _INNER_PRODUCT = b"IxFI", 0


def write_piece(blocks: Iterable[Vectors], dim: int, path: Path) -> None:
    """Write a FAISS ``IndexFlatIP`` (exact inner product) of blocks (n, dim): whole or not at all."""
    piece = faiss.IndexFlatIP(dim)
    for vectors in blocks:
        piece.add(np.ascontiguousarray(vectors, np.float32))
    part = part_of(path)
    faiss.write_index(piece, str(part))
    publish(part, path)


class FlatSearcher:
    """The fragments of several files, one after the other; see :class:`felga.search.scoring.Searcher`."""

    def __init__(self, paths: Sequence[Path], dim: int, fragments: int) -> None:
        """Map the files.

        Raises:
            BadIndexError: a file is not an ``IndexFlatIP`` of ``dim``, its size is not what its header
                says, or the files do not hold ``fragments`` rows.
        """
        self.dim = dim
        counts = [_checked(path, dim) for path in paths]
        self._starts = np.cumsum([0, *counts]).astype(np.int64)
        if len(self) != fragments:
            raise BadIndexError(
                f"the FAISS files hold {len(self)} fragments, the manifest says {fragments}: index again"
            )
        self._pieces = []
        for path in paths:
            try:
                self._pieces.append(faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC))
            except RuntimeError as error:
                raise BadIndexError(f"{shown(path)} is not readable by FAISS: index again") from error

    def __len__(self) -> int:
        return int(self._starts[-1])

    def candidates(self, queries: Vectors, n: int, allowed: Flags | None = None) -> Candidates:
        """The ``n`` best fragments of each query (q, dim), exactly."""
        queries = np.ascontiguousarray(queries, np.float32)
        all_scores, all_rows = (
            [np.empty((len(queries), 0), np.float32)],
            [np.empty((len(queries), 0), np.int64)],
        )
        for piece, start in zip(self._pieces, self._starts, strict=False):
            options = None
            if allowed is not None:
                bits = np.packbits(allowed[start : start + piece.ntotal], bitorder="little")
                options = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bits))
            scores, rows = piece.search(queries, min(n, piece.ntotal), params=options)
            all_scores.append(np.where(rows < 0, np.float32(-np.inf), scores))
            all_rows.append(np.where(rows < 0, -1, rows + start))
        scores, rows = np.concatenate(all_scores, 1), np.concatenate(all_rows, 1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :n]
        scores, rows = np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
        complete = n >= (len(self) if allowed is None else int(allowed.sum()))
        bound = np.full(len(queries), -np.inf, np.float32) if complete else scores[:, -1].copy()
        return Candidates(scores, rows, bound)

    def vectors(self, start: int, stop: int) -> Vectors:
        """Rows ``start:stop``, (stop - start, dim) float32."""
        parts = []
        first = max(0, int(np.searchsorted(self._starts, start, side="right")) - 1)
        for piece, begin in zip(self._pieces[first:], self._starts[first:], strict=False):
            low, high = max(start - begin, 0), min(stop - begin, piece.ntotal)
            if low >= high:
                break
            parts.append(piece.reconstruct_n(int(low), int(high - low)))
        return np.concatenate(parts) if parts else np.empty((0, self.dim), np.float32)


def _checked(path: Path, dim: int) -> int:
    """Number of vectors in a file, after comparing its header with its size: nothing is allocated before.

    Raises:
        BadIndexError: it is missing, of another type, or of another size.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_HEADER.size + _COUNT.size)
    except OSError as error:
        raise BadIndexError(f"{shown(path)} cannot be read ({error.strerror}): index again") from error
    if len(head) < _HEADER.size + _COUNT.size:
        raise BadIndexError(f"{shown(path)} is too short for a FAISS file: index again")
    kind, d, count, _, _, _, metric = _HEADER.unpack_from(head)
    (codes,) = _COUNT.unpack_from(head, _HEADER.size)
    if kind != _TYPE or metric != _INNER_PRODUCT:
        raise BadIndexError(f"{shown(path)} is not a FAISS IndexFlatIP (exact inner product): index again")
    if d != dim:
        raise BadIndexError(f"{shown(path)} holds vectors of {d} dimensions, expected {dim}: index again")
    if codes not in (count * d * 4, count * d) or size != len(head) + count * d * 4:  # in bytes or floats
        raise BadIndexError(f"{shown(path)} has {size} bytes, which its header contradicts: index again")
    return int(count)
