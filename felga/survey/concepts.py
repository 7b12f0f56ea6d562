"""What an index shows: its regions by name.

Every region that fits an object gets the word that stands out most in it
(:class:`felga.survey.names.Names`); regions of one name are a concept. Such names are right more often than
those of clusters of vectors, and tell more of COCO's classes apart (bench/concepts.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from felga.engine import Engine
from felga.errors import BadInputError
from felga.files import located
from felga.search.scoring import MeaningAndQuality
from felga.survey.names import Names, Surveyed
from felga.types import Box, Flags, Progress, Rows, Scores, Vectors

QUALITY = 0.4
"""Regions of a lower predicted IoU with an object are left out."""
STANDING = 3.0
"""Standard deviations that a name must stand out by."""
IMAGES = 512  # that are read at once
EXEMPLARS = 6


@dataclass(frozen=True, slots=True)
class Exemplar:
    """A region that shows a concept well.

    Attributes:
        score: as in a search for the name: cosine and quality together.
        quality: None where it was not predicted.
    """

    image_id: str
    path: str
    box: Box
    score: float
    quality: float | None


@dataclass(frozen=True, slots=True)
class Concept:
    """What some regions show.

    Attributes:
        images, regions: how many there are.
        exemplars: the best regions, best first, one of an image.
    """

    name: str
    images: int
    regions: int
    exemplars: tuple[Exemplar, ...]


def concepts(
    engine: Engine, k: int = 30, *, exemplars: int = EXEMPLARS, progress: Progress | None = None
) -> list[Concept]:
    """The ``k`` concepts that most images show; of as many images, the one of more regions first.

    Whole images do not count, nor regions that fit no object, nor those that no name stands out in. Memory
    holds a few blocks of regions beside the sizes and qualities of all.

    Raises:
        BadInputError: ``k`` or ``exemplars`` is below 1, or the index holds no images.
    """
    for name, value in (("k", k), ("exemplars", exemplars)):
        if value < 1:
            raise BadInputError(f"{name} must be at least 1, got {value}")
    seen = Surveyed(engine)
    if not len(seen.extras["whole"]):
        raise BadInputError("the index holds no image that can be read: run `felga index` on images")
    names = seen.names()
    tally = _Tally(len(names.words), exemplars)
    usable: Flags = ~seen.extras["whole"] & ~(seen.extras["quality"] < QUALITY)
    owners = np.repeat(np.arange(len(seen.offsets) - 1), np.diff(seen.offsets))
    images = len(seen.offsets) - 1
    for start in range(0, images, IMAGES):
        stop = min(start + IMAGES, images)
        low, high = seen.offsets[[start, stop]].tolist()
        rows = low + np.flatnonzero(usable[low:high])
        vectors = seen.index.regions.vectors(low, high)[rows - low]
        tally.add(names, vectors, rows, owners[rows], seen.extras["quality"][rows])
        if progress is not None:
            progress("images", stop, images)
    best = tally.largest(names, k)
    shown = _exemplars(seen, [row for at in best for _, row, _ in tally.best[at]])
    return [
        Concept(
            names.words[at],
            int(tally.images[at]),
            int(tally.regions[at]),
            tuple(Exemplar(score=float(score), **shown[row]) for score, row, _ in tally.best[at]),
        )
        for at in best
    ]


class _Tally:
    """Images, regions and the best regions of each name, as blocks of whole images come by."""

    def __init__(self, names: int, exemplars: int) -> None:
        self.images, self.regions = np.zeros(names, np.int64), np.zeros(names, np.int64)
        self.best: list[list[tuple[float, int, int]]] = [[] for _ in range(names)]
        """Score, row and image of the best regions of each name, best first."""
        self._exemplars = exemplars

    def add(self, names: Names, vectors: Vectors, rows: Rows, owners: Rows, quality: Scores) -> None:
        """Count regions: their vectors (n, dim), rows, images and qualities."""
        name, standing = names.of(vectors)
        kept = np.flatnonzero(standing >= STANDING)
        name, rows, owners = name[kept], rows[kept], owners[kept]
        products = np.einsum("nd,nd->n", vectors[kept], names.vectors[name])
        scores = MeaningAndQuality().score(products, {"quality": quality[kept]})
        np.add.at(self.regions, name, 1)
        order = np.lexsort((rows, -scores, owners, name))
        pairs = np.stack([name, owners])[:, order]
        first = order[np.diff(pairs, prepend=-1).any(0)]  # the best region of each name in each image
        np.add.at(self.images, name[first], 1)
        for at in first[np.lexsort((rows[first], -scores[first]))].tolist():
            best = self.best[name[at]]
            best.append((float(scores[at]), int(rows[at]), int(owners[at])))
        for word in np.unique(name).tolist():
            self.best[word].sort(key=lambda one: (-one[0], one[1]))
            del self.best[word][self._exemplars :]

    def largest(self, names: Names, k: int) -> list[int]:
        """The names that most images show."""
        filled = np.flatnonzero(self.images).tolist()
        return sorted(filled, key=lambda at: (-self.images[at], -self.regions[at], names.words[at]))[:k]


def _exemplars(seen: Surveyed, rows: list[int]) -> dict[int, dict[str, Any]]:
    """Image, box and quality of some regions."""
    owners = np.searchsorted(seen.offsets, rows, side="right") - 1
    positions = sorted(set(owners.tolist()))
    table = seen.index.images.take(positions, ["image_id", "path", "boxes", "quality"])
    found = dict(zip(positions, table, strict=True))
    out = {}
    for row, owner in zip(rows, owners.tolist(), strict=True):
        image, at = found[owner], row - int(seen.offsets[owner])
        x1, y1, x2, y2 = image["boxes"][at]
        path = located(seen.engine.root, image["path"])
        out[row] = {"image_id": image["image_id"], "path": path, "box": (x1, y1, x2, y2)}
        out[row]["quality"] = image["quality"][at]
    return out
