"""Whether the answer to a question is "no match": no image surely shows something that it asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from felga.questions.grammar import parse
from felga.search.confidence import SURE
from felga.types import ImageHit


class Asked(Protocol):
    """An engine, or a client of one."""

    @property
    def measured(self) -> bool:
        """Whether a confidence keeps its promise here."""
        ...

    def search_all(self, queries: Sequence[str], k: int) -> list[list[ImageHit]]:
        """The best images for each query."""
        ...


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why a question has no match.

    Attributes:
        term: what no image surely shows; of several such terms the least sure one.
        confidence: of the best image for it.
    """

    term: str
    confidence: float


def doubt(asked: Asked, query: str, hits: Sequence[ImageHit]) -> Doubt | None:
    """Why the hits of a query may as well be of something that is not there; None where they are believed.

    Each wanted term must surely be somewhere, in an image without what is unwanted. Whether *one* image shows
    them all, no confidence says: the first hits for each term alone decide.

    Args:
        asked: what gave the hits; where its confidences were not measured, nothing is doubted.
        hits: the best one first.
    """
    if not hits or (best := hits[0].confidence) is None or best >= SURE or not asked.measured:
        return None
    question = parse(query)
    terms = [term.text for term in question.wanted]
    if len(terms) == 1:
        return Doubt(terms[0], best)
    without = "".join(f" NOT {term.text}" for term in question.unwanted)
    found = asked.search_all([text + without for text in terms], 1)
    sure = [(own[0].confidence or 0.0) if own else 0.0 for own in found]
    least = min(sure)
    return None if least >= SURE else Doubt(terms[sure.index(least)], least)
