"""Plain loops that define the expected results; nothing of felga is used here."""

from __future__ import annotations

import itertools
from math import log2


def orders(scores, relevant):
    """Every order of the owners by falling score, as lists of relevance; every order of ties."""
    groups = {}
    for score, flag in zip(scores, relevant, strict=True):
        groups.setdefault(float(score), []).append(bool(flag))
    ranked = [groups[score] for score in sorted(groups, reverse=True)]
    for parts in itertools.product(*(itertools.permutations(group) for group in ranked)):
        yield [flag for part in parts for flag in part]


def precision_of_order(flags):
    """Average precision of one strict order."""
    found, total = 0, 0.0
    for rank, flag in enumerate(flags, 1):
        if flag:
            found += 1
            total += found / rank
    return total / found


def grouped_precision(scores, relevant):
    """Average precision with one threshold per distinct score."""
    total = 0.0
    for threshold in sorted(set(map(float, scores)), reverse=True):
        taken = [bool(flag) for score, flag in zip(scores, relevant, strict=True) if score >= threshold]
        new = sum(bool(flag) for score, flag in zip(scores, relevant, strict=True) if score == threshold)
        total += new * sum(taken) / len(taken)
    return total / sum(map(bool, relevant))


def success_of_order(flags, k):
    """1 if any of the first k is relevant."""
    return float(any(flags[:k]))


def ndcg_of_order(flags, k=10):
    """nDCG@k with gains 0 or 1."""
    gain = sum(flag / log2(rank + 1) for rank, flag in enumerate(flags[:k], 1))
    ideal = sum(1 / log2(rank + 1) for rank in range(1, min(k, sum(flags)) + 1))
    return gain / ideal


def best_fragment_scores(query, fragments, rows, offsets):
    """The score of each owner for a query, in double precision."""
    scores = []
    for start, stop in itertools.pairwise(offsets):
        cosines = [
            sum(float(a) * float(b) for a, b in zip(query, fragments[row], strict=True))
            for row in rows[start:stop]
        ]
        scores.append(max(cosines, default=float("-inf")))
    return scores


class Loop:
    """A searcher in ten lines of numpy: what the protocol asks for, and no more."""

    def __init__(self, vectors):
        self._vectors, self.dim = vectors, vectors.shape[1]

    def __len__(self):
        return len(self._vectors)

    def products(self, queries, start, stop):
        return self._vectors[start:stop] @ queries.T

    def products_of(self, query, rows):
        return self._vectors[rows] @ query

    def error(self, queries):
        return 1e-6

    def vectors(self, start, stop):
        return self._vectors[start:stop]

    def take(self, rows):
        return self._vectors[rows]
