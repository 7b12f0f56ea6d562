"""How sure a hit is: its score against what other words score in the same index.

A score ranks the images of one query and does not compare between queries: "submarine" may score more in a
harbor without one than "man" in a crowd. So an image's evidence for a query is read against a background: a
bank of words, most of which any collection lacks, and the other images. Six readings are added up, and the
sum is turned into a confidence by how often queries for absent things reached it: confidence 0.95 means that
at most 5 % of these did. Weights and frequencies are of bench/confidence.py, chosen on train2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from felga.search.rules import BestAndWhole
from felga.search.scoring import Extras, MeaningAndQuality, inner_products
from felga.types import Flags, Rows, Scores, Vectors

SAMPLE = 1000
"""Images that the background is read from, at most."""
SHARPNESS = 2.0  # of the softmax over words, in standard deviations of a word
SYNONYM = 0.7  # words with a higher cosine are no rivals of a query
NEAREST = 10  # rivals that are compared one by one
CHUNK = 256  # words of the bank multiplied at once
LEAST = 1e-6  # a standard deviation that is smaller is as good as none
SURE = 0.95
"""The confidence that an answer needs: at most 5 % of the queries for absent things reach it."""
RAREST = 1e-4  # share of queries for absent things; beyond it nothing is known
WEIGHTS = np.array([0.8426, 0.6892, 0.2273, 0.1904, 0.8624, -0.485, -0.6347])
"""Of the six numbers of :class:`Evidence`, and the constant."""
TAIL: Sequence[tuple[float, float]] = (
    (2.922, 0.005),
    (2.604, 0.01),
    (1.701, 0.02),
    (1.251, 0.03),
    (0.83, 0.05),
    (0.517, 0.07),
    (0.088, 0.1),
    (-0.548, 0.15),
    (-1.031, 0.2),
    (-1.96, 0.3),
    (-3.418, 0.4),
)
"""(sum of evidence, share of the queries for absent things that reach it), from the highest sum down."""


class Evidence(NamedTuple):
    """What speaks for an image showing what a query asks for; each number is larger for a better match.

    Attributes:
        level: the image's score among the best scores of the bank's words, in their standard deviations.
        mean, spread: mean and standard deviation of the query's scores over images, among those of the words:
            a word that means little here scores everything alike.
        whole: log probability of the query for the whole image, among its rivals.
        region, image: how far the query lies above its nearest rivals, for the best region and for the score
            of the image, in standard deviations.
    """

    level: float
    mean: float
    spread: float
    whole: float
    region: float
    image: float


class Background:
    """What a bank of words scores in a sample of images."""

    def __init__(self, bank: Vectors, regions: Vectors, offsets: Rows, extras: Extras, images: int) -> None:
        """
        Args:
            bank: (w, dim) unit vectors of words.
            regions: (n, dim) of the sampled images, side by side; each image has one at least.
            offsets: (s + 1,) of these images.
            extras: ``quality`` and ``whole`` of the regions, (n,) each.
            images: how many there are in all.
        """
        self.bank = bank
        self._regions, self._offsets, self._extras = regions, offsets, extras
        centered = regions - (center := regions.mean(0))
        spread = centered.T @ (centered / len(regions))  # (dim, dim)
        self._mean = bank @ center  # (w,) of a word's cosine over regions
        self._std = _floor(np.sqrt(np.einsum("wd,de,we->w", bank, spread, bank, optimize=True).clip(0)))
        moments = [self._of_images(bank[at : at + CHUNK]) for at in range(0, len(bank), CHUNK)]
        self._image_mean, self._image_std, best = (
            np.concatenate(part) for part in zip(*moments, strict=True)
        )
        # Of more images the best one scores more, also by chance: as of a normal distribution.
        sample = len(offsets) - 1
        best = best + self._image_std * (_expected_maximum(images) - _expected_maximum(sample))
        self._levels = best.mean(), _floor(best.std())
        self._means = self._image_mean.mean(), _floor(self._image_mean.std())
        self._spreads = self._image_std.mean(), _floor(self._image_std.std())

    def query(self, vector: Vectors) -> Query:
        """What a query scores against this background; ``vector`` (dim,) of length 1."""
        return Query(self, vector)

    def _of_images(self, words: Vectors) -> tuple[Scores, Scores, Scores]:
        """Mean, standard deviation and maximum over images of the scores of words (w, dim): (w,) each."""
        scores = image_scores(words @ self._regions.T, self._offsets, self._extras)
        return scores.mean(1), _floor(scores.std(1)), scores.max(1)


class Query:
    """A query against a background.

    Attributes:
        scores: (s,) of the sampled images, by the default score.
        rivals: (w,) bool, the words of the bank that mean something else.
    """

    def __init__(self, background: Background, vector: Vectors) -> None:
        self.background, self.vector = background, vector
        own = inner_products(vector, background._regions)
        self._mean, self._std = own.mean(), _floor(own.std())
        self.scores: Scores = image_scores(own[None], background._offsets, background._extras)[0]
        self._image_mean, self._image_std = self.scores.mean(), _floor(self.scores.std())

    @cached_property
    def rivals(self) -> Flags:
        return self._likeness <= SYNONYM

    @cached_property
    def _likeness(self) -> Scores:
        return inner_products(self.vector, self.background.bank)

    @cached_property
    def _nearest(self) -> Rows:
        """The rivals that are nearest in meaning, nearest first."""
        likeness = np.where(self.rivals, self._likeness, -np.inf)
        return np.argsort(-likeness, kind="stable")[: min(NEAREST, int(self.rivals.sum()))]

    def evidence(self, regions: Vectors, extras: Extras) -> Evidence:
        """The evidence of an image.

        Args:
            regions: (m, dim) of the image, m at least 1.
            extras: ``quality`` and ``whole`` of these, (m,) each.
        """
        back, near = self.background, self._nearest
        products = np.stack([self.vector, *back.bank[near]]) @ regions.T  # (1 + nearest, m)
        best = int(MeaningAndQuality().score(products[0], extras).argmax())
        whole = int(extras["whole"].argmax()) if extras["whole"].any() else best
        scores = image_scores(products, np.array([0, len(regions)]), extras)[:, 0]
        level = (scores[0] - back._levels[0]) / back._levels[1]
        region, image = 0.0, 0.0
        if len(near):
            rival = (products[1:, best] - back._mean[near]) / back._std[near]
            region = (products[0, best] - self._mean) / self._std - rival.mean()
            rival = (scores[1:] - back._image_mean[near]) / back._image_std[near]
            image = (scores[0] - self._image_mean) / self._image_std - rival.mean()
        return Evidence(
            level=float(level),
            mean=float((self._image_mean - back._means[0]) / back._means[1]),
            spread=float((self._image_std - back._spreads[0]) / back._spreads[1]),
            whole=self._log_probability(regions[whole]),
            region=float(region),
            image=float(image),
        )

    def standing(self, regions: Vectors, extras: Extras) -> float:
        """How many standard deviations an image's score lies above the mean of the sampled ones.

        Args: as of :meth:`evidence`.
        """
        (score,) = image_scores((regions @ self.vector)[None], np.array([0, len(regions)]), extras)[:, 0]
        return float((score - self._image_mean) / self._image_std)

    def better_words(self, region: Vectors, most: int) -> list[int]:
        """Rows of the bank that fit a region (dim,) better than the query does, best first."""
        own, words = self._standardized(region)
        order = np.argsort(-np.where(self.rivals & (words > own), words, -np.inf), kind="stable")
        found: list[int] = order[: min(most, int((self.rivals & (words > own)).sum()))].tolist()
        return found

    def percentile(self, score: float) -> float:
        """The share of the sampled images that score less, in %."""
        return float(100 * (self.scores < score).mean())

    def _log_probability(self, region: Vectors) -> float:
        own, words = self._standardized(region)
        words = SHARPNESS * words[self.rivals]
        highest = max(SHARPNESS * own, float(words.max(initial=-np.inf)))
        total = np.exp(words - highest).sum() + np.exp(SHARPNESS * own - highest)
        return float(SHARPNESS * own - highest - np.log(total))

    def _standardized(self, region: Vectors) -> tuple[float, Scores]:
        """The cosines of a region with the query and with the words, each in its standard deviations."""
        back = self.background
        own = (float(region @ self.vector) - self._mean) / self._std
        return float(own), (inner_products(region, back.bank) - back._mean) / back._std


def confidence(evidence: Evidence) -> float:
    """Of an image: one less the share of queries for absent things whose best image has as much evidence."""
    return 1 - share_reaching(total(evidence), TAIL)


def total(evidence: Evidence) -> float:
    """The sum of evidence: what a confidence is read from, and finer at its ends."""
    return float(np.dot(WEIGHTS[:-1], evidence) + WEIGHTS[-1])


def share_reaching(total: float, tail: Sequence[tuple[float, float]]) -> float:
    """The share of queries for absent things that reach a sum, in [0, 1]: between entries of a tail (of
    :data:`TAIL`'s form) its logarithm is linear, above the first it goes on as between the first two."""
    sums, shares = (np.array(column) for column in zip(*reversed(tail), strict=True))
    if total < sums[0]:
        return 1.0
    logarithms = np.log(shares)
    if total <= sums[-1]:
        return float(np.exp(np.interp(total, sums, logarithms)))
    slope = (logarithms[-1] - logarithms[-2]) / max(sums[-1] - sums[-2], LEAST)
    return float(np.exp(max(logarithms[-1] + slope * (total - sums[-1]), np.log(RAREST))))


def image_scores(products: Scores, offsets: Rows, extras: Extras) -> Scores:
    """The default scores of images: (q, s), of the products (q, n) of their regions; none is empty."""
    scores = MeaningAndQuality().score(products, extras)
    best: Scores = np.maximum.reduceat(scores, offsets[:-1], axis=1)
    rows = np.flatnonzero(extras["whole"])
    own = np.searchsorted(offsets, rows, side="right") - 1
    w = np.float32(BestAndWhole().w)
    best[:, own] = (best[:, own] + w * products[:, rows]) / (1 + w)
    return best


def sampled(offsets: Rows, most: int = SAMPLE) -> Rows:
    """At most so many images that have regions, evenly spaced."""
    filled = np.flatnonzero(np.diff(offsets))
    return filled[np.unique(np.linspace(0, len(filled) - 1, min(most, len(filled))).astype(np.int64))]


def _expected_maximum(n: int) -> float:
    """Roughly, of n draws of a standard normal distribution."""
    return float(np.sqrt(2 * np.log(max(n, 1))))


def _floor(std: Scores) -> Scores:
    return np.maximum(std, np.float32(LEAST))
