"""Greedy and beam decoding, against plain loops over the whole sequence."""

from __future__ import annotations

import itertools

import pytest
import torch

from felga.captions.caption_decoder import END, START, UNKNOWN
from felga.captions.generation import Cached, Recomputed, beam_search, generate, repeating_words
from felga.errors import BadInputError
from tests.captions.made import random_decoder


@pytest.fixture
def prefix():
    return torch.randn(6, 5, 32, generator=torch.Generator().manual_seed(3))


def log_probability(decoder, prefix, words, owner=0):
    """Of a caption, the end included where there is one: from one pass over all of it."""
    inputs = torch.tensor([[START, *words[:-1]]])
    logs = decoder(prefix, inputs, torch.tensor([owner])).detach().log_softmax(-1)[0]
    return float(sum(logs[at, word] for at, word in enumerate(words)))


def repeating(words):
    """What would repeat the word before it, or three words."""
    triples = set(zip(words[1:], words[2:], words[3:], strict=False))
    return [*words[-1:], *(last for *two, last in triples if two == words[-2:])]


def test_words_that_would_repeat_the_last_one_or_three_words_are_known():
    said = torch.tensor([[[5, 6, 7, 5, 6]], [[5, 6, 7, 6, 5]], [[8, 8, 8, 8, 9]]])
    found = repeating_words(said, torch.zeros(3, 1, 20))
    assert [one.nonzero()[:, 1].tolist() for one in found] == [[6, 7], [5], [9]]


@pytest.mark.parametrize("mask", ["prefix", "printed"])
def test_greedy_takes_the_likeliest_next_word(prefix, mask):
    decoder = random_decoder(mask)
    for owner, found in enumerate(generate(decoder, prefix)):
        words, total = [START], 0.0
        while len(words) <= decoder.shape.longest:
            logs = (
                decoder(prefix, torch.tensor([words]), torch.tensor([owner]))[0, -1].detach().log_softmax(-1)
            )
            logs[[START, UNKNOWN, *repeating(words)]] = -torch.inf
            words.append(int(logs.argmax()))
            total += float(logs[words[-1]])
            if words[-1] == END:
                break
        assert found.words == [word for word in words[1:] if word != END]
        assert found.score == pytest.approx(total / (len(words) - 1), abs=1e-4)


@pytest.mark.parametrize("beam", [1, 4])
def test_with_the_cache_and_without_it_is_the_same(prefix, beam):
    decoder = random_decoder()
    cached = beam_search(decoder, prefix, beam, Cached)
    anew = beam_search(decoder, prefix, beam, Recomputed)
    assert [one.words for one in cached] == [one.words for one in anew]
    assert [one.score for one in cached] == pytest.approx([one.score for one in anew], abs=1e-4)


def test_a_wide_beam_finds_the_best_of_all_captions(prefix):
    """Five words and at most three steps: all captions can be listed."""
    decoder = random_decoder(words=5)
    decoder.shape = decoder.shape.from_json({**decoder.shape.to_json(), "longest": 2})
    words = [3, 4]
    for owner in range(3):
        every = [[END], *([one, END] for one in words), *map(list, itertools.permutations(words, 2))]
        best = max(every, key=lambda one: log_probability(decoder, prefix, one, owner) / len(one))
        (found,) = generate(decoder, prefix[owner : owner + 1], beam=5)
        assert found.words == [word for word in best if word != END]


def test_an_image_gets_the_same_caption_whatever_else_is_decoded(prefix):
    decoder = random_decoder()
    together = generate(decoder, prefix, beam=3)
    alone = [generate(decoder, prefix[at : at + 1], beam=3)[0] for at in range(len(prefix))]
    assert [one.words for one in together] == [one.words for one in alone]


def test_no_image_is_no_caption(prefix):
    assert generate(random_decoder(), prefix[:0]) == []


@pytest.mark.parametrize("beam", [0, 21])
def test_an_impossible_beam_is_refused(prefix, beam):
    with pytest.raises(BadInputError, match=f"beam must be from 1 to 20.*got {beam}"):
        generate(random_decoder(), prefix, beam)
