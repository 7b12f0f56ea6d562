"""What a query asks for: ``2:boat AND person + crowd NOT car`` as terms. Operators are capitals or signs that
stand alone, so that "salt and pepper" and "t-shirt" are words."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from felga.errors import BadInputError
from felga.files import shown

EXAMPLE = '"boat AND person NOT car"'
_JOINERS = re.compile(r"(?:^|(?<=\s))(AND\s+NOT|AND|NOT)(?=\s|$)")
_SIGNS = re.compile(r"(?:^|(?<=\s))([+-])(?=\s|$)")
_WEIGHT = re.compile(r"\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)):(?![0-9])")  # "16:9" and "7:30" are words


@dataclass(frozen=True, slots=True)
class Term:
    """Something that an image shows, or does not.

    Attributes:
        text: as it was written, without its weight.
        parts: (1 or -1, phrase), the first is positive: the term's vector is their sum.
    """

    text: str
    parts: tuple[tuple[int, str], ...]
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Question:
    """Terms that an image must show, one at least, and terms that it must not."""

    wanted: tuple[Term, ...]
    unwanted: tuple[Term, ...] = ()

    @property
    def alone(self) -> bool:
        """One vector answers it: there is one term, whose weight means nothing."""
        return len(self.wanted) == 1 and not self.unwanted

    @property
    def phrases(self) -> list[str]:
        """All phrases, each once."""
        every = (phrase for term in (*self.wanted, *self.unwanted) for _, phrase in term.parts)
        return list(dict.fromkeys(every))

    @property
    def sentence(self) -> str | None:
        """What is wanted, in words; None if a term is not words alone."""
        if any(len(term.parts) > 1 for term in self.wanted):
            return None
        return " and ".join(term.text for term in self.wanted)


def parse(query: str) -> Question:
    """The terms of a query; one without operators is one term, as it is.

    Raises:
        BadInputError: an operator lacks words, or a weight is not a number above 0.

    >>> question = parse("2:boat AND person + crowd NOT car")
    >>> [(term.text, term.weight) for term in question.wanted], [term.text for term in question.unwanted]
    ([('boat', 2.0), ('person + crowd', 1.0)], ['car'])
    """
    if not (_JOINERS.search(query) or _SIGNS.search(query) or _WEIGHT.match(query)):
        return Question((Term(query, ((1, query),)),))
    first, *rest = _JOINERS.split(query)
    if rest and not first.strip() and rest[0] == "NOT":
        raise BadInputError(
            f"the query {shown(query)!r} says only what an image must not show: begin with what it must, as "
            f"in {EXAMPLE}"
        )
    wanted, unwanted = [_term(query, first, "AND" if rest else "")], []
    for operator, words in zip(rest[::2], rest[1::2], strict=True):
        if operator == "AND":
            wanted.append(_term(query, words, "AND"))
        else:
            unwanted.append(_term(query, words, "NOT"))
    return Question(tuple(wanted), tuple(unwanted))


def _term(query: str, words: str, operator: str) -> Term:
    weight, text = 1.0, words
    if found := _WEIGHT.match(words):
        weight, text = float(found[1]), words[found.end() :]
        if operator == "NOT" or not (math.isfinite(weight) and weight > 0):
            raise BadInputError(
                f"the query {shown(query)!r} has the weight {found[1]}: expected a number above 0, and none "
                'after NOT, as in "2:boat AND person"'
            )
    first, *rest = _SIGNS.split(text)
    phrases = [" ".join(part.split()) for part in (first, *rest[1::2])]
    if not all(phrases):
        beside = rest[0] if rest else operator or "the weight"
        raise BadInputError(
            f"the query {shown(query)!r} lacks words beside {beside}: expected some on both sides of AND, "
            f"NOT, + and -, as in {EXAMPLE}"
        )
    signs = [1, *(1 if sign == "+" else -1 for sign in rest[::2])]
    return Term(" ".join(text.split()), tuple(zip(signs, phrases, strict=True)), weight)
