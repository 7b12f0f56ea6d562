"""The closed form against scikit-learn's ridge regression, image by image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from felga.errors import BadInputError
from felga.fenet import closed_form
from felga.fenet.closed_form import ALONE, FLOOR, RIDGE, TEXT_RIDGE, WIDTH, fit

from .pairs import make_pairs, unit, with_empty_pairs

FEATURES = make_pairs(50, seed=2, seen=10)


def standardised(features, pairs):
    """Standardised features, pair and weight of all regions: half to the whole image, half to the rest."""
    rows, owner, weight = [], [], []
    for number, pair in enumerate(pairs):
        span = range(*features.region_offsets[pair : pair + 2])
        for row in span:
            rows.append(features.region_features[row].astype(float))
            owner.append(number)
            parts = len(span) - 1
            weight.append((0.5 if parts else 1.0) if features.whole[row] else 0.5 / parts)
    x, w = np.array(rows), np.array(weight)
    mean = np.average(x, 0, w)
    scale = np.sqrt(np.average((x - mean) ** 2, 0, w))
    return (x - mean) / scale, np.array(owner), w


def test_the_ridge_is_that_of_scikit_learn():
    Ridge = pytest.importorskip("sklearn.linear_model").Ridge
    KernelRidge = pytest.importorskip("sklearn.kernel_ridge").KernelRidge
    pairs = FEATURES.usable
    x, owner, weight = standardised(FEATURES, pairs)
    has = np.zeros((len(pairs), len(FEATURES.keywords)))
    for i, pair in enumerate(pairs):
        has[i, FEATURES.keyword_ids[slice(*FEATURES.keyword_offsets[pair : pair + 2])]] = 1
    texts = has.sum(0)
    assert (texts >= 3).all()
    answers = ((has - has.mean(0)) / np.sqrt(texts))[owner]
    covariance = (x * weight[:, None]).T @ x / len(pairs)
    first = Ridge(alpha=RIDGE * np.trace(covariance) / 10 * len(pairs), fit_intercept=False)
    by_feature = first.fit(x, answers, sample_weight=weight).coef_.T  # (f, u)
    named = FEATURES.keywords - FEATURES.keywords.astype(float).mean(0)
    named /= np.linalg.norm(named, axis=1, keepdims=True)
    found = fit(FEATURES)
    # all directions are kept here: the product of both sides is kernel ridge regression, up to lengths
    kernel = np.exp((named @ named.T - 1) / WIDTH)
    values = np.linalg.eigvalsh(kernel)
    second = KernelRidge(alpha=TEXT_RIDGE * values[values > FLOOR * values[-1]].mean(), kernel="precomputed")
    expected = x @ second.fit(kernel, by_feature.T).predict(kernel).T  # (n, u)
    scores = (x @ found.ridge) @ (kernel @ found.text_map).T
    assert np.allclose(scores, expected, atol=1e-3 * np.abs(expected).max())
    ridge = found.ridge_embeddings(FEATURES.regions, FEATURES.region_features)
    assert np.allclose(ridge, unit(x @ found.ridge), atol=1e-3)
    base = unit(FEATURES.regions - FEATURES.regions.mean(0))
    both = found.regions(FEATURES.regions, FEATURES.region_features)
    words = found.keywords(FEATURES.keywords)
    assert np.allclose(np.linalg.norm(both, axis=1), 1, atol=1e-5)
    assert np.allclose(np.linalg.norm(words, axis=1), 1, atol=1e-5)
    parts = base @ named.T, ridge @ unit(kernel @ found.text_map).T
    assert np.allclose(both @ words.T, (parts[0] + ALONE * parts[1]) / (1 + ALONE), atol=1e-3)


def test_few_directions_are_those_in_which_regions_differ_most(monkeypatch):
    whole = fit(FEATURES)
    monkeypatch.setattr(closed_form, "DIRECTIONS", 2)
    few = fit(FEATURES)
    x, _, weight = standardised(FEATURES, FEATURES.usable)
    _, _, axes = np.linalg.svd(x @ whole.ridge * np.sqrt(weight)[:, None], full_matrices=False)
    expected = x @ whole.ridge @ axes[:2].T
    assert np.allclose(np.abs(x @ few.ridge), np.abs(expected), atol=1e-3 * np.abs(expected).max())
    assert few.text_map.shape == (len(FEATURES.keywords), 2)


def test_the_components_are_the_principal_ones(monkeypatch):
    monkeypatch.setattr(closed_form, "COMPONENTS", 4)
    x, _, weight = standardised(FEATURES, FEATURES.usable)
    _, values, axes = np.linalg.svd(x * np.sqrt(weight)[:, None], full_matrices=False)
    expected = x @ axes[:4].T / np.sqrt((values[:4] ** 2).sum() / weight.sum())
    found = fit(FEATURES).inputs(FEATURES.regions, FEATURES.region_features)[:, 16:]
    assert np.allclose(np.abs(found), np.abs(expected), atol=1e-3)  # an axis has no sign
    assert np.average((found**2).sum(1), weights=weight) == pytest.approx(1, rel=1e-3)


def test_inputs_begin_with_the_centred_vector():
    found = fit(FEATURES).inputs(FEATURES.regions, FEATURES.region_features)[:, :16]
    assert np.allclose(found, unit(FEATURES.regions - FEATURES.regions.mean(0)), atol=1e-5)


def test_the_size_of_a_block_and_pairs_without_fragments_change_nothing(monkeypatch):
    expected = fit(FEATURES)
    monkeypatch.setattr(closed_form, "BLOCK", 7)
    more = with_empty_pairs(FEATURES)
    for features in (FEATURES, more):
        found = fit(features)
        product = found.ridge @ found.text_map.T  # directions of little difference may turn
        wanted = expected.ridge @ expected.text_map.T
        assert np.allclose(product, wanted, atol=1e-3 * np.abs(wanted).max())
        for name, array in found.arrays().items():
            if name in ("ridge", "text_map"):
                continue
            close = np.allclose(np.abs(array), np.abs(expected.arrays()[name]), rtol=1e-2, atol=1e-4)
            assert close, name
    embedded = fit(more).regions(FEATURES.regions, FEATURES.region_features)
    assert np.allclose(embedded, expected.regions(FEATURES.regions, FEATURES.region_features), atol=1e-4)


def test_a_keyword_of_few_texts_is_not_predicted():
    rare = FEATURES.without(np.arange(1, 12))  # keyword 0 alone
    with pytest.raises(BadInputError, match="1 distinct keywords.*at least 2"):
        fit(rare)
    few = FEATURES.without(np.arange(3, 12))
    ids = np.append(few.keyword_ids, 11)  # and a keyword of one text
    offsets = few.keyword_offsets.copy()
    offsets[-1] += 1
    once = replace(few, keyword_ids=ids, keyword_offsets=offsets)
    assert np.allclose(fit(once).keyword_mean, FEATURES.keywords[:3].mean(0), atol=1e-6)
