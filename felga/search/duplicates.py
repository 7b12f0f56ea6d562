"""Near duplicates: rows whose cosine reaches a threshold, as groups, or left out of a ranking."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np

from felga.search.owners import Owner
from felga.types import Progress, Rows, Vectors

NEAR = 0.9
"""From which cosine of conse's features on two images are copies of one; chosen on train2017
(bench/duplicates.py)."""
BLOCK = 2048


class Groups:
    """Rows joined into groups, of which the lowest row is the root (union-find)."""

    def __init__(self, count: int) -> None:
        self._parent = np.arange(count)

    def roots(self, rows: Rows) -> Rows:
        """The root of each row's group."""
        while True:
            above = self._parent[rows]
            if (above == rows).all():
                return rows
            rows = above

    def join(self, rows: Rows) -> None:
        """Make one group of those of the rows."""
        roots = self.roots(rows)
        self._parent[rows] = self._parent[roots] = roots.min()

    def several(self) -> list[Rows]:
        """The groups of more than one row, each in order, by their first rows."""
        roots = self.roots(np.arange(len(self._parent)))
        order = np.argsort(roots, kind="stable")
        starts = np.flatnonzero(np.diff(roots[order])) + 1
        return [group for group in np.split(order, starts) if len(group) > 1]


def join_near(
    groups: Groups,
    read: Callable[[int, int], Vectors],
    rows: Rows,
    threshold: float,
    progress: Progress | None = None,
) -> None:
    """Join all rows whose cosine is at least ``threshold``: every pair is compared, in blocks.

    Memory is that of three blocks of 2,048 rows, time grows with the square of their number.

    Args:
        read: ``read(start, stop)`` is (stop - start, dim) float32, of length 1.
        rows: (n,) the row of ``groups`` that each vector is.
        progress: told how many of the vectors were compared with all after them.
    """
    count = len(rows)
    for start in range(0, count, BLOCK):
        own = read(start, min(start + BLOCK, count))
        for other in range(start, count, BLOCK):
            near = own @ read(other, min(other + BLOCK, count)).T >= threshold
            if other == start:
                near = np.triu(near, 1)
            for at in np.flatnonzero(near.any(axis=1)):
                groups.join(rows[np.concatenate([[start + at], other + np.flatnonzero(near[at])])])
        if progress is not None:
            progress("comparing images", min(start + BLOCK, count), count)


def without_copies(
    ranked: Callable[[int], Sequence[Sequence[Owner]]],
    looks: Callable[[Sequence[int]], tuple[Sequence[Hashable], Vectors]],
    k: int,
    threshold: float,
) -> list[list[Owner]]:
    """The best ``k`` owners of each query that copy no better one. Exact, if ``ranked`` is.

    From the best on, an owner is left out if it is a copy of one that was kept before. If less than ``k``
    remain, twice as many are ranked; as long rankings begin as short ones do, the answer does not depend on
    how many were.

    Args:
        ranked: the best so many owners of each query.
        looks: of owners by position, for each what equal copies share, and a vector (n, dim) of length 1, or
            0 where there is none; near copies have a cosine of ``threshold`` or more.
    """
    want = 2 * k
    while True:
        found = ranked(want)
        kept = [_distinct(owners, looks, k, threshold) for owners in found]
        if all(len(best) == k or len(own) < want for best, own in zip(kept, found, strict=True)):
            return kept
        want *= 2


def _distinct(
    owners: Sequence[Owner],
    looks: Callable[[Sequence[int]], tuple[Sequence[Hashable], Vectors]],
    k: int,
    threshold: float,
) -> list[Owner]:
    names, vectors = looks([owner.position for owner in owners])
    kept: list[int] = []
    for at, name in enumerate(names):
        if len(kept) == k:
            break
        if name not in {names[row] for row in kept} and not (vectors[kept] @ vectors[at] >= threshold).any():
            kept.append(at)
    return [owners[at] for at in kept]
