"""How sure a hit is: every number of the evidence against a plain loop, and the promise against its json."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from felga.search import confidence as c
from felga.search.owners import best_owners
from felga.search.rules import BestAndWhole
from felga.search.scoring import MeaningAndQuality
from tests.search.reference import Loop

DIM, WORDS, IMAGES = 12, 40, 30


def unit(rng, n):
    vectors = rng.normal(size=(n, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Made:
    """A small index: images of 1 to 4 regions, the first of most being the whole image."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        sizes = rng.integers(1, 5, IMAGES)
        self.offsets = np.concatenate([[0], np.cumsum(sizes)])
        self.regions = unit(rng, self.offsets[-1])
        self.whole = np.zeros(len(self.regions), bool)
        self.whole[self.offsets[:-1][rng.random(IMAGES) < 0.8]] = True
        self.quality = np.where(rng.random(len(self.regions)) < 0.2, np.nan, rng.random(len(self.regions)))
        self.extras = {"whole": self.whole, "quality": self.quality.astype(np.float32)}
        self.bank, self.query = unit(rng, WORDS), unit(rng, 1)[0]
        self.background = c.Background(self.bank, self.regions, self.offsets, self.extras, IMAGES)

    def rows(self, image):
        return range(self.offsets[image], self.offsets[image + 1])

    def region_score(self, word, row):
        quality = self.extras["quality"][row]
        bonus = 0.0 if math.isnan(quality) else 0.1 * math.log(quality)
        return float(self.regions[row] @ word) + bonus

    def image_score(self, word, image):
        best = max(self.region_score(word, row) for row in self.rows(image))
        for row in self.rows(image):
            if self.whole[row]:
                return (best + 0.5 * float(self.regions[row] @ word)) / 1.5
        return best

    def of(self, image):
        rows = slice(*self.offsets[[image, image + 1]])
        return self.regions[rows], {name: column[rows] for name, column in self.extras.items()}


@pytest.mark.parametrize("seed", range(4))
def test_the_evidence_is_that_of_a_plain_loop(seed):
    made = Made(seed)
    image = seed * 7 % IMAGES
    found = made.background.query(made.query).evidence(*made.of(image))

    def moments(word):
        scores = [made.image_score(word, one) for one in range(IMAGES)]
        return np.mean(scores), np.std(scores), max(scores)

    def standard(word, row):
        cosines = made.regions @ word
        return (float(made.regions[row] @ word) - cosines.mean()) / cosines.std()

    words = [moments(word) for word in made.bank]
    own = moments(made.query)
    score = made.image_score(made.query, image)
    assert found.level == pytest.approx(
        (score - np.mean([best for *_, best in words])) / np.std([best for *_, best in words]), abs=1e-3
    )
    for name, at in (("mean", 0), ("spread", 1)):
        of_words = [word[at] for word in words]
        expected = (own[at] - np.mean(of_words)) / np.std(of_words)
        assert getattr(found, name) == pytest.approx(expected, abs=1e-3)

    likeness = [float(word @ made.query) for word in made.bank]
    rivals = [at for at in range(WORDS) if likeness[at] <= c.SYNONYM]
    best = max(made.rows(image), key=lambda row: made.region_score(made.query, row))
    whole = next((row for row in made.rows(image) if made.whole[row]), best)
    odds = [math.exp(2 * standard(made.bank[at], whole)) for at in rivals]
    mine = math.exp(2 * standard(made.query, whole))
    assert found.whole == pytest.approx(math.log(mine / (mine + sum(odds))), abs=1e-3)

    near = sorted(rivals, key=lambda at: -likeness[at])[: c.NEAREST]
    rival = np.mean([standard(made.bank[at], best) for at in near])
    assert found.region == pytest.approx(standard(made.query, best) - rival, abs=1e-3)
    rival = np.mean([(made.image_score(made.bank[at], image) - words[at][0]) / words[at][1] for at in near])
    assert found.image == pytest.approx((score - own[0]) / own[1] - rival, abs=1e-3)


def test_the_standing_of_an_image_is_that_of_a_plain_loop():
    made = Made(2)
    scores = [made.image_score(made.query, one) for one in range(IMAGES)]
    query = made.background.query(made.query)
    for image in range(0, IMAGES, 7):
        expected = (scores[image] - np.mean(scores)) / np.std(scores)
        assert query.standing(*made.of(image)) == pytest.approx(expected, abs=1e-3)


def test_image_scores_are_those_of_the_search():
    made = Made(1)

    (owners,) = best_owners(
        Loop(made.regions), made.offsets, made.query[None], IMAGES,
        scorer=MeaningAndQuality(), rule=BestAndWhole(), extras=made.extras,
    )  # fmt: skip
    scores = c.image_scores((made.regions @ made.query)[None], made.offsets, made.extras)[0]
    for owner in owners:
        assert scores[owner.position] == pytest.approx(owner.score, abs=1e-6)


def test_synonyms_are_no_rivals():
    made = Made(2)
    made.bank[3] = made.query
    query = c.Background(made.bank, made.regions, made.offsets, made.extras, IMAGES).query(made.query)
    assert not query.rivals[3]
    assert 3 not in query.better_words(made.regions[0], WORDS)


def test_the_same_image_says_less_among_more_images():
    made = Made(3)
    more = c.Background(made.bank, made.regions, made.offsets, made.extras, 100 * IMAGES)
    image = made.of(5)
    few, many = (back.query(made.query).evidence(*image) for back in (made.background, more))
    assert many.level < few.level
    assert many[1:] == few[1:]


def test_at_most_so_many_images_are_sampled_and_only_those_with_regions():
    offsets = np.array([0, 2, 2, 5, 6, 6, 9])
    assert c.sampled(offsets).tolist() == [0, 2, 3, 5]
    assert c.sampled(offsets, 2).tolist() == [0, 5]


def test_one_image_is_enough_and_nothing_is_nan():
    made = Made(4)
    regions, extras = made.of(0)
    query = c.Background(made.bank, regions, np.array([0, len(regions)]), extras, 1).query(made.query)
    assert np.isfinite(query.evidence(regions, extras)).all()


def test_a_share_falls_with_the_sum_and_meets_the_tail():
    tail = [(3.0, 0.01), (2.0, 0.05), (1.0, 0.5)]
    assert [c.share_reaching(total, tail) for total, _ in tail] == pytest.approx([0.01, 0.05, 0.5])
    shares = [c.share_reaching(total, tail) for total in np.linspace(-1, 20, 200)]
    assert all(a >= b for a, b in pairwise(shares))
    assert shares[0] == 1
    assert shares[-1] == pytest.approx(c.RAREST)
    assert c.share_reaching(-np.inf, tail) == 1


def test_weights_and_tail_are_the_measured_ones():
    path = Path(__file__).parents[2] / "bench" / "results" / "confidence.json"
    measured = json.loads(path.read_text())
    assert c.WEIGHTS.tolist() == measured["weights"]
    assert [list(entry) for entry in c.TAIL] == measured["tail"]
    promised = next(row for row in measured["train2017"]["levels"] if row["confidence"] == c.SURE)
    assert promised["false_alarms"] < 5.5
