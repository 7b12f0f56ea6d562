"""Soft owner scores and quality, in a search and in tiles, against plain loops."""

from __future__ import annotations

from itertools import pairwise
from math import exp, isnan, log

import numpy as np
import pytest

from felga.errors import BadInputError
from felga.search import matrix
from felga.search.matrix import owner_metrics, owner_scores
from felga.search.owners import best_owners
from felga.search.rules import BestAndWhole, BestFragment, SoftAndWhole, SoftMean
from felga.search.scoring import MeaningAndQuality

from . import reference
from .test_owners import Loop, build, unit


def made(seed, owners=60, most=9):
    """Ragged owners, some without fragments; of most, one is the whole; some qualities are unknown."""
    g = np.random.default_rng(seed)
    offsets = np.cumsum([0, *g.integers(0, most, owners)])
    n = offsets[-1]
    whole = np.zeros(n, bool)
    for start, stop in pairwise(offsets):
        if stop > start and g.random() < 0.8:
            whole[g.integers(start, stop)] = True
    quality = g.random(n).astype(np.float32) * 0.99 + 0.01
    quality[g.random(n) < 0.2] = np.nan
    return offsets, unit(g, n), whole, quality, unit(g, 5)


def region_score(cosine, u, gamma):
    return cosine if isnan(u) else cosine + gamma * log(u)


def soft_text(cosines):
    return 0.1 * log(sum(exp(c / 0.1) for c in cosines) / len(cosines)) if cosines else float("-inf")


def whole_text(cosines, whole):
    keywords = [cosine for cosine, flag in zip(cosines, whole, strict=True) if not flag]
    wholes = [cosine for cosine, flag in zip(cosines, whole, strict=True) if flag]
    soft = soft_text(keywords or wholes)
    return (soft + 0.5 * wholes[0]) / 1.5 if wholes else soft


def soft_image(scores, cosines, whole):
    if not scores:
        return float("-inf")
    wholes = [cosine for cosine, flag in zip(cosines, whole, strict=True) if flag]
    return (max(scores) + 0.5 * wholes[0]) / 1.5 if wholes else max(scores)


def expected(kind, offsets, vectors, whole, quality, query, allowed, gamma):
    """The score of every owner by loops."""
    out = []
    for start, stop in pairwise(offsets):
        rows = [row for row in range(start, stop) if allowed is None or allowed[row]]
        cosines = [float(np.dot(np.float64(vectors[row]), np.float64(query))) for row in rows]
        scores = [region_score(c, float(quality[row]), gamma) for c, row in zip(cosines, rows, strict=True)]
        if kind == "text":
            out.append(soft_text(cosines))
        elif kind == "text and whole":
            out.append(whole_text(cosines, [whole[row] for row in rows]))
        elif kind == "image":
            out.append(soft_image(scores, cosines, [whole[row] for row in rows]))
        else:
            out.append(max(scores, default=float("-inf")))
    return np.array(out)


RULES = {
    "text": SoftMean(),
    "text and whole": SoftAndWhole(),
    "image": BestAndWhole(),
    "max": BestFragment(),
}


def scored_by(kind, quality):
    """A text's keywords score their cosine."""
    return {} if "text" in kind else {"scorer": MeaningAndQuality(0.3), "extras": {"quality": quality}}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k", [1, 4, 1000])
@pytest.mark.parametrize("kind", RULES)
def test_the_best_owners_are_exact_by_every_rule(tmp_path, seed, k, kind):
    offsets, vectors, whole, quality, queries = made(seed)
    parts = np.random.default_rng(seed).random(len(vectors)) < 0.6
    for searcher in (Loop(vectors), build(tmp_path, vectors, 60)):
        for allowed in (None, parts, ~whole):
            ranked = best_owners(
                searcher, offsets, queries, k, allowed,
                scorer=scored_by(kind, quality).get("scorer"), rule=RULES[kind],
                extras={"whole": whole, "quality": quality},
            )  # fmt: skip
            for query, owners in zip(queries, ranked, strict=True):
                wanted = expected(kind, offsets, vectors, whole, quality, query, allowed, 0.3)
                order = [at for at in np.argsort(-wanted, kind="stable") if wanted[at] > -np.inf][:k]
                assert [owner.position for owner in owners] == order
                np.testing.assert_allclose([owner.score for owner in owners], wanted[order], atol=3e-6)


@pytest.mark.parametrize("tile", [2, 128])
@pytest.mark.parametrize("kind", RULES)
def test_tiles_score_owners_as_loops_do(monkeypatch, tile, kind):
    monkeypatch.setattr(matrix, "TILE", tile)
    offsets, vectors, whole, quality, queries = made(7)
    scored = scored_by(kind, quality)
    how = {"rule": RULES[kind], "whole": whole}
    found = owner_scores(queries, vectors, np.arange(len(vectors)), offsets, **scored, **how)
    for query, row in zip(queries, found, strict=True):
        wanted = expected(kind, offsets, vectors, whole, quality, query, None, 0.3)
        np.testing.assert_allclose(row, wanted, atol=3e-6)
    relevant = np.random.default_rng(1).random((2, len(offsets) - 1)) < 0.3
    classes = np.array([0, 1, 0, 1, 0])
    measured = owner_metrics(
        queries, vectors, np.arange(len(vectors)), offsets, classes, relevant, **scored, **how
    )
    for row, kind_of, value in zip(found, classes, measured.average_precision, strict=True):
        assert value == pytest.approx(reference.grouped_precision(row, relevant[kind_of]), abs=1e-12)


