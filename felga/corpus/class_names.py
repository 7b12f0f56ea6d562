"""Which texts mention which of COCO's 80 classes: a table of words, longest match first.

A text mentions a class if it contains one of the class's words or phrases: whole words, in any case. Longer
phrases win over shorter ones inside them, so "hot dog" mentions no dog and "teddy bear" no bear; phrases of
:data:`NOT_NAMES` ("train station") mention nothing. Punctuation ends a phrase.

The table, ``class_names.json``, was written for felga. Bare words that usually mean something else in
captions are left out: "orange" the colour (only unambiguous forms of the fruit count), "ski" the verb,
"pitcher", "couple", "glasses", "glass".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.resources import files

import numpy as np

from felga.types import Flags

_TABLE = json.loads(files(__package__).joinpath("class_names.json").read_text("utf-8"))
NAMES: dict[str, list[str]] = _TABLE["names"]
"""Class name -> the words and phrases that name it."""
NOT_NAMES: list[str] = _TABLE["not_names"]
"""Phrases that contain a class's word but do not name the class."""

_DETERMINERS = {"a", "an", "the", "one", "two", "three", "some", "his", "her", "their", "its", "this", "that"}
_BETWEEN = {".", "and", "or", "of", "in", "on", "at", "with", "to", "by", "from", "for", "near", "is", "are"}
# Last words of phrases that mention a person and nothing else: the player is there, the ball need not be.
_PEOPLE_IN_PHRASES = ("player", "players", "batter", "umpire", "catcher", "surfer", "surfers", "boy")


def mentions(texts: Sequence[str], class_names: Sequence[str]) -> Flags:
    """Which texts mention which classes.

    Args:
        texts: T texts.
        class_names: C names; one that :data:`NAMES` lacks is matched as it is, and with an s.

    Returns:
        (C, T) bool.

    >>> texts = ["A hot dog on a bench.", "Two dogs wait at a train station"]
    >>> mentions(texts, ["dog", "hot dog", "train"]).tolist()
    [[False, True], [True, False], [False, False]]
    """
    pattern, owners = _matcher(tuple(class_names))
    found = np.zeros((len(class_names), len(texts)), bool)
    for column, text in enumerate(texts):
        for phrase in set(pattern.findall(_plain(text) + " .")):
            found[owners[phrase], column] = True
    return found


def noun_phrase(text: str, class_name: str) -> str | None:
    """The first noun phrase of a text that names a class, or the class's word alone; None: it names it not.

    The phrase begins after a determiner at most three words before the name, if no verb form in -ing stands
    between: a rule without a parser.

    >>> noun_phrase("A man on a big red bus.", "bus")
    'big red bus'
    >>> noun_phrase("A man riding horses", "horse")
    'horses'
    """
    found = mentioned(text, class_name)
    if found is None:
        return None
    words, start, stop = found
    before = words[max(0, start - 3) : start]
    starts = [i for i, word in enumerate(before) if word in _DETERMINERS]
    adjectives = before[starts[-1] + 1 :] if starts else []
    if any(word.endswith("ing") or word in _BETWEEN for word in adjectives):
        adjectives = []
    return " ".join([*adjectives, *words[start:stop]])


def mentioned(text: str, class_name: str) -> tuple[list[str], int, int] | None:
    """The words of a text, and where the first mention of a class begins and ends among them.

    Words are in lower case and without possessives; punctuation is the word ``.``, which also ends the list.

    >>> mentioned("A man on a big red bus.", "bus")
    (['a', 'man', 'on', 'a', 'big', 'red', 'bus', '.', '.'], 6, 7)
    """
    pattern, owners = _matcher((class_name,))
    plain = _plain(text) + " ."
    for match in pattern.finditer(plain):
        if owners[match[0]]:
            start = len(plain[: match.start()].split())
            return plain.split(), start, start + len(match[0].split())
    return None


@lru_cache(128)
def _matcher(class_names: tuple[str, ...]) -> tuple[re.Pattern[str], dict[str, list[int]]]:
    """Phrases by the longest first, and the classes that each names."""
    owners: dict[str, list[int]] = {phrase: [] for phrase in _phrases(NOT_NAMES)}
    of_people = [phrase for phrase in owners if phrase.split()[-1] in _PEOPLE_IN_PHRASES]
    # All classes take part, requested or not: "hot dog" must not mention a dog when only dogs are requested.
    for name, phrases in NAMES.items():
        row = [i for i, asked in enumerate(class_names) if asked == name]
        for phrase in _phrases(phrases):
            owners.setdefault(phrase, []).extend(row)
    for i, name in enumerate(class_names):
        if name not in NAMES:
            for phrase in (_plain(name), _plain(name) + "s"):
                owners.setdefault(phrase, []).append(i)
    people = [i for i, asked in enumerate(class_names) if asked == "person"]
    for phrase in of_people:
        owners[phrase].extend(people)

    longest_first = sorted(owners, key=len, reverse=True)
    pattern = re.compile(r"(?<!\S)(?:" + "|".join(map(re.escape, longest_first)) + r")(?!\S)")
    return pattern, owners


def _phrases(listed: Iterable[str]) -> list[str]:
    return [_plain(phrase) for phrase in listed]


def _plain(text: str) -> str:
    """Lower case, single spaces, hyphens split, possessives removed, a dot for punctuation."""
    text = re.sub(r"['’]s?\b", "", text.lower())  # "a man's hand" mentions a man
    text = re.sub(r"[.,;:!?()\n]+", " . ", text)
    return " ".join(re.sub(r"[^\w.]+", " ", text).split())
