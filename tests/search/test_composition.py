"""Several queries at once, against a plain loop over every region of every image."""

from __future__ import annotations

import math

import numpy as np
import pytest

from felga.search.composition import Composition
from felga.search.scoring import InnerProduct, MeaningAndQuality
from tests.search.test_owners import Loop, build, unit

DIM = 16


class Made:
    """Images with none to nine regions; the first of some is the whole image."""

    def __init__(self, seed, images=60):
        rng = np.random.default_rng(seed)
        counts = rng.integers(0, 10, images)
        self.offsets = np.cumsum([0, *counts])
        self.vectors = unit(rng, self.offsets[-1], DIM)
        self.quality = rng.uniform(0.1, 1, len(self.vectors)).astype(np.float32)
        self.whole = np.zeros(len(self.vectors), bool)
        self.whole[self.offsets[:-1][(counts > 0) & (rng.random(images) < 0.8)]] = True
        self.queries = unit(rng, 3, DIM)
        self.weights = [1.0, 2.5, 0.5]

    def compose(self, searcher=None, **options):
        how = {"scorer": MeaningAndQuality(), "w": 0.5} | options
        extras = {"quality": self.quality, "whole": self.whole}
        return Composition(
            searcher or Loop(self.vectors), self.offsets, self.queries, self.weights, extras=extras, **how
        )


def loop(made, *, gamma=0.1, w=0.5, whole=True, same_region=False):
    """The score of each image, one region at a time; None without any."""
    scores = []
    for start, stop in zip(made.offsets[:-1], made.offsets[1:], strict=True):
        values = []  # of each region for each query, were it the best one
        for row in range(start, stop):
            if made.whole[row] and (same_region or not whole):
                continue
            own = []
            for query in made.queries:
                score = float(made.vectors[row] @ query) + gamma * math.log(made.quality[row])
                if made.whole[start] and whole:
                    score = (score + w * float(made.vectors[start] @ query)) / (1 + w)
                own.append(score)
            values.append(own)
        if not values:
            scores.append(None)
        elif same_region:
            scores.append(max(np.average(own, weights=made.weights) for own in values))
        else:
            best = [max(own[q] for own in values) for q in range(len(made.queries))]
            scores.append(np.average(best, weights=made.weights))
    return scores


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("same_region", [True, False])
@pytest.mark.parametrize("w", [0.5, 0.0])
@pytest.mark.parametrize("gamma", [0.1, 0.0])
def test_scores_and_order_are_those_of_a_loop(monkeypatch, seed, whole, same_region, w, gamma):
    monkeypatch.setattr("felga.search.composition.BLOCK", 40)
    made = Made(seed)
    scorer = MeaningAndQuality() if gamma else InnerProduct()
    found = made.compose(scorer=scorer, w=w, whole=whole, same_region=same_region)
    expected = loop(made, gamma=gamma, w=w, whole=whole, same_region=same_region)
    ranking = list(found.ranking())
    order = sorted((at for at, one in enumerate(expected) if one is not None), key=lambda at: -expected[at])
    assert ranking == order
    for at in ranking:
        assert found.scores[at] == pytest.approx(expected[at], abs=1e-6)


def test_blocks_and_files_change_nothing(tmp_path, monkeypatch):
    made = Made(7)
    whole = made.compose()
    monkeypatch.setattr("felga.search.composition.BLOCK", 11)
    in_blocks = made.compose(build(tmp_path, made.vectors, 25))
    np.testing.assert_array_equal(whole.scores, in_blocks.scores)


@pytest.mark.parametrize("same_region", [True, False])
def test_each_query_has_its_witness(same_region):
    made = Made(5)
    found = made.compose(same_region=same_region)
    for at in found.ranking():
        owners = found.witnesses(at)
        rows = range(*made.offsets[[at, at + 1]])
        score = [
            [
                made.vectors[row] @ query + 0.1 * np.log(made.quality[row])
                - 99 * (same_region and made.whole[row])
                for row in rows
            ]
            for query in made.queries
        ]  # fmt: skip
        joint = int(np.average(score, axis=0, weights=made.weights).argmax())
        for owner, own in zip(owners, score, strict=True):
            assert owner.position == at
            assert owner.score == found.scores[at]
            assert owner.best == (joint if same_region else int(np.argmax(own)))
            assert owner.scores[owner.best] == pytest.approx(own[owner.best], abs=1e-6)
            assert (owner.scores > -np.inf).sum() == (1 if same_region else len(rows))


def test_one_box_never_scores_more_than_one_for_each():
    made = Made(6)
    several, one = made.compose(), made.compose(same_region=True)
    assert (one.scores <= several.scores).all()


def test_equal_images_are_in_order_wherever_they_lie():
    made = Made(8, 1)
    vectors = unit(np.random.default_rng(0), 4, DIM)
    made.vectors = np.concatenate([vectors] * 50)
    made.offsets = np.arange(0, 201, 4)
    made.quality, made.whole = np.ones(200, np.float32), np.tile([True, False, False, False], 50)
    for same_region in (True, False):
        assert list(made.compose(same_region=same_region).ranking()) == list(range(50))


def test_nothing_to_search():
    made = Made(9, 0)
    assert list(made.compose().ranking()) == []
