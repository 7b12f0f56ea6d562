"""Which words name something to be seen."""

from __future__ import annotations

import pytest

from felga.models.wordlist import (
    CAPTION_WORDS,
    NO_THINGS,
    bank_words,
    caption_things,
    may_name_a_thing,
    names_a_thing,
)


@pytest.mark.parametrize("word", ["zebra", "umbrella", "cat", "kitchen"])
def test_things(word):
    assert names_a_thing(word)
    assert may_name_a_thing(word)


@pytest.mark.parametrize(
    "word", ["standing", "beautiful", "group", "blue", "parked", "view", "couple", "quickly"]
)
def test_no_things(word):
    assert not names_a_thing(word)
    assert not may_name_a_thing(word)


def test_a_word_that_nobody_listed_may_name_a_thing_and_is_not_known_to():
    assert may_name_a_thing("kumquat")
    assert not names_a_thing("kumquat")
    assert names_a_thing("dalmatian"), "ImageNet's"
    assert not may_name_a_thing("tv"), "too short"


def test_the_things_of_captions_are_words_of_the_bank():
    words = CAPTION_WORDS.read_text().split()
    things = caption_things()
    assert set(things) <= set(bank_words())
    assert list(things) == [word for word in words if word not in set(NO_THINGS.read_text().split())]
    assert 200 < len(things) < len(words)
