"""The vocabulary of tags: class names, and words that the phrases of regions often use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from felga.alignment.phrases import DETERMINERS, PREPOSITIONS, STOPS
from felga.alignment.region_texts import RegionTexts
from felga.corpus.class_names import NAMES
from felga.proposals.inflection import singular
from felga.types import Flags

OFTEN = 10
"""Regions whose phrases use a word, at least, to make it a tag."""


def tag_words(texts: RegionTexts) -> list[str]:
    """The C class names, then the words in the singular that name no class, most frequent first."""
    names = {singular(word) for listed in NAMES.values() for word in listed} | set(texts.class_names)
    counts = Counter(word for own in texts.phrases for word in _words(own) if word not in names)
    often = [(-count, word) for word, count in counts.items() if count >= OFTEN]
    return [*texts.class_names, *(word for _, word in sorted(often))]


def tags_of(texts: RegionTexts, tags: Sequence[str]) -> tuple[Flags, Flags]:
    """Which tags fit each box, and which of that is known: (N, W) bool each.

    A box has its class. Other words are known for described boxes alone: those of its phrases fit.
    """
    place = {word: column for column, word in enumerate(tags)}
    fits = np.zeros((len(texts.boxes), len(tags)), bool)
    fits[np.arange(len(fits)), texts.box_class] = True
    known = np.zeros_like(fits)
    known[:, : len(texts.class_names)] = True
    for box in texts.described.tolist():
        known[box] = True
        columns = [place[word] for word in _words(texts.phrases[box]) if word in place]
        fits[box, [column for column in columns if column >= len(texts.class_names)]] = True
    return fits, known


def _words(phrases: Sequence[str]) -> set[str]:
    """The distinct content words of some phrases, in the singular."""
    words = {word for phrase in phrases for word in phrase.split()}
    return {singular(word) for word in words - DETERMINERS - STOPS - set(PREPOSITIONS) if word.isalpha()}
