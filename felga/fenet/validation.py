"""A score that needs captions alone: how well keywords find held-out images, and regions texts.

It mirrors the two tasks of the paper (3.1, 4.3) without annotations. *Discovery*: each keyword that occurs in
2 to 50 % of the texts is a query over the images; relevant are the images whose text has the keyword.
*Assignment*: for each such keyword and each image whose text has it, the image's region that is most similar
to the keyword by frozen vectors is a query over the texts; relevant are the texts that have the keyword. Both
are means of average precision, ranked and scored as everywhere (:mod:`felga.search`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from felga.errors import BadInputError, DivergedError
from felga.fenet.features import Table
from felga.search.average_precision import metrics
from felga.search.matrix import owner_metrics, owner_scores
from felga.search.segments import segment_max
from felga.types import Flags, Rows, Vectors

RAREST, COMMONEST = 0.02, 0.5
"""Share of the texts that a keyword must occur in to be a query."""


class Score(NamedTuple):
    """Discovery and assignment, mean average precision in [0, 1]; NaN without a query."""

    discovery: float
    assignment: float

    @property
    def mean(self) -> float:
        """The criterion for choosing a checkpoint."""
        return (self.discovery + self.assignment) / 2


class Validation:
    """Held-out pairs with their queries, ready to score a network again and again.

    Attributes:
        queries: (w,) the keywords that are queries of discovery.
    """

    def __init__(self, table: Table) -> None:
        """Args: table: the held-out pairs, on the device of the network."""
        rows, real = table.rows.cpu().numpy(), table.real.cpu().numpy()
        used = np.unique(rows[real])  # ascending: regions stay before keywords
        at = torch.from_numpy(used).to(table.vectors.device)
        self._vectors = table.vectors[at]  # (n + u, d), those of these pairs alone
        self._regions = int((used < table.first_keyword).sum())  # n
        local = np.searchsorted(used, rows)  # meaningless where padded
        self._region_rows, self._region_offsets = _ragged(local[:, : table.regions], real[:, : table.regions])
        keywords, self._keyword_offsets = _ragged(local[:, table.regions :], real[:, table.regions :])
        self._keyword_rows = keywords - self._regions

        has = np.zeros((len(table), len(used) - self._regions), bool)  # has[i, u]: text i has keyword u
        has[np.repeat(np.arange(len(table)), np.diff(self._keyword_offsets)), self._keyword_rows] = True
        share = has.mean(0)
        self.queries: Rows = np.flatnonzero((share >= RAREST) & (share <= COMMONEST))
        self._relevant: Flags = has[:, self.queries].T.copy()  # (w, q)
        self._word, pairs = np.nonzero(self._relevant)  # (a,) each: one assignment query
        self._query_regions = self._best_regions()[self._word, pairs]  # (a,)

    def _best_regions(self) -> Rows:
        """(w, q): for each query the best region of each image, by frozen vectors."""
        vectors: Vectors = self._vectors.cpu().numpy()
        words, regions = vectors[self._regions + self.queries], vectors[: self._regions]
        best = [segment_max(row[self._region_rows], self._region_offsets)[1] for row in words @ regions.T]
        at = np.stack(best) if best else np.zeros((0, len(self._region_offsets) - 1), np.int64)
        rows: Rows = self._region_rows[at]
        return rows

    def score(self, embed: Callable[[Tensor], Tensor]) -> Score:
        """The score of ``embed``, (n, d) unit vectors to (n, d') unit vectors, on their device.

        Raises:
            DivergedError: ``embed`` gives vectors that are not finite or not of length 1.
        """
        if not len(self.queries):
            return Score(float("nan"), float("nan"))
        vectors: Vectors = embed(self._vectors).detach().cpu().numpy()  # (n + u, d')
        regions, keywords = vectors[: self._regions], vectors[self._regions :]
        try:
            images = owner_scores(keywords[self.queries], regions, self._region_rows, self._region_offsets)
            assignment = owner_metrics(
                regions[self._query_regions],
                keywords,
                self._keyword_rows,
                self._keyword_offsets,
                self._word,
                self._relevant,
            )
        except BadInputError as error:  # the pairs fit: only the embedding can be wrong
            raise DivergedError(
                f"the network's output is unusable: {error}; train with a lower rate"
            ) from error
        discovery = metrics(images, self._relevant)
        return Score(float(discovery.average_precision.mean()), float(assignment.average_precision.mean()))


def _ragged(values: Rows, real: Flags) -> tuple[Rows, Rows]:
    """A padded rectangle (q, widest) as flat values and offsets (q + 1,)."""
    return values[real], np.concatenate([[0], np.cumsum(real.sum(1))]).astype(np.int64)
