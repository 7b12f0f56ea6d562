"""Object discovery and description assignment are one task: the best owners by their fragments.

The answer is exact (FELGA, 4.3): the top images, not the images of the top regions.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol, TypeAlias

import numpy as np

from felga.search.rules import BestFragment, OwnerRule
from felga.search.scoring import Extras, InnerProduct, Scorer, Searcher, inner_products
from felga.search.segments import ranges
from felga.search.threads import for_each
from felga.types import Flags, Rows, Scores, Vectors

BLOCK, PRODUCTS = 16_384, 262_144  # fragments of a block, and products of it with all queries, at most
PART = 64  # owners that are looked at together for the best ones
TOGETHER = 64  # queries that one pass answers: (64, owners) scores are kept
GATHERED = 4  # a block of which less than one owner in so many may be a hit is not read as a whole
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


class Shortlister(Protocol):
    """Finds nearly all fragments that matter to a query, without looking at each."""

    @property
    def rest(self) -> Sequence[tuple[int, int]]:
        """Ranges of fragments that it does not know; no owner lies across a boundary."""
        ...

    def shortlist(self, queries: Vectors, k: int) -> Sequence[Rows]:
        """For each query (q, dim), fragments that the ``k`` best owners are likely to have."""
        ...


def best_owners(
    searcher: Searcher,
    offsets: Rows,
    queries: Vectors,
    k: int,
    allowed: Flags | None = None,
    *,
    among: Flags | None = None,
    scorer: Scorer | None = None,
    rule: OwnerRule | None = None,
    extras: Extras | None = None,
    concepts: Concepts | None = None,
    shortlister: Shortlister | None = None,
) -> list[list[Owner]]:
    """The ``k`` best owners of each query, best first.

    Owners with the same score are ordered by their best fragment, then by the second-best, and so on (an
    owner that has one more comes first), and at last by position.

    Exact, unless there is a ``shortlister``: all fragments are read once, in the order in which they lie, and
    the owners that rounding may have kept from the ``k`` best are scored again one by one. With a
    shortlister, the owners that it names are scored alike; whichever it overlooks is missing. It is not asked
    where ``among`` says which owners count.

    Args:
        offsets: (owners + 1,) int64, owner ``i`` has the fragments ``offsets[i]:offsets[i + 1]``.
        queries: (q, dim) float32 unit vectors.
        allowed: (fragments,) bool, the fragments that count; None: all.
        among: (owners,) bool, the owners that may be hits; None: all.
        scorer: of fragments; None: the inner product.
        rule: of owners; None: the best fragment.
        extras: columns for the scorer and the rule, (fragments, ...) each.
        concepts: None: each fragment is a concept of its own.

    Raises:
        BadInputError: a fragment's score is NaN.
    """
    search = _Search(
        searcher, offsets, allowed, among, scorer or InnerProduct(), rule or BestFragment(), extras or {}
    )
    if not (len(queries) and len(searcher) and k > 0):
        return [[] for _ in queries]
    if shortlister is None or among is not None:
        parts: Sequence[tuple[int, int]] = [(0, len(searcher))]
        listed: Sequence[Rows] = [np.empty(0, np.int64)] * len(queries)
    else:
        parts, listed = shortlister.rest, shortlister.shortlist(queries, k)
    found: list[Rows] = []
    for at in range(0, len(queries), TOGETHER):
        found += search.scan(queries[at : at + TOGETHER], k, parts)
    ranked: list[list[Owner]] = [[] for _ in queries]

    def rank(at: int) -> None:
        owners = search.owners(found[at], queries[at]) + search.contenders(listed[at], queries[at], k)
        ranked[at] = _ordered(owners, concepts)[:k]

    for_each(rank, range(len(queries)))
    return ranked


def best_fragments(searcher: Searcher, query: Vectors, n: int) -> Rows:
    """The ``n`` fragments with the largest inner product with a query (dim,), best first; up to rounding."""
    products = np.empty(len(searcher), np.float32)

    def fill(start: int) -> None:
        stop = min(start + BLOCK, len(products))
        products[start:stop] = searcher.products(query[None], start, stop)[:, 0]

    for_each(fill, range(0, len(products), BLOCK))
    rows = np.argpartition(-products, n - 1)[:n] if n < len(products) else np.arange(len(products))
    best: Rows = rows[np.argsort(-products[rows], kind="stable")]
    return best


@dataclass(frozen=True, slots=True)
class _Search:
    """What is searched, and how it is scored."""

    searcher: Searcher
    offsets: Rows
    allowed: Flags | None
    among: Flags | None
    scorer: Scorer
    rule: OwnerRule
    extras: Extras

    def scan(self, queries: Vectors, k: int, parts: Sequence[tuple[int, int]]) -> list[Rows]:
        """The owners in parts of all fragments that may be among the best ``k`` of each query.

        An owner's score is known as well as products are, since neither scorer nor rule lets it rise by more
        than a product does.
        """
        if not parts:
            return [np.empty(0, np.int64)] * len(queries)
        scores = np.full((len(queries), len(self.offsets) - 1), -np.inf, np.float32)
        most = max(1, min(BLOCK, PRODUCTS // len(queries)))

        def score(block: tuple[int, int]) -> None:
            start, stop = block
            scores[:, start:stop] = self._block(queries, start, stop).T

        for_each(score, self._blocks(parts, most))
        found, error = [], np.float32(self.searcher.error(queries))
        for own in scores:
            found.append(np.flatnonzero((own >= _kth(own, k) - 2 * error) & (own > -np.inf)))
        return found

    def contenders(self, rows: Rows, query: Vectors, k: int) -> list[Owner]:
        """The owners of some fragments that may be among the best ``k`` of these owners.

        They are scored in the order of what they can reach by these fragments, until the rest cannot.
        """
        if self.allowed is not None:
            rows = rows[self.allowed[rows]]
        rows = np.sort(rows)  # they are read in the order in which they lie
        products = self.searcher.products_of(query, rows)
        owned = np.searchsorted(self.offsets, rows, side="right") - 1
        first = np.flatnonzero(np.diff(owned, prepend=-1))  # they rise, so nothing is to be sorted again
        positions = owned[first]
        if not len(positions):
            return []
        highest = np.maximum.reduceat(products, first) + np.float32(self.searcher.error(query[None]))
        highest = self.rule.bound(self.scorer.bound(highest), highest)
        order = np.argsort(-highest, kind="stable")
        kept: list[Owner] = []
        best = np.empty(0)
        for start in range(0, len(order), 2 * k):
            if len(best) == k and highest[order[start]] < best[0]:
                break
            kept += self.owners(np.sort(positions[order[start : start + 2 * k]]), query)
            best = np.sort([owner.score for owner in kept])[-k:]
        return kept

    def owners(self, positions: Rows, query: Vectors) -> list[Owner]:
        """Some owners, scored one by one: equal ones alike to the bit."""
        found: list[Owner] = []
        local = _local(self.offsets, positions)
        for start, stop in ranges(0, len(positions), local, BLOCK):
            chosen, own = positions[start:stop], local[start : stop + 1] - local[start]
            rows = _rows_of(self.offsets, chosen)
            products = inner_products(query, self.searcher.take(rows))
            scores, best = self._scored(products, rows, own)
            for at, position in enumerate(chosen.tolist()):
                part = slice(own[at], own[at + 1])
                found.append(Owner(position, float(best[at]), scores[part], products[part]))
        return found

    def _blocks(self, parts: Sequence[tuple[int, int]], most: int) -> Iterator[tuple[int, int]]:
        """Ranges of owners of at most ``most`` fragments that hold one that may be a hit."""
        for part in parts:
            start, stop = np.searchsorted(self.offsets, part).tolist()
            for block in ranges(start, stop, self.offsets, most):
                if self.among is None or self.among[slice(*block)].any():
                    yield block

    def _block(self, queries: Vectors, start: int, stop: int) -> Scores:
        """What the owners ``start:stop`` score, (m, q); ``-inf`` for those that may not be hits."""
        chosen = None if self.among is None else start + np.flatnonzero(self.among[start:stop])
        if chosen is not None and GATHERED * len(chosen) < stop - start:
            rows = _rows_of(self.offsets, chosen)
            own = _local(self.offsets, chosen)
            scores = np.full((stop - start, len(queries)), -np.inf, np.float32)
            scores[chosen - start] = self._scored(self.searcher.take(rows) @ queries.T, rows, own)[1]
            return scores
        first, last = self.offsets[[start, stop]].tolist()
        own = self.offsets[start : stop + 1] - first
        products = self.searcher.products(queries, first, last)
        if len(queries) == 1:  # plain arrays are faster
            scores = self._scored(products[:, 0], slice(first, last), own)[1][:, None]
        else:
            scores = self._scored(products, slice(first, last), own)[1]
        if self.among is not None:
            scores[~self.among[start:stop]] = -np.inf
        return scores

    def _scored(self, products: Scores, rows: Rows | slice, offsets: Rows) -> tuple[Scores, Scores]:
        """What fragments score, of products (n,) or (n, q), and what their owners do, (m,) or (m, q)."""
        columns = {name: column[rows] for name, column in self.extras.items()}
        scores = self.scorer.score(products.T, columns).T
        if self.allowed is not None:
            counts = self.allowed[rows].reshape(-1, *[1] * (scores.ndim - 1))
            scores = np.where(counts, scores, np.float32(-np.inf))
        return scores, self.rule.score(scores, products, offsets, columns)


def _kth(scores: Scores, k: int) -> np.float32:
    """The ``k``-th best score, ``-inf`` if there are no more."""
    if k >= len(scores):
        return np.float32(-np.inf)
    if (parts := -(-len(scores) // PART)) > k:  # the k-th best is no worse than the k-th best of best ones
        tops = np.maximum.reduceat(scores, np.arange(0, len(scores), PART))
        scores = scores[scores >= np.partition(tops, parts - k)[parts - k]]
    kth: np.float32 = np.partition(scores, len(scores) - k)[len(scores) - k]
    return kth


def _local(offsets: Rows, positions: Rows) -> Rows:
    """(n + 1,) offsets of some owners, were there no others."""
    found = np.zeros(len(positions) + 1, np.int64)
    np.cumsum(offsets[positions + 1] - offsets[positions], out=found[1:])
    return found


def _rows_of(offsets: Rows, positions: Rows) -> Rows:
    """The fragments of some owners, side by side."""
    local = _local(offsets, positions)
    rows: Rows = np.arange(local[-1]) + np.repeat(offsets[positions] - local[:-1], np.diff(local))
    return rows


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
