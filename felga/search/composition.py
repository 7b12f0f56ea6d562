"""Several queries at once: the images that answer them all, each by a region of its own, or all by one box.

An image scores the weighted mean of what it scores for each. (Means of scores in standard deviations of each
query, and minima, rank no better: bench/composition.py.) The answer is exact: every vector is read once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce

import numpy as np

from felga.search.owners import BLOCK, Owner
from felga.search.scoring import Extras, Scorer, Searcher, inner_products
from felga.search.segments import ranges, segment_max
from felga.types import Flags, Rows, Scores, Vectors


class Composition:
    """All images of an index, ranked for several queries.

    Attributes:
        scores: (images,) float32; ``-inf`` for an image that nothing can be found in.
    """

    def __init__(
        self,
        searcher: Searcher,
        offsets: Rows,
        queries: Vectors,
        weights: Sequence[float],
        *,
        scorer: Scorer,
        extras: Extras,
        w: float,
        whole: bool = True,
        same_region: bool = False,
        among: Flags | None = None,
    ) -> None:
        """Score all images; memory beside the input is a block of vectors and a number per image.

        Args:
            offsets: (images + 1,) of the regions of images.
            queries: (q, dim) unit vectors, q at least 1.
            weights: q numbers above 0.
            scorer: of regions.
            extras: ``whole`` of all regions, and the columns of the scorer.
            w: of the whole image beside its best region, as of
                :class:`felga.search.rules.BestAndWhole`; 0: the best region alone.
            whole: the whole image counts.
            same_region: one box must answer all queries. The whole image is no box, but its cosine counts.
            among: (images,) bool, those that may be hits; None: all.

        Raises:
            BadInputError: a region's score is NaN.
        """
        self._searcher, self._offsets, self._queries, self._weights = searcher, offsets, queries, weights
        self._scorer, self._extras, self._w = scorer, extras, w
        self._whole, self._same_region = whole, same_region
        images = len(offsets) - 1
        self.scores: Scores = np.full(images, -np.inf, np.float32)
        for start, stop in ranges(0, images, offsets, BLOCK):
            own = offsets[start : stop + 1] - offsets[start]
            if same_region:
                self.scores[start:stop] = segment_max(self._by_box(start, stop), own)[0]
            else:
                best = [segment_max(values, own)[0] for values in self._values(start, stop)]
                self.scores[start:stop] = mean(best, weights)
        if among is not None:
            self.scores[~among] = -np.inf

    def ranking(self) -> Iterator[int]:
        """The images that have a score, best first; ties go to the one indexed first."""
        for position in np.argsort(-self.scores, kind="stable").tolist():
            if self.scores[position] == -np.inf:
                return
            yield position

    def witnesses(self, position: int) -> list[Owner]:
        """An image as each query sees it: its best fragment is the query's witness.

        By one box, only that box counts.
        """
        products = self._products(position, position + 1)
        scores = [self._scores(each, position, position + 1) for each in products]
        if self._same_region:
            box = np.arange(len(products[0])) == self._by_box(position, position + 1).argmax()
            scores = [np.where(box, each, np.float32(-np.inf)) for each in scores]
        score = float(self.scores[position])
        return [Owner(position, score, own, each) for own, each in zip(scores, products, strict=True)]

    def _products(self, start: int, stop: int) -> list[Scores]:
        """(n,) of each query with the n regions of the images ``start:stop``."""
        vectors = self._searcher.vectors(*self._offsets[[start, stop]].tolist())
        return [inner_products(query, vectors) for query in self._queries]

    def _scores(self, products: Scores, start: int, stop: int) -> Scores:
        """(n,) of regions; ``-inf`` for a whole image that does not count."""
        columns = self._columns(start, stop)
        scores = self._scorer.score(products, columns)
        return scores if self._whole else np.where(columns["whole"], np.float32(-np.inf), scores)

    def _values(self, start: int, stop: int) -> list[Scores]:
        """(n,) for each query: what each region's image would score if that region were its best."""
        found = []
        own, rows = self._wholes(start, stop)
        counted = own >= 0
        for products in self._products(start, stop):
            values = self._scores(products, start, stop)
            if self._w and self._whole:
                share = self._w * products[rows[own[counted]]]
                values[counted] = (values[counted].astype(np.float64) + share) / (1 + self._w)
            found.append(values)
        return found

    def _wholes(self, start: int, stop: int) -> tuple[Rows, Rows]:
        """The regions that are whole images; and which of them each region's image has, ``-1`` if none."""
        offsets = self._offsets[start : stop + 1] - self._offsets[start]
        rows = np.flatnonzero(self._is_whole(start, stop))
        of_image = np.full(stop - start, -1, np.int64)
        of_image[np.searchsorted(offsets, rows, side="right") - 1] = np.arange(len(rows))
        return np.repeat(of_image, np.diff(offsets)), rows

    def _by_box(self, start: int, stop: int) -> Scores:
        """(n,) what each box scores for all queries; ``-inf`` for a whole image."""
        scores = mean(self._values(start, stop), self._weights)
        return np.where(self._is_whole(start, stop), np.float32(-np.inf), scores)

    def _is_whole(self, start: int, stop: int) -> Flags:
        flags: Flags = self._columns(start, stop)["whole"]
        return flags

    def _columns(self, start: int, stop: int) -> Extras:
        rows = slice(*self._offsets[[start, stop]].tolist())
        return {name: column[rows] for name, column in self._extras.items()}


def mean(scores: Sequence[Scores], weights: Sequence[float]) -> Scores:
    """The weighted mean (n,) of q arrays (n,); equal columns have the same to the bit, wherever they lie."""
    parts = [weight * own.astype(np.float64) for weight, own in zip(weights, scores, strict=True)]
    return np.asarray(reduce(np.add, parts) / sum(weights), np.float32)
