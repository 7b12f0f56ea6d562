"""A score that needs captions alone: how well keywords find held-out images, and regions texts.

It mirrors the two tasks of the paper (3.1, 4.3) without an annotation. *Discovery*: each keyword that stands
in 2 to 50 % of the texts is a query over the images, an image scores what its best region scores, and
the images whose text has the keyword are relevant. *Assignment*: for each such keyword and each image
whose text has it, the image's region that is frozen-most similar to the keyword is a query over the
texts, a text scores what its best keyword scores, and the texts that have the keyword are relevant. Both are
means of average precision, ties as one threshold (scikit-learn's convention).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from felga.fenet.features import Table

RAREST, COMMONEST = 0.02, 0.5
"""Share of the texts that a keyword must stand in to be a query."""
TILE = 4096
"""Assignment queries scored at a time."""


class Score(NamedTuple):
    """Discovery and assignment, mean average precision in [0, 1]; NaN without a query."""

    discovery: float
    assignment: float

    @property
    def mean(self) -> float:
        """What checkpoints are chosen by."""
        return (self.discovery + self.assignment) / 2


def average_precision(scores: Tensor, relevant: Tensor) -> Tensor:
    """Average precision of each row; tied scores are one threshold, so their order does not matter.

    Args:
        scores: (q, n) float.
        relevant: (q, n) bool, at least one in each row.

    Returns:
        (q,) float64.

    >>> average_precision(torch.tensor([[0.9, 0.5, 0.5, 0.1]]), torch.tensor([[True, True, False, False]]))
    tensor([0.8333], dtype=torch.float64)
    """
    ordered, order = scores.sort(1, descending=True)  # (q, n)
    hit = relevant.gather(1, order).double()
    seen = hit.cumsum(1)
    place = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    last = torch.ones_like(hit, dtype=torch.bool)  # the last place of a group of ties
    last[:, :-1] = ordered[:, 1:] != ordered[:, :-1]
    end = place.masked_fill(~last, scores.shape[1]).flip(1).cummin(1).values.flip(1)  # (q, n)
    return (hit * seen.gather(1, end) / (end + 1)).sum(1) / hit.sum(1)


class Validation:
    """Held-out pairs with their queries, ready to score a network again and again."""

    def __init__(self, table: Table) -> None:
        """Args: table: the held-out pairs, on the device where the network is."""
        r = table.regions
        used, rows = torch.unique(table.rows, return_inverse=True)  # ascending: regions stay before keywords
        self.vectors = table.vectors[used]  # (n + u, d), those of these pairs alone
        self.first_keyword = int((used < table.first_keyword).sum())  # n
        self.region_rows, self.real_regions = rows[:, :r], table.real[:, :r]  # (q, r)
        self.keywords = (rows[:, r:] - self.first_keyword).clamp(min=0)  # (q, k)
        self.real_keywords = table.real[:, r:]
        count = len(self.vectors) - self.first_keyword
        # has[i, u]: text i has keyword u. Padded cells write to a spare last column.
        has = torch.zeros(len(rows), count + 1, dtype=torch.bool, device=rows.device)
        has.scatter_(1, self.keywords.masked_fill(~self.real_keywords, count), True)
        has = has[:, :count]
        share = has.float().mean(0)  # (u,)
        self.queries = ((share >= RAREST) & (share <= COMMONEST)).nonzero()[:, 0]  # (w,)
        self.relevant = has[:, self.queries].T.contiguous()  # (w, q)
        similarity = self._regions_by_query(self.vectors)  # (w, q, r)
        word, pair = self.relevant.nonzero(as_tuple=True)  # (a,) each: one assignment query
        self.word = word
        best = similarity[word, pair].argmax(1)  # (a,)
        self.query_regions = self.region_rows[pair, best]  # (a,)

    def _regions_by_query(self, vectors: Tensor) -> Tensor:
        queries = vectors[self.first_keyword + self.queries]  # (w, d)
        similarity = queries @ vectors[self.region_rows].flatten(0, 1).T  # (w, q * r)
        return similarity.view(len(queries), *self.region_rows.shape).masked_fill(
            ~self.real_regions, -torch.inf
        )

    @torch.inference_mode()
    def score(self, embed: Callable[[Tensor], Tensor]) -> Score:
        """The score of ``embed``, (n, d) unit vectors to (n, d') unit vectors."""
        if not len(self.queries):
            return Score(float("nan"), float("nan"))
        vectors = embed(self.vectors)  # (n + u, d')
        discovery = average_precision(self._regions_by_query(vectors).amax(2), self.relevant).mean()
        keywords = vectors[self.first_keyword :]  # (u, d')
        found: list[Tensor] = []
        for word, rows in zip(
            torch.split(self.word, TILE), torch.split(self.query_regions, TILE), strict=True
        ):
            similarity = vectors[rows] @ keywords.T  # (tile, u)
            best = torch.full((len(rows), len(self.keywords)), -torch.inf, device=vectors.device)  # (tile, q)
            for place in range(self.keywords.shape[1]):  # at most k: keeps (tile, q, k) from being made
                one = similarity[:, self.keywords[:, place]]  # (tile, q)
                best = torch.maximum(best, one.masked_fill(~self.real_keywords[:, place], -torch.inf))
            found.append(average_precision(best, self.relevant[word]))
        return Score(float(discovery), float(torch.cat(found).mean()))
