"""Keywords by KeyBERT (Grootendorst 2020; FELGA, 4.2) over the packaged MiniLM.

A word's score is the cosine of its vector and the whole text's. Words of one call are embedded once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from felga.errors import BadInputError
from felga.models.device import pick_device
from felga.models.minilm import SHA256, MiniLM, minilm
from felga.types import Keyword


class KeyBert:
    """Keyword proposer ``keybert`` (single words) and ``keybert:1-2`` (phrases of one to two words)."""

    def __init__(self, shortest: int, longest: int, *, device: str) -> None:
        self.name = "keybert" if (shortest, longest) == (1, 1) else f"keybert:{shortest}-{longest}"
        self._words = shortest, longest
        self._device = device
        self._model: Any = None

    def settings(self) -> Mapping[str, Any]:
        """Words in a phrase, stop words, the sentence model."""
        return {
            "name": self.name,
            "version": 1,
            "words": list(self._words),
            "stop_words": "english",
            "weights": SHA256,
        }

    def propose(self, texts: Sequence[str], top: int) -> list[list[Keyword]]:
        """At most ``top`` keywords of each text, best first.

        A text of stop words alone is asked again with them; one without any word is its own keyword, so
        that no text that says something is without a fragment.
        """
        found = self._extract(texts, top, "english")
        bare = [i for i, keywords in enumerate(found) if not keywords and texts[i].strip()]
        for i, keywords in zip(bare, self._extract([texts[i] for i in bare], top, None), strict=True):
            found[i] = keywords
        return [
            [Keyword(word, score, find_span(text, word)) for word, score in keywords]
            or [Keyword(bare, 1.0, find_span(text, bare)) for bare in [text.strip()] if bare and top]
            for text, keywords in zip(texts, found, strict=True)
        ]

    def _extract(
        self, texts: Sequence[str], top: int, stop_words: str | None
    ) -> list[list[tuple[str, float]]]:
        if not texts or top < 1:
            return [[] for _ in texts]
        if self._model is None:
            self._model = _keybert(minilm(pick_device(self._device)))
        # KeyBERT answers one text with a flat list, and texts without any word with an empty one.
        found = self._model.extract_keywords(
            [*texts, ""], keyphrase_ngram_range=self._words, stop_words=stop_words, top_n=top
        )
        return found[: len(texts)] if found else [[] for _ in texts]


def find_span(text: str, phrase: str) -> tuple[int, int]:
    """Where a lower-cased phrase stands in a text, other words between its words allowed.

    >>> find_span("A Dog and a cat.", "dog cat")
    (2, 15)
    """
    between = r"\W+(?:\w+\W+)*?"
    pattern = between.join(re.escape(word) for word in phrase.split())
    found = re.search(rf"(?<!\w){pattern}(?!\w)", text, re.IGNORECASE)
    if found is None:  # lower-casing can change a word's letters (İ): then the span is the whole text
        return 0, len(text)
    return found.span()


def _keybert(model: MiniLM) -> Any:
    from keybert import KeyBERT
    from keybert.backend import BaseEmbedder

    class Embedder(BaseEmbedder):  # type: ignore[misc]
        def embed(self, documents: Sequence[str], verbose: bool = False) -> Any:
            return model.embed(list(documents))

    return KeyBERT(model=Embedder())


def keybert(argument: str, *, device: str) -> KeyBert:
    """Factory of the registry: ``keybert`` or ``keybert:SHORTEST-LONGEST`` words in a phrase."""
    if not argument:
        return KeyBert(1, 1, device=device)
    match = re.fullmatch(r"([1-5])-([1-5])", argument)
    if match is None or match[1] > match[2]:
        raise BadInputError(
            f"keybert:{argument} does not say how many words a phrase has; wanted e.g. keybert:1-2"
        )
    return KeyBert(int(match[1]), int(match[2]), device=device)