def test_texts_of_the_same_words_tie_to_the_bit_in_whatever_order():
    g = np.random.default_rng(3)
    words, queries = unit(g, 9), unit(g, 4)
    drawn = [g.permutation(6) for _ in range(30)]
    offsets = np.arange(31) * 6
    ranked = best_owners(Loop(words[np.concatenate(drawn)]), offsets, queries, 30, rule=SoftMean())
    for owners in ranked:
        assert [owner.position for owner in owners] == list(range(30))
        assert len({owner.score for owner in owners}) == 1
    for row in owner_scores(queries, words, np.concatenate(drawn), offsets, rule=SoftMean()):
        assert len(set(row.tolist())) == 1


def test_equal_texts_tie_to_the_bit_with_their_whole_wherever_it_stands():
    g = np.random.default_rng(4)
    words, queries = unit(g, 9), unit(g, 4)
    drawn = [g.permutation(6) for _ in range(30)]
    places = [np.insert(rows, at % 7, 8) for at, rows in enumerate(drawn)]  # 8: the whole text
    offsets, rows = np.arange(31) * 7, np.concatenate(places)
    whole, rule = rows == 8, SoftAndWhole()
    ranked = best_owners(Loop(words[rows]), offsets, queries, 30, rule=rule, extras={"whole": whole})
    for owners in ranked:
        assert [owner.position for owner in owners] == list(range(30))
        assert len({owner.score for owner in owners}) == 1
    for row in owner_scores(queries, words, rows, offsets, rule=rule, whole=whole):
        assert len(set(row.tolist())) == 1


@pytest.mark.parametrize("rule", [BestAndWhole(w=2.0), SoftAndWhole(t=0.3, w=2.0)])
def test_a_score_never_falls_where_its_fragments_rise_and_stays_below_its_bound(rule):
    """What exactness rests on, for every owner and also where scores and products differ."""
    g = np.random.default_rng(5)
    offsets, vectors, whole, _, _ = made(5)
    extras = {"whole": whole}
    for _ in range(50):
        products = g.uniform(-1, 1, len(vectors)).astype(np.float32)
        scores = products - g.uniform(0, 0.5, len(vectors)).astype(np.float32)
        found = rule.score(scores, products, offsets, extras)
        risen = rule.score(scores + np.float32(0.01), products + np.float32(0.01), offsets, extras)
        filled = np.diff(offsets) > 0
        assert (risen[filled] > found[filled]).all()
        highest = [segment.max() for segment in np.split(scores, offsets[1:-1]) if len(segment)]
        nearest = [segment.max() for segment in np.split(products, offsets[1:-1]) if len(segment)]
        assert (found[filled] <= rule.bound(np.array(highest), np.array(nearest)) + 1e-6).all()


def test_what_the_sentence_says_counts_beside_its_words():
    """Both texts have the same keywords: only the whole tells them apart."""
    query = np.float32([[1, 0, 0]])
    vectors = np.float32([[0, 1, 0], [0.6, 0.8, 0], [0.8, 0.6, 0], [0.6, 0.8, 0]])
    whole = np.array([True, False, True, False])
    owners = best_owners(
        Loop(vectors), np.array([0, 2, 4]), query, 2, rule=SoftAndWhole(), extras={"whole": whole}
    )[0]
    assert [owner.position for owner in owners] == [1, 0]
    assert [owner.score for owner in owners] == pytest.approx([(0.6 + 0.4) / 1.5, 0.6 / 1.5])


def test_a_text_with_more_of_what_was_asked_for_comes_first_by_the_soft_score_alone():
    """Both texts have the best keyword; by the maximum they tie."""
    query = np.float32([[1, 0, 0]])
    vectors = np.float32([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0.8, 0.6, 0]])
    offsets = np.array([0, 2, 4])
    best = best_owners(Loop(vectors), offsets, query, 2)[0]
    assert best[0].score == best[1].score
    soft = best_owners(Loop(vectors), offsets, query, 2, rule=SoftMean())[0]
    assert [owner.position for owner in soft] == [1, 0]
    assert soft[0].score > soft[1].score


@pytest.mark.parametrize("rule", RULES.values())
def test_a_nan_is_refused(rule):
    vectors = unit(np.random.default_rng(0), 6)
    vectors[4, 2] = np.nan
    for whole in (np.zeros(6, bool), np.arange(6) == 4):
        with pytest.raises(BadInputError, match="score is NaN"):
            best_owners(
                Loop(vectors), np.array([0, 3, 6]), vectors[:1], 2, rule=rule, extras={"whole": whole}
            )


def test_quality_only_lowers_a_score_and_an_unknown_one_leaves_it():
    cosines = np.float32([0.5, 0.5, 0.5, 0.5])
    quality = np.float32([1.0, 0.5, np.nan, 1e-6])
    scores = MeaningAndQuality(0.05).score(cosines, {"quality": quality})
    np.testing.assert_allclose(scores, [0.5, 0.5 + 0.05 * log(0.5), 0.5, 0.5 + 0.05 * log(1e-6)], atol=1e-6)
    assert (scores <= MeaningAndQuality(0.05).bound(cosines)).all()


@pytest.mark.parametrize("rule", [BestAndWhole(), SoftAndWhole()])
def test_two_wholes_of_an_owner_are_refused(rule):
    vectors = unit(np.random.default_rng(0), 4)
    for whole in (np.array([True, True, False, False]), np.zeros(3, bool)):
        with pytest.raises(BadInputError, match="at most one of each owner"):
            owner_scores(vectors, vectors, np.arange(4), np.array([0, 2, 4]), rule=rule, whole=whole)
