"""The FAISS files of a table: pieces named by their content, so that only what changed is written again.

A piece ends after an owner whose checksum happens to be divisible by :data:`EVERY`, or when it is full.
Boundaries therefore depend on the owners around them and on nothing else: one owner more or less changes
one piece, wherever it lies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator
from pathlib import Path

import numpy as np

from felga.search.flat import write_piece
from felga.store.owner_table import OwnerTable
from felga.types import Rows, Transform

EVERY = 4096  # owners in a piece, on average
FULL = 262_144  # fragments in a piece, at most; with 512 dimensions, 512 MiB: the memory that writing takes


def build_pieces(
    folder: Path,
    stem: str,
    table: OwnerTable,
    *,
    transform: Transform,
    mark: str,
    intact: Container[str],
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Write the FAISS files of ``table`` that are not in the folder yet.

    Args:
        stem: ``regions`` or ``keywords``.
        transform: applied to the raw vectors.
        mark: identifies ``transform``; part of the names.
        intact: names of files that may be reused: they are in the folder and undamaged.

    Returns:
        Names of the files in the order of the fragments, and the number of fragments in each.
    """
    counts, checks = table.counts(), table.checks()
    offsets = np.concatenate([[0], counts.cumsum()])
    names, sizes = [], []
    for start, stop in bounds(checks, offsets):
        size = int(offsets[stop] - offsets[start])
        if not size:
            continue
        key = hashlib.sha256(f"felga-piece-1:{mark}:".encode() + b"".join(checks[start:stop]))
        key.update(counts[start:stop].tobytes())
        name = f"{stem}-{key.hexdigest()[:32]}.faiss"
        if name not in intact:
            write_piece(transform(table.vectors_of(start, stop)), folder / name)
        names.append(name)
        sizes.append(size)
    return tuple(names), tuple(sizes)


def bounds(checks: list[bytes], offsets: Rows) -> Iterator[tuple[int, int]]:
    """Ranges of owners that make up the pieces: (start, stop) in order, covering all of them."""
    drawn = np.frombuffer(b"".join(check[:8] for check in checks), np.uint64)
    cuts = np.append(np.flatnonzero(drawn % np.uint64(EVERY) == 0) + 1, len(checks))
    start = 0
    for cut in cuts.tolist():
        while start < cut:
            full = int(np.searchsorted(offsets, offsets[start] + FULL, side="right")) - 1
            stop = max(start + 1, min(cut, full))  # an owner is never split
            yield start, stop
            start = stop
