"""Questions of several terms over the demo index, against the answers to each term alone."""

from __future__ import annotations

import numpy as np
import pytest

from felga import Engine
from felga.errors import BadInputError
from felga.search.confidence import SURE
from felga.search.owners import best_owners
from felga.search.rules import image_rule
from felga.search.scoring import GAMMA, MeaningAndQuality
from felga.store.copies import looks, near
from felga.store.hits import image_hits


@pytest.fixture(scope="module")
def engine(demo):
    with Engine.open(demo[0], device="cpu") as engine:
        yield engine


def alone(engine, text, **how):
    """Image id -> hit, of all images, with its confidence."""
    return {hit.image_id: hit for hit in engine.search(text, k=99, explain=True, **how)}


@pytest.mark.parametrize(
    "both", [("cat", "rocket"), ("motorcycle", "rocket"), ("cup", "rocket"), ("coins", "cup")]
)
def test_the_image_that_shows_both_is_first(engine, demo, both):
    (first,) = engine.search(" AND ".join(both), k=1)
    assert set(both) <= demo[1].boxes[first.image_id].keys()


@pytest.mark.parametrize("how", [{}, {"quality": False}, {"whole": False}, {"owner": "max"}, {"regions": 3}])
def test_scores_witnesses_and_confidences_are_those_of_each_term_alone(engine, how):
    """Two parts of cat and one of rocket are one half, the sentence is the other."""
    cat, rocket, both = (alone(engine, text, **how) for text in ("cat", "rocket", "cat and rocket"))
    wanted = {name: ((2 * cat[name].score + rocket[name].score) / 3 + both[name].score) / 2 for name in cat}
    hits = engine.search("2:cat AND rocket", k=99, explain=True, **how)
    assert [hit.image_id for hit in hits] == sorted(wanted, key=lambda name: -wanted[name])
    assert [hit.rank for hit in hits] == list(range(1, len(cat) + 1))
    for hit in hits:
        assert hit.score == pytest.approx(wanted[hit.image_id], abs=1e-6)
        own = [cat[hit.image_id], rocket[hit.image_id]]
        assert hit.confidence == min(one.confidence for one in own)
        for term, one in zip(("cat", "rocket"), own, strict=True):
            witnesses = [region for region in hit.regions if region.term == term]
            assert [(region.box, region.whole) for region in witnesses] == [
                (region.box, region.whole) for region in one.regions
            ]
            assert [region.score for region in witnesses] == pytest.approx(
                [region.score for region in one.regions], abs=1e-6
            )
        assert len(hit.regions) == sum(len(one.regions) for one in own)
    assert engine.search("2:cat AND rocket", k=3, explain=True, **how) == hits[:3]


def test_copies_of_a_better_hit_are_left_out(engine):
    every = [hit.image_id for hit in engine.search("cat AND rocket", k=99)]
    kept = [hit.image_id for hit in engine.search("cat AND rocket", k=99, dedupe=True)]
    assert kept[0] == every[0]
    assert kept == [name for name in every if name in kept]
    table = engine.index.images
    names = table.read(["image_id"]).column("image_id").to_pylist()
    _, vectors = looks(table, [names.index(name) for name in every])
    for at, name in enumerate(every):
        better = [before for before in range(at) if every[before] in kept]
        assert (name in kept) == all(vectors[at] @ vectors[before] < near(table) for before in better)
    few = engine.search("cat AND rocket", k=2, dedupe=True)
    assert [hit.image_id for hit in few] == kept[:2]


def test_not_leaves_out_exactly_what_is_surely_there(engine):
    sure = {name for name, hit in alone(engine, "rocket").items() if hit.confidence >= SURE}
    plain = engine.search("cat", k=99)
    assert {hit.image_id for hit in plain[:4]} & sure
    for query in ("cat NOT rocket", "cat AND NOT rocket"):
        hits = engine.search(query, k=99)
        expected = [hit for hit in plain if hit.image_id not in sure]
        assert [hit.image_id for hit in hits] == [hit.image_id for hit in expected]
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-6)
        assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
        assert {region.term for hit in hits for region in hit.regions} == {"cat"}
    coins = {name for name, hit in alone(engine, "coffee").items() if hit.confidence >= SURE}
    two = {hit.image_id for hit in engine.search("cat NOT rocket NOT coffee", k=99)}
    assert two == {hit.image_id for hit in plain} - sure - coins
    assert len(engine.search("cat NOT rocket", k=3)) == 3


def test_not_a_word_that_nothing_knows_leaves_out_nothing(engine):
    assert len(engine.search("cat NOT xqzvblorp", k=99)) == len(engine.search("cat", k=99))
    assert list(engine.unknown_words("cat NOT xqzvblorp AND zvblorpx")) == ["zvblorpx", "xqzvblorp"]


