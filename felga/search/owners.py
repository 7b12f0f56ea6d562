"""Object discovery and description assignment are one task: the best owners by their best fragment.

The answer is exact (FELGA, 4.3): the top images, not the images of the top regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from felga.search.flat import FragmentIndex
from felga.types import Rows, Scores, Vectors

ROUNDING = 1e-5  # how far two float32 sums of the same cosine may lie apart, generously


@dataclass(frozen=True, slots=True)
class Owner:
    """A found owner: its position, and the score of each of its fragments (``-inf``: not allowed)."""

    position: int
    scores: Scores

    @property
    def best(self) -> int:
        """Which of its fragments scores most, the first at a tie."""
        return int(self.scores.argmax())

    @property
    def score(self) -> float:
        """What its best fragment scores."""
        return float(self.scores.max())


def best_owners(
    index: FragmentIndex,
    offsets: Rows,
    queries: Vectors,
    k: int,
    allowed: npt.NDArray[np.bool_] | None = None,
) -> list[list[Owner]]:
    """The ``k`` best owners of each query, best first, ties to the lower position. Exact.

    The best fragments are fetched until ``k`` owners are among them and no fragment that was not fetched
    can reach the ``k``-th owner, rounding included; at worst, all are. The owners that remain possible
    are scored once more, all in one way, so that a tie is a tie.

    Args:
        offsets: (owners + 1,) int64, :meth:`felga.store.tables.Owners.offsets`.
        queries: (q, dim) float32 unit vectors.
        allowed: (fragments,) bool: the fragments that count, None for all.
    """
    out: list[list[Owner]] = [[] for _ in queries]
    total = len(index) if allowed is None else int(allowed.sum())
    waiting = list(range(len(queries)))
    fetch = max(3 * k, 32)
    while waiting and total and k > 0:
        fetch = min(fetch, total)
        scores, rows = index.search(queries[waiting], fetch, allowed)
        short = []
        for i, q in enumerate(waiting):
            candidates = _candidates(scores[i], rows[i], offsets, k, complete=fetch == total)
            if candidates is None:
                short.append(q)
                continue
            owners = [_score(index, offsets, owner, queries[q], allowed) for owner in candidates]
            owners.sort(key=lambda owner: (-owner.score, owner.position))
            out[q] = owners[:k]
        waiting = short
        fetch *= 4
    return out


def _candidates(scores: Scores, rows: Rows, offsets: Rows, k: int, *, complete: bool) -> Sequence[int] | None:
    """Positions of every owner that may be among the best ``k``; None if more must be fetched to know."""
    found = rows >= 0
    owners = np.searchsorted(offsets, rows[found], side="right") - 1
    distinct, first = np.unique(owners, return_index=True)  # scores fall: the first is the best
    best = scores[found][first]
    if len(distinct) < k:
        return distinct.tolist() if complete else None
    threshold = -np.partition(-best, k - 1)[k - 1] - ROUNDING
    if not complete and scores[-1] >= threshold:
        return None
    return distinct[best >= threshold].tolist()  # type: ignore[no-any-return]


def _score(
    index: FragmentIndex,
    offsets: Rows,
    owner: int,
    query: Vectors,
    allowed: npt.NDArray[np.bool_] | None,
) -> Owner:
    start, stop = int(offsets[owner]), int(offsets[owner + 1])
    # einsum adds up each row alone: the same vector scores the same wherever it lies, unlike in BLAS
    scores = np.einsum("nd,d->n", index.vectors(start, stop), query)
    if allowed is not None:
        scores = np.where(allowed[start:stop], scores, -np.inf)
    return Owner(owner, scores.astype(np.float32))
