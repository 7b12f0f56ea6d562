"""Vectors like those of an encoder, in any number: for bench/speed.py.

Regions: a common mean, one of 5,000 concepts of unequal frequency, the scene of the image, an object, noise.
Three regions in ten show an object that the image shows already; the last region is the whole image. Queries
are like words: they have another common mean, as texts have in CLIP, so that the best cosine is about 0.39
and the mean 0.12. An index that is tuned with regions as queries does worse for such.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from felga.types import Vectors

REGIONS = 10
CONCEPTS, SCENES, WORDS = 5000, 500, 40
CHUNK = 5000  # images made at once


class Clustered:
    """The distribution; the same numbers for the same seed, whatever is drawn."""

    def __init__(self, dim: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.dim, self._seed = dim, seed
        basis, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
        spectrum = np.arange(1, dim + 1) ** -0.45
        self._shape = (basis * (spectrum / np.linalg.norm(spectrum))).T.astype(np.float32)
        mean = rng.standard_normal(dim)
        mean /= np.linalg.norm(mean)
        other = rng.standard_normal(dim)
        other -= (other @ mean) * mean
        other = 0.2 * mean + 0.98 * other / np.linalg.norm(other)
        self._of_regions, self._of_words = (0.75 * mean).astype(np.float32), (0.8 * other).astype(np.float32)
        self._concepts = self._drawn(rng, CONCEPTS, 0.62)
        frequency = 1 / np.arange(1, CONCEPTS + 1) ** 0.6
        self._frequency = frequency / frequency.sum()
        self._scenes = np.stack(
            [rng.choice(CONCEPTS, WORDS, replace=False, p=self._frequency) for _ in range(SCENES)]
        )

    def regions(self, images: int) -> Iterator[Vectors]:
        """Unit vectors of the regions, (10 n, dim) of up to 5,000 images at a time."""
        for number, start in enumerate(range(0, images, CHUNK)):
            yield self._chunk(np.random.default_rng([self._seed, 1, number]), min(CHUNK, images - start))

    def queries(self, count: int) -> Vectors:
        """(count, dim) unit vectors of words."""
        rng = np.random.default_rng([self._seed, 2])
        asked = rng.choice(CONCEPTS, count, p=self._frequency)
        return unit(self._of_words + 0.6 * self._concepts[asked] + self._drawn(rng, count, 0.25))

    def _drawn(self, rng: np.random.Generator, count: int, scale: float) -> Vectors:
        vectors: Vectors = (rng.standard_normal((count, self.dim), np.float32) @ self._shape) * np.float32(
            scale
        )
        return vectors

    def _chunk(self, rng: np.random.Generator, images: int) -> Vectors:
        words = self._scenes[
            rng.integers(0, SCENES, images)[:, None], rng.integers(0, WORDS, (images, REGIONS))
        ]
        stray = rng.random(words.shape) < 0.2
        words[stray] = rng.choice(CONCEPTS, int(stray.sum()), p=self._frequency)
        shown = np.tile(np.arange(REGIONS), (images, 1))
        for region in range(1, REGIONS - 1):
            again = rng.random(images) < 0.3
            shown[again, region] = shown[again, rng.integers(0, region, images)[again]]
        words = np.take_along_axis(words, shown, 1)
        objects = self._drawn(rng, images * REGIONS, 0.4).reshape(images, REGIONS, self.dim)
        objects = np.take_along_axis(objects, shown[:, :, None], 1)
        scene = self._drawn(rng, images, 0.3)[:, None]
        vectors = self._of_regions + self._concepts[words] + objects + scene
        vectors += self._drawn(rng, images * REGIONS, 0.22).reshape(vectors.shape)
        parts = self._concepts[words[:, :-1]].mean(1) + objects[:, :-1].mean(1)
        vectors[:, -1] = self._of_regions + 1.5 * scene[:, 0] + parts + self._drawn(rng, images, 0.1)
        return unit(vectors.reshape(-1, self.dim))


def unit(vectors: Vectors) -> Vectors:
    """Rows of length 1."""
    scaled: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled
