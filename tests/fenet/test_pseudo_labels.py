"""Pseudo-labels against loops written from the paper's equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from felga.fenet import pseudo_labels as pl

from .pairs import make_pairs


@pytest.fixture
def batch():
    features = make_pairs(9, seed=3)
    return features.table(features.usable).batch(torch.tensor([4, 0, 7, 2, 5]))


def loop(batch, method):
    """Eq. 3, 4 and 6 pair by pair, on the real fragments only."""
    s = batch.frozen_similarity().double().numpy()
    out = np.zeros(s.shape, bool)
    for n in range(len(s)):
        rows = np.flatnonzero(batch.real_regions[n])
        columns = np.flatnonzero(batch.real_keywords[n])
        mean = np.mean([s[n, i, j] for i in rows for j in columns])  # Eq. 5
        for i in rows:
            for j in columns:
                if method == "dense":
                    out[n, i, j] = True
                elif method == "sparse":
                    out[n, i, j] = s[n, i, j] == max(s[n, a, j] for a in rows)
                else:
                    out[n, i, j] = s[n, i, j] >= mean - pl.ROUNDING
    return out


def test_within_pairs(batch):
    s, v, t = batch.frozen_similarity(), batch.real_regions, batch.real_keywords
    assert not v.all()  # the batch is ragged, or the test would test nothing
    assert not t.all()
    assert np.array_equal(pl.dense(v, t), loop(batch, "dense"))
    assert np.array_equal(pl.sparse(s, v, t), loop(batch, "sparse"))
    assert np.array_equal(pl.dynamic(s, v, t), loop(batch, "dynamic"))


def test_a_pad_affects_neither_mean_nor_maximum():
    s = torch.tensor([[[0.1, 0.2, 9.0], [0.3, -0.4, 9.0], [9.0, 9.0, 9.0]]])
    v, t = torch.tensor([[True, True, False]]), torch.tensor([[True, True, False]])
    assert pl.dynamic(s, v, t)[0].int().tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert pl.sparse(s, v, t)[0].int().tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]


def test_ties():
    s = torch.full((1, 3, 7), 0.1)
    everything = torch.ones(1, 3, dtype=torch.bool), torch.ones(1, 7, dtype=torch.bool)
    assert pl.sparse(s, *everything).all()  # every maximum is positive
    assert pl.dynamic(s, *everything).all()  # the rounding of the mean takes nobody out


def test_all_negative_similarities_still_have_a_best():
    s = -torch.rand(2, 3, 4)
    everything = torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 4, dtype=torch.bool)
    assert (pl.sparse(s, *everything).sum(1) == 1).all()
    assert pl.dynamic(s, *everything).any((1, 2)).all()


def test_global_labels():
    assert torch.equal(pl.global_labels(3), torch.eye(3).bool())


def test_local_labels_lie_on_the_pairs(batch):
    labels = pl.dynamic(batch.frozen_similarity(), batch.real_regions, batch.real_keywords)
    positive, negative = pl.local_labels(labels, batch.real_regions, batch.real_keywords)
    b, r, k = labels.shape
    for i in range(b * r):
        for j in range(b * k):
            real = bool(batch.real_regions[i // r, i % r] and batch.real_keywords[j // k, j % k])
            expected = i // r == j // k and bool(labels[i // r, i % r, j % k])
            assert bool(positive[i, j]) == expected
            assert bool(negative[i, j]) == (real and not expected)


def test_distinct_labels_follow_the_keyword(batch):
    labels = pl.dynamic(batch.frozen_similarity(), batch.real_regions, batch.real_keywords)
    same, owns, first = pl.same_keyword(batch.keyword_ids, batch.real_keywords)
    positive, negative = pl.distinct_labels(labels, batch.real_regions, same, first)
    b, r, k = labels.shape
    ids, real = batch.keyword_ids, batch.real_keywords
    places = [(n, j) for n in range(b) for j in range(k) if real[n, j]]
    assert len({int(ids[p]) for p in places}) < len(places)  # some keyword stands in two texts
    seen = set()
    for n, j in [(n, j) for n in range(b) for j in range(k)]:
        at, word = n * k + j, int(ids[n, j])
        counts = bool(real[n, j]) and word not in seen
        assert bool(first[at]) == counts
        if real[n, j]:
            seen.add(word)
            for m in range(b):
                assert bool(owns[m, at]) == any(int(ids[m, a]) == word and real[m, a] for a in range(k))
        for m in range(b):
            for i in range(r):
                expected = counts and any(
                    real[m, a] and int(ids[m, a]) == word and labels[m, i, a] for a in range(k)
                )
                assert bool(positive[m * r + i, at]) == expected
                region = bool(batch.real_regions[m, i])
                assert bool(negative[m * r + i, at]) == (region and counts and not expected)
