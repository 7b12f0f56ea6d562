"""How sure hits are, and the answer to a question of several terms: each is witnessed in every hit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from felga.asking import Asking
from felga.errors import BadInputError
from felga.files import shown
from felga.queries import Queries, measured
from felga.questions.grammar import Question, Term
from felga.search.composition import Composition
from felga.search.confidence import SURE
from felga.search.duplicates import without_copies
from felga.search.owners import Owner
from felga.search.rules import WHOLE
from felga.search.scoring import Extras, InnerProduct, MeaningAndQuality
from felga.store.copies import looks, near
from felga.store.hits import image_hits
from felga.store.stored import StoredIndex
from felga.types import Flags, ImageHit, Rows, Vectors

LEAST = 1e-6  # length of a sum of vectors; of a shorter one nothing is left


@dataclass(frozen=True, slots=True)
class Answers:
    """The images of an index, open to questions.

    Attributes:
        root: the folder of the images, or its URL.
        offsets: (images + 1,) of the regions of images.
        extras: ``quality`` and ``whole`` of all regions.
        unknown: the words of a text that nothing knows.
        how: what else is asked for.
        among: (images,) bool, those that may be hits; None: all.
    """

    index: StoredIndex
    root: str | Path
    offsets: Rows
    extras: Extras
    queries: Queries
    unknown: Callable[[str], Collection[str]]
    how: Asking
    among: Flags | None

    def judged(
        self, text: str, vector: Vectors, owners: Sequence[Owner], hits: Sequence[ImageHit]
    ) -> list[ImageHit]:
        """The hits of a term with their confidences, which are 0 if it has a word that nothing knows."""
        asked_for = self.how.min_confidence > 0 or self.how.explain
        if not hits or not (measured(self.index.manifest) or asked_for):
            return list(hits)
        against = self.queries.background().query(vector)
        known = not self.unknown(text)
        return [
            replace(
                hit,
                confidence=self.queries.confidence(against, owner) if known else 0.0,
                explanation=self.queries.explain(against, owner) if self.how.explain else None,
            )
            for owner, hit in zip(owners, hits, strict=True)
        ]

    def several(self, question: Question, k: int) -> list[ImageHit]:
        """The ``k`` best images for several terms, as :meth:`felga.engine.Engine.search` says.

        An image scores the mean of two numbers: the weighted mean of what it scores for the wanted terms, and
        what it scores for them as one sentence. The sentence counts if there are several, of words alone. An
        image with a confidence of :data:`felga.search.confidence.SURE` for an unwanted term is left out.
        """
        terms = question.wanted
        vectors = term_vectors(self.queries, terms)
        sentence = question.sentence if len(terms) > 1 else None
        weights = [term.weight for term in terms]
        composition = Composition(
            self.index.regions,
            self.offsets,
            np.concatenate([vectors, self.queries.vectors([sentence] if sentence else [])]),
            [*weights, sum(weights)][: len(terms) + bool(sentence)],
            scorer=MeaningAndQuality() if self.how.quality else InnerProduct(),
            extras=self.extras,
            w=WHOLE if self.how.owner == "soft" else 0.0,
            whole=self.how.whole,
            same_region=self.how.same_region,
            among=self.among,
        )
        seen = [composition.witnesses(position) for position in self._best(composition, question, k)]
        hits = []
        for at, (term, vector) in enumerate(zip(terms, vectors, strict=True)):
            owners = [each[at] for each in seen]
            (own,) = image_hits(self.index.images, [owners], self.root, self.how.regions)
            hits.append(self.judged(term.text, vector, owners, own))
        return [_of_all(terms, own) for own in zip(*hits, strict=True)]

    def _best(self, composition: Composition, question: Question, k: int) -> list[int]:
        """The positions of the best ``k`` images that show nothing unwanted."""
        allowed = self._allowed(composition, question.unwanted)
        ranked: list[Owner] = []

        def best(n: int) -> list[list[Owner]]:
            ranked.extend(islice(allowed, max(n - len(ranked), 0)))
            return [ranked[:n]]

        table = self.index.images
        (owners,) = (
            without_copies(best, partial(looks, table), k, near(table)) if self.how.dedupe else best(k)
        )
        return [owner.position for owner in owners]

    def _allowed(self, composition: Composition, unwanted: Sequence[Term]) -> Iterator[Owner]:
        """The images of a ranking that show nothing unwanted; looked at one by one, as they are asked for."""
        known = [term for term in unwanted if not self.unknown(term.text)]
        vectors = term_vectors(self.queries, known)
        against = [self.queries.background().query(vector) for vector in vectors]
        for position in composition.ranking():
            owner = composition.witnesses(position)[0]
            if all(self.queries.confidence(query, owner) < SURE for query in against):
                yield owner


def term_vectors(queries: Queries, terms: Sequence[Term]) -> Vectors:
    """(t, dim) of terms: of the phrase, or the sum of its parts, of length 1.

    Raises:
        BadInputError: nothing is left of a sum.
    """
    rows = queries.vectors([phrase for term in terms for _, phrase in term.parts])
    vectors = np.empty((len(terms), rows.shape[1]), np.float32)
    start = 0
    for vector, term in zip(vectors, terms, strict=True):
        parts = rows[start : start + len(term.parts)]
        start += len(term.parts)
        vector[:] = parts[0] if len(parts) == 1 else _sum(term, parts)
    return vectors


def _sum(term: Term, parts: Vectors) -> Vectors:
    total = np.array([sign for sign, _ in term.parts], np.float32) @ parts
    length = np.linalg.norm(total)
    if length < LEAST:
        raise BadInputError(f"nothing is left of {shown(term.text)!r}: add and subtract different things")
    unit: Vectors = total / length
    return unit


def _of_all(terms: Sequence[Term], hits: Sequence[ImageHit]) -> ImageHit:
    """One hit of those for each term: as sure as the least sure of them, and with its explanation."""
    surest = [1.0 if hit.confidence is None else hit.confidence for hit in hits]
    at = surest.index(min(surest))
    why = hits[at].explanation
    return replace(
        hits[at],
        regions=tuple(
            replace(region, term=term.text)
            for term, hit in zip(terms, hits, strict=True)
            for region in hit.regions
        ),
        explanation=None if why is None else replace(why, term=terms[at].text),
    )
