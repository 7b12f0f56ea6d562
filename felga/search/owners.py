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

from felga.errors import BadInputError
from felga.search.rules import BestFragment, OwnerRule
from felga.search.scoring import Candidates, Extras, InnerProduct, Scorer, Searcher, inner_products
from felga.types import Flags, Rows, Scores, Vectors

ROUNDING = np.float32(1e-5)  # how far two float32 sums of the same cosine may lie apart, generously
Concepts: TypeAlias = Callable[[Sequence[int]], Sequence[Sequence[Hashable]]]
"""Owners to the concept of each of their fragments: fragments of one concept count once among ties."""


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

    Candidates are fetched until no fragment beyond them can reach the ``k``-th owner, rounding included.
    Owners are scored by ``scorer`` in the order of what they can reach at most, until the rest cannot.

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
    scorer, rule, extras = scorer or InnerProduct(), rule or BestFragment(), extras or {}
    total = len(searcher) if allowed is None else int(allowed.sum())
    ranked: list[list[Owner]] = [[] for _ in queries]
    waiting = list(range(len(queries)))
    fetch = max(3 * k, 32)
    while waiting and total and k > 0:
        fetch = min(fetch, total)
        found = searcher.candidates(queries[waiting], fetch, allowed)
        short = []
        for i, q in enumerate(waiting):

            def score(position: int, query: Vectors = queries[q]) -> Owner:
                return _scored(position, query, searcher, offsets, allowed, scorer, rule, extras)

            def reach(products: Scores) -> Scores:
                return rule.bound(scorer.bound(products + ROUNDING), products + ROUNDING)

            owners, sure = _contenders(found, i, offsets, k, reach, score)
            if sure or fetch == total:
                ranked[q] = _ordered(owners, concepts)[:k]
            else:
                short.append(q)
        waiting = short
        fetch *= 4
    return ranked


def _contenders(
    found: Candidates,
    query: int,
    offsets: Rows,
    k: int,
    reach: Callable[[Scores], Scores],
    score: Callable[[int], Owner],
) -> tuple[list[Owner], bool]:
    """The owners that may be among the best ``k``, scored; and whether no other owner can be.

    Args:
        reach: the most that owners can score whose fragments have at most these inner products.
    """
    listed = found.rows[query] >= 0
    owners = np.searchsorted(offsets, found.rows[query][listed], side="right") - 1
    distinct, first = np.unique(owners, return_index=True)  # candidates fall: an owner's first is its best
    highest = reach(found.scores[query][listed][first])
    kept: list[Owner] = []
    best: list[float] = []  # a heap of the k best scores so far
    for at in np.argsort(-highest, kind="stable"):
        if len(best) == k and highest[at] < best[0]:
            break
        owner = score(int(distinct[at]))
        kept.append(owner)
        heapq.heappush(best, owner.score)
        if len(best) > k:
            heapq.heappop(best)
    beyond = float(reach(found.bound[query : query + 1])[0])
    return kept, len(best) == k and beyond < best[0]


def _scored(
    position: int,
    query: Vectors,
    searcher: Searcher,
    offsets: Rows,
    allowed: Flags | None,
    scorer: Scorer,
    rule: OwnerRule,
    extras: Extras,
) -> Owner:
    start, stop = int(offsets[position]), int(offsets[position + 1])
    columns = {name: column[start:stop] for name, column in extras.items()}
    products = inner_products(query, searcher.vectors(start, stop))
    scores = scorer.score(products, columns)
    if np.isnan(scores).any():
        raise BadInputError("a fragment's score is NaN: its vector or the query's is damaged")
    if allowed is not None:
        scores = np.where(allowed[start:stop], scores, np.float32(-np.inf))
    return Owner(position, rule.score(scores, products, columns), scores, products)


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
            if score > best.get(concept, -np.inf):
                best[concept] = score
        scores = list(best.values())
    return [*sorted(-score for score in scores), np.inf], owner.position
