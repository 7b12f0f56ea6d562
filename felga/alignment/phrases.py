"""Which noun phrase of a caption describes an object: a chunker of word lists, without a parser.

From the noun that names the object's class it reads left over adjectives, and right over at most one phrase:
``big red bus``, ``cat in a white sink``, ``woman holding an umbrella``. It knows no parts of speech:

* left: up to three words after a determiner, or, without one, words of :data:`ADJECTIVES` alone;
* right: ``on``, ``with`` or ``in`` and a noun phrase of up to four words, which ends before a word of
  :data:`STOPS`, a word in -ing, or a word in -s whose phrase began with ``a`` or ``an`` (a verb);
* a noun that begins the caption or a clause is the subject: between it and that noun phrase may be one word
  in -ing, with or without the preposition. Elsewhere such a word usually belongs to another noun.

It errs where a verb looks like a noun ("men in suits watch" keeps *watch*), and takes only the first mention.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files

from felga.corpus.class_names import mentioned

_LISTS = json.loads(files(__package__).joinpath("phrase_words.json").read_text("utf-8"))
DETERMINERS = frozenset(_LISTS["determiners"].split())
STOPS = frozenset(_LISTS["stops"].split())
ADJECTIVES = frozenset(_LISTS["adjectives"].split())
PREPOSITIONS = ("on", "with", "in")
CLAUSES = (".", "of", "and", "while", "as")  # words after which a subject may stand
LEFT, RIGHT = 3, 4  # words


def region_phrase(caption: str, class_name: str) -> str | None:
    """The noun phrase around the first mention of a class, without its determiner; None: not mentioned.

    Args:
        class_name: one of COCO's 80, or a noun of its own.

    >>> region_phrase("Large brown bear lying on the green grass next to a log.", "bear")
    'large brown bear lying on the green grass'
    >>> region_phrase("A woman in a red coat rides a horse.", "person")
    'woman in a red coat'
    """
    found = mentioned(caption, class_name)
    if found is None:
        return None
    words, start, stop = found
    adjectives, subject = _before(words[:start])
    return " ".join([*adjectives, *words[start:stop], *_after(words[stop:], subject)])


def _before(words: Sequence[str]) -> tuple[list[str], bool]:
    """The adjectives at the end of the words before a noun, and whether the noun is the subject."""
    kept, rest = list(words), list[str]()
    for count in range(min(LEFT, len(words) - 1) + 1):
        kept, rest = list(words[len(words) - count :]), list(words[: len(words) - count - 1])
        if any(word in STOPS or word.endswith("ing") for word in kept):
            break
        if words[len(words) - count - 1] in DETERMINERS:
            return kept, _begins(rest)
    kept, rest = [], list(words)
    while rest and rest[-1] in ADJECTIVES and len(kept) < LEFT:
        kept.insert(0, rest.pop())
    return kept, _begins(rest)


def _begins(words: Sequence[str]) -> bool:
    """Whether a clause begins after these words."""
    return not words or words[-1] in CLAUSES


def _after(words: Sequence[str], subject: bool) -> list[str]:
    """A phrase at the beginning of the words after a noun, or nothing."""
    kept = list(words[:1]) if subject and words[:1] and words[0].endswith("ing") else []
    if words[len(kept) : len(kept) + 1] and words[len(kept)] in PREPOSITIONS:
        kept.append(words[len(kept)])
    nouns = _noun_phrase(words[len(kept) :]) if kept else []
    return [*kept, *nouns] if nouns else []


def _noun_phrase(words: Sequence[str]) -> list[str]:
    """The noun phrase, its determiner included, at the beginning of some words; nothing without a noun."""
    kept = list(words[:1]) if words and words[0] in DETERMINERS else []
    single, head = kept in (["a"], ["an"]), len(kept)
    for word in words[head : head + RIGHT]:
        verb = single and len(kept) > head and word.endswith("s") and not word.endswith(("ss", "us"))
        if verb or word in STOPS or word in DETERMINERS or word.endswith("ing"):
            break
        kept.append(word)
    return kept if len(kept) > head else []
