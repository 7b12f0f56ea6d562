"""The caption-only score against plain loops and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from felga.errors import DivergedError
from felga.fenet.forecast import forecast
from felga.fenet.validation import COMMONEST, RAREST, Validation
from felga.types import Frozen

from .pairs import make_pairs, unit


class Turned:
    """Not linear, so that regions and keywords are moved differently."""

    def __init__(self, factor=1.0):
        self.turn = np.linalg.qr(np.random.default_rng(1).normal(size=(16, 16)))[0].astype(np.float32)
        self.factor = np.float32(factor)

    def regions(self, vectors, features):
        return self.factor * unit(vectors @ self.turn + np.abs(vectors))

    def keywords(self, vectors):
        return self.factor * unit(vectors @ self.turn + 0.5 * np.abs(vectors))


@pytest.mark.parametrize("every", [1, 2])
def test_score_equals_plain_loops(every):
    metrics = pytest.importorskip("sklearn.metrics")
    features = make_pairs(40, seed=7)
    pairs = np.arange(5, 35)
    v = [features.regions[slice(*features.region_offsets[p : p + 2])] for p in pairs]
    ids = [features.keyword_ids[slice(*features.keyword_offsets[p : p + 2])] for p in pairs]
    has = np.array([[u in i for i in ids] for u in range(len(features.keywords))])
    asked = [u for u in range(len(has)) if RAREST <= has[u].mean() <= COMMONEST][::every]
    discovery, assignment, turned = [], [], Turned()
    words = turned.keywords(features.keywords)
    for u in asked:
        scores = [(turned.regions(x, None) @ words[u]).max() for x in v]
        discovery.append(metrics.average_precision_score(has[u], scores))
        for p in np.flatnonzero(has[u]):
            for query in turned.regions(v[p], None):
                each = words @ query  # one product for all: a keyword that two texts share gives one score
                texts = [each[i].max() for i in ids]
                assignment.append(metrics.average_precision_score(has[u], texts))
    judge = Validation(features.take(pairs))
    got = judge.score(turned, None if every == 1 else judge.queries[::every])
    assert got.discovery == pytest.approx(np.mean(discovery), abs=1e-4)
    assert got.assignment == pytest.approx(np.mean(assignment), abs=1e-4)


def test_without_a_query_there_is_no_score():
    features = make_pairs(12, words=4)  # each word is in more than half of the texts, or all are
    everywhere = np.tile(np.arange(4), len(features))
    features = type(features)(
        features.regions, features.region_offsets, features.keywords, everywhere, np.arange(13) * 4
    )
    assert np.isnan(Validation(features).score(Frozen()).mean)
    assert np.isnan(Validation(features.take(np.array([], int))).score(Frozen()).mean)


@pytest.mark.parametrize("factor", [0.0, 1e30, float("nan")])
def test_a_network_that_embeds_nonsense_has_diverged(factor):
    judge = Validation(make_pairs(40, seed=7))
    with pytest.raises(DivergedError, match="output is unusable.*lower rate"):
        judge.score(Turned(factor))


def test_a_forecast_compares_the_embedding_with_a_quick_fit():
    features = make_pairs(300, seed=1, seen=20)
    now, trained = forecast(features)
    assert now.mean + 0.05 < trained.mean
    turned, again = forecast(features, Turned())
    assert turned != now
    assert again == trained
