"""No match is said if no image surely shows a term, and of that term."""

from __future__ import annotations

import pytest

from felga import Engine
from felga.questions.doubt import Doubt, doubt
from felga.search.confidence import SURE


@pytest.fixture(scope="module")
def engine(believed):
    with Engine.open(believed, device="cpu") as engine:
        yield engine


def found(engine, query, **how):
    hits = engine.search(query, 3, **how)
    return hits, doubt(engine, query, hits)


@pytest.mark.parametrize("query", ["submarine", "2:submarine", "submarine NOT cat"])
def test_one_term_is_doubted_if_its_best_image_is_not_sure(engine, query):
    hits, why = found(engine, query)
    assert why == Doubt("submarine", hits[0].confidence)
    assert why.confidence < SURE


def test_one_term_is_believed_if_its_best_image_is_sure(engine):
    assert found(engine, "cat")[1] is None
    assert found(engine, "cat NOT motorcycle")[1] is None


def test_the_least_sure_term_is_named(engine):
    best = {word: engine.search(word, 1)[0].confidence for word in ("cat", "astronaut", "submarine")}
    assert best["submarine"] < best["astronaut"] < SURE <= best["cat"]
    assert found(engine, "cat AND astronaut AND submarine")[1] == Doubt("submarine", best["submarine"])
    assert found(engine, "cat AND 3:astronaut")[1] == Doubt("astronaut", best["astronaut"])


def test_terms_that_are_sure_in_different_images_are_believed(engine):
    hits, why = found(engine, "motorcycle AND coffee")
    assert hits[0].confidence < SURE
    assert why is None


def test_images_that_show_what_is_unwanted_are_no_witnesses(engine):
    """Of the rockets only the one that is least sure is left."""
    left = engine.search("rocket NOT rocket", 1)[0].confidence
    assert 0 < left < SURE <= engine.search("rocket", 1)[0].confidence
    assert found(engine, "cat AND rocket NOT rocket")[1] == Doubt("rocket", left)


def test_nothing_is_doubted_without_hits_or_a_measured_confidence(engine, demo):
    assert doubt(engine, "submarine", []) is None
    with Engine.open(demo[0], device="cpu") as plain:
        for how in ({}, {"explain": True}):
            hits, why = found(plain, "cat AND submarine", **how)
            assert hits
            assert why is None
