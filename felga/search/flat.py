"""Exact search: FAISS files of vectors in half precision, mapped into memory and read once from end to end.

What limits a search is reading the vectors, and half precision halves that. One query is multiplied in half
precision, too, and summed in single precision; for several, blocks are turned into single precision while
they lie in the cache. PyTorch does that; a small index is searched before PyTorch would be imported.
"""

from __future__ import annotations

import mmap
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeAlias

import faiss
import numpy as np
import numpy.typing as npt

from felga.errors import BadIndexError
from felga.files import part_of, publish, shown
from felga.search.scoring import inner_products
from felga.types import Rows, Scores, Vectors

if TYPE_CHECKING:
    from torch import Tensor

Codes: TypeAlias = npt.NDArray[np.uint8]
"""(n, 2 * dim), bytes of numbers in half precision: files do not align these, and bytes may lie anywhere."""
LARGE = 100_000
"""Fragments for whose search PyTorch is imported, which takes a second; where it is in use, it does all."""
_HEADER = struct.Struct("<4siqqqBiiifQQQQ")
"""Type, d, n, two unused numbers, trained, metric; of the quantizer: type, range (two), d, bytes of a vector,
numbers trained; bytes of all vectors."""
_COUNT, _BYTES = 2, -1  # among them: n, and the bytes of all vectors
_TYPE, _INNER_PRODUCT, _HALF = b"IxSQ", 0, faiss.ScalarQuantizer.QT_fp16
_ROWS = 2048  # turned into single precision at once: 4 MiB of 512 dimensions, which the cache holds
_GATHERED = 1024  # fragments gathered at once: memory does not grow with their number
_ROUNDING = 1e-5  # how far two float32 sums of the same cosine may lie apart, generously
_HALF_ROUNDING = 2.0**-11  # how far a cosine may lie from the nearest number of half precision


def write_piece(blocks: Iterable[Vectors], dim: int, path: Path) -> None:
    """Write a FAISS ``IndexScalarQuantizer`` (half precision, inner product) of blocks (n, dim): whole or not
    at all.

    The blocks go to the disk one by one: FAISS would collect them in memory, and double it when that is full.
    """
    none = faiss.IndexScalarQuantizer(dim, _HALF, faiss.METRIC_INNER_PRODUCT)
    empty = faiss.serialize_index(none).tobytes()
    head = list(_HEADER.unpack(empty))
    part, count = part_of(path), 0
    with part.open("wb") as file:
        file.write(empty)
        for vectors in blocks:
            file.write(np.ascontiguousarray(vectors, np.float16).data)
            count += len(vectors)
        head[_COUNT], head[_BYTES] = count, 2 * dim * count
        file.seek(0)
        file.write(_HEADER.pack(*head))
    publish(part, path)


