"""The FAISS files of a table: pieces named by their content, so that only what changed is written again.

A piece ends after an owner whose checksum happens to be divisible by :data:`EVERY`, or when it is full.
Boundaries therefore depend on the owners around them and on nothing else: one owner more or less changes
one piece, wherever it lies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from felga.search.flat import write_piece
from felga.search.segments import ranges
from felga.store.owner_table import OwnerTable
from felga.types import RegionFeatures, Rows, Vectors

EVERY = 4096  # owners in a piece, on average
FULL = 262_144  # fragments in a piece, at most; with 512 dimensions, 256 MiB: the memory that writing takes
BLOCK = 16_384  # fragments embedded at once, at most; with 1,280 features, 40 MiB
Embed: TypeAlias = Callable[[Vectors, RegionFeatures | None], Vectors]
"""Raw vectors (n, dim), and features if the encoder has them, to the vectors (n, dim') that are searched."""


def build_pieces(
    folder: Path,
    stem: str,
    table: OwnerTable,
    *,
    dim: int,
    embed: Embed,
    mark: str,
    intact: Container[str],
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Write the FAISS files of ``table`` that are not in the folder yet.

    Args:
        stem: ``regions`` or ``keywords``.
        dim: length of the vectors that are searched.
        embed: applied to the raw vectors.
        mark: identifies ``embed``; part of the names.
        intact: names of files that may be reused: they are in the folder and undamaged.

    Returns:
        Names of the files in the order of the fragments, and the number of fragments in each.
    """
    offsets, checks = table.offsets(), table.checks()
    names, sizes = [], []
    for start, stop in bounds(checks, offsets):
        size = int(offsets[stop] - offsets[start])
        if not size:
            continue
        key = hashlib.sha256(f"felga-piece-2:{mark}:".encode() + checks[start:stop].tobytes())
        key.update(np.diff(offsets[start : stop + 1]).tobytes())
        name = f"{stem}-{key.hexdigest()[:32]}.faiss"
        if name not in intact:
            blocks = (embed(*table.raw(*block)) for block in ranges(start, stop, offsets, BLOCK))
            write_piece(blocks, dim, folder / name)
        names.append(name)
        sizes.append(size)
    return tuple(names), tuple(sizes)


def bounds(checks: npt.NDArray[np.uint8], offsets: Rows) -> Iterator[tuple[int, int]]:
    """Ranges of owners that make up the pieces: (start, stop) in order, covering all of them.

    Args:
        checks: (owners, 16) of :meth:`felga.store.owner_table.OwnerTable.checks`.
    """
    drawn = np.ascontiguousarray(checks).view(np.uint64)[:, 0]
    cuts = np.append(np.flatnonzero(drawn % np.uint64(EVERY) == 0) + 1, len(checks))
    start = 0
    for cut in cuts.tolist():
        yield from ranges(start, cut, offsets, FULL)
        start = cut
