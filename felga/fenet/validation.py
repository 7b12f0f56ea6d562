"""A score that needs captions alone: how well keywords find held-out images, and regions texts.

It mirrors the two tasks of the paper (3.1, 4.3) without an annotation. *Discovery*: every keyword that occurs
in 2 to 50 % of the texts is a query over the images; the images whose text has the keyword are relevant.
*Assignment*: for every such keyword and every image whose text has it, the image's region most similar to the
keyword by the frozen vectors is a query over the texts; the texts that have the keyword are relevant.
Both are means of average precision; owners are ranked as in a search (:mod:`felga.search.matrix`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from felga.fenet.features import Table
from felga.search.average_precision import metrics
from felga.search.matrix import owner_scores
from felga.types import Flags, Rows, Vectors

RAREST, COMMONEST = 0.02, 0.5
"""Share of the texts in which a keyword must occur to be a query."""
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


class Validation:
    """Held-out pairs with their queries, ready to score a network again and again."""

    def __init__(self, table: Table) -> None:
        """Args: table: the held-out pairs, on the device of the network."""
        r = table.regions
        used, at = torch.unique(table.rows, return_inverse=True)  # ascending: regions stay before keywords
        self.vectors = table.vectors[used]  # (n + u, d), those of these pairs alone
        self.first_keyword = int((used < table.first_keyword).sum())  # n
        rows, real = at.cpu().numpy(), table.real.cpu().numpy()
        self.regions, self.region_offsets = _ragged(rows[:, :r], real[:, :r])
        self.keywords, self.keyword_offsets = _ragged(rows[:, r:] - self.first_keyword, real[:, r:])
        count = len(self.vectors) - self.first_keyword
        has = np.zeros((len(rows), count), bool)  # has[i, u]: text i has keyword u
        has[np.repeat(np.arange(len(rows)), np.diff(self.keyword_offsets)), self.keywords] = True
        share = has.mean(0) if len(has) else np.zeros(count)
        self.queries = np.flatnonzero((share >= RAREST) & (share <= COMMONEST))  # (w,)
        self.relevant = np.ascontiguousarray(has[:, self.queries].T)  # (w, q)
        self.word, pair = np.nonzero(self.relevant)  # (a,) each: one assignment query
        frozen = self.vectors.cpu().numpy()
        similarity = frozen[self.first_keyword + self.queries] @ frozen[: self.first_keyword].T  # (w, n)
        self.query_regions = np.array(
            [
                _most_similar(similarity[w], self._regions_of(int(p)))
                for w, p in zip(self.word, pair, strict=True)
            ],
            np.int64,
        )  # (a,)

    def _regions_of(self, pair: int) -> Rows:
        return self.regions[self.region_offsets[pair] : self.region_offsets[pair + 1]]

    @torch.inference_mode()
    def score(self, embed: Callable[[Tensor], Tensor]) -> Score:
        """The score of ``embed``, (n, d) unit vectors to (n, d') unit vectors."""
        if not len(self.queries):
            return Score(float("nan"), float("nan"))
        vectors: Vectors = embed(self.vectors).float().cpu().numpy()  # (n + u, d')
        regions, keywords = vectors[: self.first_keyword], vectors[self.first_keyword :]
        scores = owner_scores(keywords[self.queries], regions, self.regions, self.region_offsets)  # (w, q)
        discovery = metrics(scores, self.relevant).average_precision
        assignment = []
        for start in range(0, len(self.word), TILE):
            word, asked = self.word[start : start + TILE], self.query_regions[start : start + TILE]
            scores = owner_scores(regions[asked], keywords, self.keywords, self.keyword_offsets)  # (tile, q)
            assignment.append(metrics(scores, self.relevant[word]).average_precision)
        return Score(float(discovery.mean()), float(np.concatenate(assignment).mean()))


def _ragged(rows: Rows, real: Flags) -> tuple[Rows, Rows]:
    """A padded rectangle (q, widest) as rows and offsets (q + 1,)."""
    return rows[real].astype(np.int64), np.concatenate([[0], real.sum(1).cumsum()]).astype(np.int64)


def _most_similar(similarity: Vectors, regions: Rows) -> int:
    return int(regions[similarity[regions].argmax()])
