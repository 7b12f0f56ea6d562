"""FAISS indexes of fragment vectors: written in pieces of bounded size, read by mapping them into memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt

from felga.errors import BadIndexError
from felga.types import Rows, Scores, Vectors

PIECE = 262_144  # fragments in one file; with 512 dimensions, 512 MiB: the memory that writing takes


def write_index(batches: Iterable[Vectors], dim: int, folder: Path, stem: str) -> list[str]:
    """Write ``stem.faiss`` (``stem.1.faiss``, ... beyond 262,144 fragments): exact inner product.

    Args:
        batches: (n, dim) float32 each; together the fragments, in order.

    Returns:
        The names of the files, in order; at least one.
    """
    names: list[str] = []
    piece = faiss.IndexFlatIP(dim)

    def flush() -> None:
        nonlocal piece
        name = f"{stem}.{len(names)}.faiss" if names else f"{stem}.faiss"
        faiss.write_index(piece, str(folder / name))
        names.append(name)
        piece = faiss.IndexFlatIP(dim)

    for batch in batches:
        while len(batch):
            room = PIECE - piece.ntotal
            piece.add(np.ascontiguousarray(batch[:room], np.float32))
            batch = batch[room:]
            if piece.ntotal == PIECE:
                flush()
    if piece.ntotal or not names:
        flush()
    return names


class FragmentIndex:
    """The fragments of one modality, searchable."""

    def __init__(self, paths: Sequence[Path], dim: int, fragments: int) -> None:
        """Map the files; their rows follow each other.

        Raises:
            BadIndexError: a file is not FAISS's, of another dim, or they hold another number of rows.
        """
        self.dim = dim
        self._pieces = []
        for path in paths:
            try:
                piece = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
            except RuntimeError as error:
                raise BadIndexError(
                    f"{path} is not a readable FAISS file: run `felga index` again"
                ) from error
            if piece.d != dim:
                raise BadIndexError(f"{path} holds vectors of {piece.d} dimensions, wanted {dim}")
            self._pieces.append(piece)
        self._starts = np.cumsum([0, *(piece.ntotal for piece in self._pieces)]).astype(np.int64)
        if len(self) != fragments:
            raise BadIndexError(
                f"{', '.join(path.name for path in paths)} hold {len(self)} fragments, "
                f"the manifest says {fragments}"
            )

    def __len__(self) -> int:
        return int(self._starts[-1])

    def search(
        self, queries: Vectors, n: int, allowed: npt.NDArray[np.bool_] | None = None
    ) -> tuple[Scores, Rows]:
        """The ``n`` best fragments of each query, best first.

        Args:
            queries: (q, dim) float32.
            n: fragments wanted, at least 1.
            allowed: (fragments,) bool, None for all.

        Returns:
            scores (q, n) float32 and rows (q, n) int64; ``-inf`` and ``-1`` where there are no more.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        all_scores, all_rows = [], []
        for piece, start in zip(self._pieces, self._starts, strict=False):
            if piece.ntotal == 0:
                continue
            options = None
            if allowed is not None:
                bits = np.packbits(allowed[start : start + piece.ntotal], bitorder="little")
                options = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bits))
            scores, rows = piece.search(queries, min(n, piece.ntotal), params=options)
            all_scores.append(np.where(rows < 0, -np.inf, scores))
            all_rows.append(np.where(rows < 0, -1, rows + start))
        if not all_scores:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        scores, rows = np.concatenate(all_scores, 1), np.concatenate(all_rows, 1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :n]
        return (
            np.take_along_axis(scores, order, 1).astype(np.float32),
            np.take_along_axis(rows, order, 1).astype(np.int64),
        )

    def vectors(self, start: int, stop: int) -> Vectors:
        """Rows ``start:stop``, (stop - start, dim) float32."""
        parts = []
        for piece, first in zip(self._pieces, self._starts, strict=False):
            low, high = max(start, first) - first, min(stop, first + piece.ntotal) - first
            if low < high:
                parts.append(piece.reconstruct_n(int(low), int(high - low)))
        return np.concatenate(parts) if parts else np.empty((0, self.dim), np.float32)
