"""Which words of a query nothing knows, and which known ones are nearest to them.

Only an encoder whose words are MiniLM's says what it knows: one that reads text in pieces of words, such as
CLIP, has no list that a word could be missing from.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import cached_property
from typing import Any

from felga.models.wordlist import MINILM, class_names, common_words, minilm_words
from felga.proposals.inflection import singular
from felga.store.owner_table import OwnerTable
from felga.store.schema import keywords_of

NEAREST, CUTOFF = 3, 0.7  # at most so many near words, and their least likeness by difflib
LETTERS = 4  # of each half of a compound: "surfboard" is known as "surf" and "board"
_WORD = re.compile(r"[^\W\d_]{2,}")


class Vocabulary:
    """The words of an index and of its encoder; lists are read when a word is not in those read before."""

    def __init__(self, keywords: Callable[[], frozenset[str]], encoder: Mapping[str, Any]) -> None:
        """Args: keywords: reads :func:`words_of` an index. encoder: the identity of the encoder."""
        self._read = keywords
        weights = encoder.get("weights")
        self._listed = isinstance(weights, Mapping) and MINILM in weights.values()

    def unknown(self, query: str) -> dict[str, list[str]]:
        """Each word of a query that nothing knows -> at most three near ones that an index or ImageNet has.

        A word is known in the singular or the plural, and as a compound of two known words.
        """
        if not self._listed:
            return {}
        words = dict.fromkeys(_plain(word) for word in _WORD.findall(query))
        return {
            word: get_close_matches(word, self._choices, NEAREST, CUTOFF)
            for word in words
            if not (self._knows(word) or self._is_compound(word))
        }

    def _knows(self, word: str) -> bool:
        forms = {word, singular(word)}
        return (
            not forms.isdisjoint(self._keywords)
            or not forms.isdisjoint(minilm_words())
            or not forms.isdisjoint(common_words())
        )

    def _is_compound(self, word: str) -> bool:
        halves = ((word[:at], word[at:]) for at in range(LETTERS, len(word) - LETTERS + 1))
        return any(self._knows(first) and self._knows(second) for first, second in halves)

    @cached_property
    def _keywords(self) -> frozenset[str]:
        return self._read()

    @cached_property
    def _choices(self) -> list[str]:
        names = (_plain(word) for name in class_names() for word in _WORD.findall(name))
        return sorted({singular(word) for word in (*self._keywords, *names)})


def words_of(texts: OwnerTable) -> frozenset[str]:
    """The words of all keywords of a table."""
    found: set[str] = set()
    for batch in texts.batches(["keywords", "whole"], 8192):
        keywords = {keyword for own in keywords_of(batch) for keyword in own}
        found.update(_plain(word) for keyword in keywords for word in _WORD.findall(keyword))
    return frozenset(found)


def _plain(word: str) -> str:
    """In lower case and without accents, as MiniLM reads it."""
    letters = unicodedata.normalize("NFD", word.lower())
    return "".join(letter for letter in letters if unicodedata.category(letter) != "Mn")
