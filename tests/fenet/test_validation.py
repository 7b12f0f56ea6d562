"""The caption-only score against plain loops and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from felga.errors import DivergedError
from felga.fenet.validation import COMMONEST, RAREST, Validation

from .pairs import make_pairs


def test_score_equals_plain_loops():
    metrics = pytest.importorskip("sklearn.metrics")
    features = make_pairs(40, seed=7)
    pairs = np.arange(5, 35)
    v = [features.regions[slice(*features.region_offsets[p : p + 2])] for p in pairs]
    ids = [features.keyword_ids[slice(*features.keyword_offsets[p : p + 2])] for p in pairs]
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(16, 16)))[0].astype(np.float32)

    def embed(x):  # not linear, so that regions and keywords are moved differently
        moved = x @ turn + np.abs(x)
        return moved / np.linalg.norm(moved, axis=1, keepdims=True)

    discovery, assignment = [], []
    for u, word in enumerate(features.keywords):
        has = np.array([u in i for i in ids])
        if not RAREST <= has.mean() <= COMMONEST:
            continue
        scores = [(embed(x) @ embed(word[None])[0]).max() for x in v]
        discovery.append(metrics.average_precision_score(has, scores))
        for p in np.flatnonzero(has):
            query = embed(v[p][(v[p] @ word).argmax()][None])[0]
            # one product for all, so that a keyword that two texts share gives one score
            every = embed(features.keywords) @ query
            texts = [every[i].max() for i in ids]
            assignment.append(metrics.average_precision_score(has, texts))
    got = Validation(features.table(pairs)).score(lambda x: torch.from_numpy(embed(x.numpy())))
    assert got.discovery == pytest.approx(np.mean(discovery), abs=1e-4)
    assert got.assignment == pytest.approx(np.mean(assignment), abs=1e-4)


def test_without_a_query_there_is_no_score():
    features = make_pairs(12, words=4)  # each word is in more than half of the texts, or all are
    everywhere = np.tile(np.arange(4), len(features))
    features = type(features)(
        features.regions, features.region_offsets, features.keywords, everywhere, np.arange(13) * 4
    )
    score = Validation(features.table(features.usable)).score(lambda x: x)
    assert np.isnan(score.mean)


@pytest.mark.parametrize("factor", [0.0, 1e30, float("nan")])
def test_a_network_that_embeds_nonsense_has_diverged(factor):
    features = make_pairs(40, seed=7)
    judge = Validation(features.table(features.usable))
    with pytest.raises(DivergedError, match="output is unusable.*lower rate"):
        judge.score(lambda x: x * factor)