class FlatSearcher:
    """The fragments of several files, one after the other; see :class:`felga.search.scoring.Searcher`."""

    def __init__(self, paths: Sequence[Path], dim: int, fragments: int) -> None:
        """Map the files.

        Raises:
            BadIndexError: a file is not of half precision and ``dim``, its size is not what its header says,
                or the files do not hold ``fragments`` rows.
        """
        self.dim = dim
        counts = [_checked(path, dim) for path in paths]
        self._starts = np.cumsum([0, *counts]).astype(np.int64)
        if len(self) != fragments:
            raise BadIndexError(
                f"the FAISS files hold {len(self)} fragments, the manifest says {fragments}: index again"
            )
        self._pieces = [_mapped(path, count, dim) for path, count in zip(paths, counts, strict=True)]
        self._decoder = faiss.IndexScalarQuantizer(dim, _HALF, faiss.METRIC_INNER_PRODUCT)

    @classmethod
    def of(cls, vectors: Vectors) -> Self:
        """A few vectors (n, dim) in memory, as they would be read from a file."""
        made = cls([], vectors.shape[1], 0)
        made._starts = np.array([0, len(vectors)], np.int64)
        made._pieces = [np.ascontiguousarray(vectors, np.float16).view(np.uint8)]
        return made

    def __len__(self) -> int:
        return int(self._starts[-1])

    def products(self, queries: Vectors, start: int, stop: int) -> Scores:
        """(stop - start, q) of the fragments ``start:stop`` with queries (q, dim), up to :meth:`error`."""
        if len(self) < LARGE and "torch" not in sys.modules:
            return self.vectors(start, stop) @ queries.T
        import torch

        found = np.empty((stop - start, len(queries)), np.float32)
        into, columns = torch.from_numpy(found), torch.from_numpy(np.ascontiguousarray(queries.T))
        if len(queries) == 1:
            half = columns[:, 0].half()
            for at, codes in self._parts(start, stop, len(self)):
                into[at : at + len(codes), 0] = torch.mv(_halves(codes), half)
        else:
            single = torch.empty(min(_ROWS, len(found)), self.dim)
            for at, codes in self._parts(start, stop, _ROWS):
                rows = single[: len(codes)].copy_(_halves(codes))
                torch.mm(rows, columns, out=into[at : at + len(codes)])
        return found

    def error(self, queries: Vectors) -> float:
        """By the lengths of vectors and of what is cut off the query (Cauchy and Schwarz)."""
        if len(queries) > 1:
            return _ROUNDING
        lost = float(np.linalg.norm(queries - queries.astype(np.float16)))
        return lost * (1 + _HALF_ROUNDING) + _HALF_ROUNDING + _ROUNDING

    def vectors(self, start: int, stop: int) -> Vectors:
        """The fragments ``start:stop``, (stop - start, dim) float32."""
        parts = [codes for _, codes in self._parts(start, stop, len(self))]
        return self._decoded(parts[0] if len(parts) == 1 else np.concatenate([self._none(), *parts]))

    def take(self, rows: Rows) -> Vectors:
        """Some fragments, (n, dim) float32."""
        return self._decoded(self._codes(rows))

    def products_of(self, query: Vectors, rows: Rows) -> Scores:
        """(n,) of some fragments with a query (dim,), up to :meth:`error`; fastest if ``rows`` rise."""
        products = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), _GATHERED):
            part = slice(start, start + _GATHERED)
            products[part] = self._products(query, self._codes(rows[part]))
        return products

    def _products(self, query: Vectors, codes: Codes) -> Scores:
        if "torch" not in sys.modules:
            return inner_products(query, self._decoded(codes))
        import torch

        products: Scores = torch.mv(_halves(codes), torch.from_numpy(query).half()).float().numpy()
        return products

    def _codes(self, rows: Rows) -> Codes:
        order = None if (rows[1:] >= rows[:-1]).all() else np.argsort(rows, kind="stable")
        rising = rows if order is None else rows[order]
        codes = np.empty((len(rows), 2 * self.dim), np.uint8)
        edges = np.searchsorted(rising, self._starts).tolist()
        for piece, begin, start, stop in zip(
            self._pieces, self._starts.tolist(), edges, edges[1:], strict=False
        ):
            if start < stop:  # "clip" copies straight into out
                np.take(piece, rising[start:stop] - begin, 0, codes[start:stop], "clip")
        if order is None:
            return codes
        back = np.empty_like(codes)
        back[order] = codes
        return back

    def _decoded(self, codes: Codes) -> Vectors:
        """(n, dim) float32, exactly."""
        if "torch" in sys.modules and len(codes):
            import torch

            single: Vectors = _halves(codes).to(torch.float32).numpy()
            return single
        vectors: Vectors = self._decoder.sa_decode(codes)
        return vectors

    def _none(self) -> Codes:
        return np.empty((0, 2 * self.dim), np.uint8)

    def _parts(self, start: int, stop: int, most: int) -> Iterator[tuple[int, Codes]]:
        """``start:stop`` in parts of at most so many rows: where each begins, and the rows."""
        first = max(0, int(np.searchsorted(self._starts, start, side="right")) - 1)
        for piece, begin in zip(self._pieces[first:], self._starts[first:].tolist(), strict=False):
            low, high = max(start - begin, 0), min(stop - begin, len(piece))
            for row in range(low, high, most):
                yield row + begin - start, piece[row : min(row + most, high)]
            if begin + len(piece) >= stop:
                return


def _halves(codes: Codes) -> Tensor:
    """(n, dim) float16 of the same memory."""
    import torch

    return torch.from_numpy(codes).view(torch.float16)


def _checked(path: Path, dim: int) -> int:
    """Number of vectors in a file, after comparing its header with its size: nothing is read before.

    Raises:
        BadIndexError: it is missing, of another type, or of another size.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_HEADER.size)
    except OSError as error:
        raise BadIndexError(f"{shown(path)} cannot be read ({error.strerror}): index again") from error
    if len(head) < _HEADER.size:
        raise BadIndexError(f"{shown(path)} is too short for a FAISS file: index again")
    kind, d, count, _, _, _, metric, quantizer, _, _, width, code, trained, codes = _HEADER.unpack(head)
    if (kind, metric, quantizer) != (_TYPE, _INNER_PRODUCT, _HALF):
        raise BadIndexError(
            f"{shown(path)} is not a FAISS IndexScalarQuantizer of half precision for inner products: "
            "index again"
        )
    if d != dim:
        raise BadIndexError(f"{shown(path)} holds vectors of {d} dimensions, expected {dim}: index again")
    sizes = width, code, trained, codes, size
    if count < 1 or sizes != (d, 2 * d, 0, 2 * d * count, len(head) + 2 * d * count):
        raise BadIndexError(f"{shown(path)} has {size} bytes, which its header contradicts: index again")
    return int(count)


def _mapped(path: Path, count: int, dim: int) -> Codes:
    """The codes of a file."""
    with path.open("rb") as file:
        # torch wants memory that can be written; pages that nobody writes are shared all the same
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return np.frombuffer(data, np.uint8, offset=_HEADER.size).reshape(count, 2 * dim)
