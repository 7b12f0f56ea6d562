"""Words that may name what a region shows, and which of them does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from felga.engine import Engine
from felga.models.wordlist import bank_words, caption_things, class_names, may_name_a_thing
from felga.proposals.inflection import singular
from felga.queries import Queries
from felga.search.confidence import LEAST, sampled
from felga.search.scoring import Extras
from felga.types import Rows, Scores, Vectors

TEXTS = 3
"""Texts that must have a keyword before it is a name."""
MOST = 2000  # keywords that are names, the most frequent ones
BLOCK = 1024  # regions that are named at once


class Names:
    """Words, and how high each scores in the regions of an index."""

    def __init__(self, words: Sequence[str], vectors: Vectors, regions: Vectors) -> None:
        """
        Args:
            words: distinct.
            vectors: (w, dim) of the words, of length 1.
            regions: (n, dim), a sample of what is to be named.
        """
        self.words, self.vectors = tuple(words), vectors
        center = regions.mean(0)
        spread = (regions - center).T @ ((regions - center) / len(regions))
        self._mean = vectors @ center
        std = np.sqrt(np.einsum("wd,de,we->w", vectors, spread, vectors, optimize=True).clip(0))
        self._std = np.maximum(std, np.float32(LEAST))

    def of(self, regions: Vectors) -> tuple[Rows, Scores]:
        """The name of each region (n, dim), and its standing: (n,) each.

        A name is the word whose cosine lies most standard deviations above the mean of its cosines with all
        regions: a word that fits every region a little names none. The first one on ties.
        """
        best, standing = np.empty(len(regions), np.int64), np.empty(len(regions), np.float32)
        for start in range(0, len(regions), BLOCK):
            rows = slice(start, start + BLOCK)
            standings = (regions[rows] @ self.vectors.T - self._mean) / self._std
            best[rows] = standings.argmax(1)
            standing[rows] = standings.max(1)
        return best, standing


class Surveyed:
    """An open index with what every look at all of it needs.

    Attributes:
        offsets: (images + 1,) of the regions of images.
        extras: ``quality`` and ``whole`` of all regions.
        queries: words against the background of the index.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, self.index = engine, engine.index
        self.offsets: Rows = self.index.images.offsets()
        self.extras: Extras = {"quality": self.index.images.quality(), "whole": self.index.images.whole()}
        self.queries = Queries(self.index, lambda: engine.encoder, self.offsets, self.extras)

    def regions(self, image: int) -> tuple[Vectors, Extras]:
        """The vectors (m, dim) of the regions of an image, and their columns."""
        start, stop = self.offsets[[image, image + 1]].tolist()
        columns = {name: column[start:stop] for name, column in self.extras.items()}
        return self.index.regions.vectors(start, stop), columns

    def names(self) -> Names:
        """The keywords that at least :data:`TEXTS` texts have and the things that captions of photographs
        mention; where there are no texts, the things of ImageNet, too. All in the singular."""
        own = self._keywords()
        rows = [row for row, _ in own.values()]
        vectors = [self.index.keywords.vectors(row, row + 1) for row in rows]
        known = (*caption_things(), *(() if len(self.index.texts) else map(str.lower, class_names())))
        others = [word for word in dict.fromkeys(known) if word not in own]
        places = {word: at for at, word in enumerate(bank_words())}
        bank = self.queries.background().bank[[places[word] for word in others]]
        images = sampled(self.offsets)
        sample = [self.index.regions.vectors(*self.offsets[[at, at + 1]].tolist()) for at in images]
        return Names([*own, *others], np.concatenate([*vectors, bank]), np.concatenate(sample))

    def _keywords(self) -> dict[str, tuple[int, int]]:
        """Keywords that may name things -> the first row of each among all keywords, and how many texts have
        it; the most frequent first."""
        texts: Counter[str] = Counter()
        first: dict[str, int] = {}
        row = 0
        for batch in self.index.texts.batches(["keywords", "whole"], 8192):
            columns = batch.column("keywords").to_pylist(), batch.column("whole").to_pylist()
            for keywords, whole in zip(*columns, strict=True):
                words = [
                    None if is_whole else singular(word)
                    for word, is_whole in zip(keywords, whole, strict=True)
                ]
                for at, word in enumerate(words):
                    if word is not None:
                        first.setdefault(word, row + at)
                texts.update({word for word in words if word is not None and may_name_a_thing(word)})
                row += len(words)
        frequent = sorted((-count, word) for word, count in texts.items() if count >= TEXTS)[:MOST]
        return {word: (first[word], -count) for count, word in frequent}
