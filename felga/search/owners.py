"""Object discovery and description assignment are one task: the best owners by their fragments.

The answer is exact (FELGA, 4.3): the top images, not the images of the top regions.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

import numpy as np

from felga.search.rules import BestFragment, OwnerRule
from felga.search.scoring import Candidates, Extras, InnerProduct, Scorer, Searcher, inner_products
from felga.search.segments import ranges
from felga.types import Flags, Rows, Scores, Vectors

ROUNDING = np.float32(1e-5)  # how far two float32 sums of the same cosine may lie apart, generously
FETCHED, FETCHED_LEAST = 16, 128  # fragments per wanted owner, and at least
BLOCK = 16_384  # fragments scored at once where all are
Concepts: TypeAlias = Callable[[Sequence[int]], Sequence[Sequence[Hashable]]]
"""Owners to the concept of each of their fragments. Among ties, those of one concept count once, those of the
concept None do not."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A ranked owner.

    Attributes:
        position: among all owners.
        score: by the rule for owners.
        scores: (n,) float32, of its fragments; ``-inf``: not allowed.
        products: (n,) float32, their inner products with the query.
    """

    position: int
    score: float
    scores: Scores
    products: Scores

    @property
    def best(self) -> int:
        """Its best fragment, the first on ties."""
        return int(self.scores.argmax())


def best_owners(
    searcher: Searcher,
    offsets: Rows,
    queries: Vectors,
    k: int,
    allowed: Flags | None = None,
    *,
    scorer: Scorer | None = None,
    rule: OwnerRule | None = None,
    extras: Extras | None = None,
    concepts: Concepts | None = None,
) -> list[list[Owner]]:
    """The ``k`` best owners of each query, best first. Exact.

    Owners with the same score are ordered by their best fragment, then by the second-best, and so on (an
    owner that has one more comes first), and at last by position.

    Candidates are fetched, and their owners scored in the order of what they can reach at most, until the
    rest cannot. If a fragment beyond the candidates can still reach the ``k``-th owner, all are read once.

    Args:
        offsets: (owners + 1,) int64, owner ``i`` has the fragments ``offsets[i]:offsets[i + 1]``.
        queries: (q, dim) float32 unit vectors.
        allowed: (fragments,) bool, the fragments that count; None: all.
        scorer: of fragments; None: the inner product.
        rule: of owners; None: the best fragment.
        extras: columns for the scorer and the rule, (fragments, ...) each.
        concepts: None: each fragment is a concept of its own.

    Raises:
        BadInputError: a fragment's score is NaN.
    """
    search = _Search(
        searcher, offsets, allowed, scorer or InnerProduct(), rule or BestFragment(), extras or {}
    )
    total = len(searcher) if allowed is None else int(allowed.sum())
    if not (len(queries) and total and k > 0):
        return [[] for _ in queries]
    fetch = min(max(FETCHED * k, FETCHED_LEAST), total)
    found = searcher.candidates(queries, fetch, allowed)
    ranked: list[list[Owner]] = []
    for at, query in enumerate(queries):
        owners, sure = search.contenders(found, at, query, k)
        if not sure and fetch < total:
            owners = [search.owner(position, query) for position in search.scan(query, k)]
        ranked.append(_ordered(owners, concepts)[:k])
    return ranked


@dataclass(frozen=True, slots=True)
class _Search:
    """What is searched, and how it is scored."""

    searcher: Searcher
    offsets: Rows
    allowed: Flags | None
    scorer: Scorer
    rule: OwnerRule
    extras: Extras

    def contenders(self, found: Candidates, at: int, query: Vectors, k: int) -> tuple[list[Owner], bool]:
        """The owners of candidates that may be among the best ``k``; and whether no other owner can be."""
        listed = found.rows[at] >= 0
        owners = np.searchsorted(self.offsets, found.rows[at][listed], side="right") - 1
        distinct, first = np.unique(
            owners, return_index=True
        )  # candidates fall: an owner's first is its best
        highest = self._reach(found.scores[at][listed][first])
        kept: list[Owner] = []
        best: list[float] = []  # a heap of the k best scores so far
        for place in np.argsort(-highest, kind="stable"):
            if len(best) == k and highest[place] < best[0]:
                break
            owner = self.owner(int(distinct[place]), query)
            kept.append(owner)
            heapq.heappush(best, owner.score)
            if len(best) > k:
                heapq.heappop(best)
        beyond = float(self._reach(found.bound[at : at + 1])[0])
        return kept, len(best) == k and beyond < best[0]

    def scan(self, query: Vectors, k: int) -> list[int]:
        """All owners that may be among the best ``k``: those that can score more than ``k`` owners must."""
        low, high = [], []
        for start, stop in ranges(0, len(self.offsets) - 1, self.offsets, BLOCK):
            products = self.searcher.vectors(*self.offsets[[start, stop]].tolist()) @ query
            low.append(self._owner_scores(products - ROUNDING, start, stop)[1])
            high.append(self._owner_scores(products + ROUNDING, start, stop)[1])
        lowest, highest = np.concatenate(low), np.concatenate(high)
        least = -np.partition(-lowest, k - 1)[k - 1] if k < len(lowest) else -np.inf
        return np.flatnonzero((highest >= least) & (highest > -np.inf)).tolist()

    def owner(self, position: int, query: Vectors) -> Owner:
        """An owner, scored."""
        start, stop = self.offsets[[position, position + 1]].tolist()
        products = inner_products(query, self.searcher.vectors(start, stop))
        scores, (score,) = self._owner_scores(products, position, position + 1)
        return Owner(position, float(score), scores, products)

    def _reach(self, products: Scores) -> Scores:
        """The most that owners can score whose fragments have at most these inner products."""
        return self.rule.bound(self.scorer.bound(products + ROUNDING), products + ROUNDING)

    def _owner_scores(self, products: Scores, start: int, stop: int) -> tuple[Scores, Scores]:
        """The scores of all fragments of the owners ``start:stop``, and those of the owners."""
        rows = slice(*self.offsets[[start, stop]].tolist())
        columns = {name: column[rows] for name, column in self.extras.items()}
        scores = self.scorer.score(products, columns)
        if self.allowed is not None:
            scores = np.where(self.allowed[rows], scores, np.float32(-np.inf))
        offsets = self.offsets[start : stop + 1] - self.offsets[start]
        return scores, self.rule.score(scores, products, offsets, columns)


def _ordered(owners: Sequence[Owner], concepts: Concepts | None) -> list[Owner]:
    out: list[Owner] = []
    for _, tied in groupby(sorted(owners, key=lambda owner: -owner.score), key=lambda owner: owner.score):
        group = list(tied)
        if len(group) > 1:
            names = concepts([owner.position for owner in group]) if concepts else [None] * len(group)
            ranks = [_rank_of_tie(owner, own) for owner, own in zip(group, names, strict=True)]
            group = [group[at] for at in sorted(range(len(group)), key=ranks.__getitem__)]
        out += group
    return out


def _rank_of_tie(owner: Owner, concepts: Sequence[Hashable] | None) -> tuple[list[float], int]:
    """Fragment scores from the best to the worst, negated, one per concept; then the position."""
    scores = owner.scores[owner.scores > -np.inf].tolist()
    if concepts is not None:
        best: dict[Hashable, float] = {}
        for concept, score in zip(concepts, owner.scores.tolist(), strict=True):
            if concept is not None and score > best.get(concept, -np.inf):
                best[concept] = score
        scores = list(best.values())
    return [*sorted(-score for score in scores), np.inf], owner.position