def test_a_word_that_nothing_knows_makes_a_hit_unsure(engine):
    assert all(hit.confidence == 0 for hit in engine.search("cat AND xqzvblorp", explain=True))
    assert engine.search("cat AND xqzvblorp", min_confidence=0.01) == []


def test_one_box_shows_all_terms(engine):
    """Against every region of every image, one by one."""
    queries = engine.encoder.encode_texts(["cat", "rocket", "cat and rocket"])
    wanted = {}
    for row in engine.index.images.read(["image_id", "boxes", "whole", "quality", "vectors"]).to_pylist():
        cosines = np.array(row["vectors"], np.float16).astype(np.float64) @ queries.T
        whole = cosines[row["whole"].index(True)]
        scores = (cosines + GAMMA * np.log(row["quality"])[:, None] + 0.5 * whole) / 1.5
        joint = np.where(row["whole"], -np.inf, scores @ [0.25, 0.25, 0.5])
        wanted[row["image_id"]] = joint.max(), row["boxes"][int(joint.argmax())]
    hits = engine.search("cat AND rocket", k=99, same_region=True, regions=3)
    assert [hit.image_id for hit in hits] == sorted(wanted, key=lambda name: -wanted[name][0])
    for hit in hits:
        score, box = wanted[hit.image_id]
        assert hit.score == pytest.approx(score, abs=1e-5)
        assert [(region.term, list(region.box)) for region in hit.regions] == [("cat", box), ("rocket", box)]
        assert not any(region.whole for region in hit.regions)


def test_sums_of_vectors(engine):
    cat, rocket = engine.encoder.encode_texts(["cat", "rocket"]).astype(np.float64)
    for query, vector in (("cat + rocket", cat + rocket), ("cat - rocket", cat - rocket)):
        vector = vector / np.linalg.norm(vector)
        for hit in engine.search(query, k=99):
            (region,) = hit.regions
            assert region.term is None
            row = next(
                row
                for row in engine.index.images.read(["image_id", "boxes", "vectors"]).to_pylist()
                if row["image_id"] == hit.image_id
            )
            at = row["boxes"].index(list(region.box))
            stored = np.float64(np.float16(row["vectors"][at]))
            assert region.similarity == pytest.approx(float(np.dot(stored, vector)), abs=1e-5)
    assert engine.search("cat + coffee AND rocket")[0].regions[0].term == "cat + coffee"
    with pytest.raises(BadInputError, match="nothing is left of 'cat - cat'"):
        engine.search("cat - cat")


def test_a_lone_weight_means_nothing(engine):
    assert engine.search("2:cat") == engine.search("cat")


def test_questions_among_words_answer_as_alone(engine):
    queries = ["cat", "cat AND rocket", "coffee NOT cat", "rocket"]
    assert engine.search_all(queries, k=4) == [engine.search(query, k=4) for query in queries]
    assert all(region.term is None for hit in engine.search("cat") for region in hit.regions)


def test_least_confidence_and_explanation_are_those_of_the_least_sure_term(engine):
    hits = engine.search("cat AND rocket", k=99, explain=True, min_confidence=0.8)
    assert hits
    for hit in hits:
        assert hit.confidence >= 0.8
        singles = {term: alone(engine, term)[hit.image_id] for term in ("cat", "rocket")}
        least = min(singles, key=lambda term: singles[term].confidence)
        assert hit.explanation.term == least
        assert hit.explanation.keywords == singles[least].explanation.keywords
    assert {hit.image_id for hit in hits} == {
        name for name, hit in alone(engine, "cat AND rocket").items() if hit.confidence >= 0.8
    }


def test_bad_questions(engine):
    for query in ("AND", "NOT cat", "0:cat", "cat AND"):
        with pytest.raises(BadInputError):
            engine.search(query)
        with pytest.raises(BadInputError):
            engine.unknown_words(query)
    with pytest.raises(BadInputError, match="k must be at least 1"):
        engine.search("cat AND rocket", k=0)


def test_words_alone_take_the_way_of_one_vector(engine):
    """Bit for bit what the ranking and the store give for the text as it is."""
    vectors = engine.encoder.encode_texts(["salt and pepper", " t-shirt "])
    extras = {"whole": engine.index.images.whole(), "quality": engine.index.images.quality()}
    found = best_owners(
        engine.index.regions, engine.index.images.offsets(), vectors, 4,
        scorer=MeaningAndQuality(), rule=image_rule("soft"), extras=extras,
    )  # fmt: skip
    expected = image_hits(engine.index.images, found, engine.root, 2)
    assert engine.search_all(["salt and pepper", " t-shirt "], k=4, regions=2) == expected
