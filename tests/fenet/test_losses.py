"""Losses against loops written from Eq. 9-13, and their gradients against finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from felga.fenet import losses, model, step
from felga.fenet.recipes import TRAINED, make_recipe

from .pairs import make_pairs


def lifted_loop(s, positive, negative, margin, t):
    """Eq. 10 as losses.py reads it: mean over row anchors plus mean over column anchors."""
    total = 0.0
    for scores, pos, neg in ((s, positive, negative), (s.T, positive.T, negative.T)):
        anchors = []
        for i in range(len(scores)):
            pull = sum(math.exp((margin - scores[i, j]) / t) for j in range(len(scores[i])) if pos[i, j])
            push = sum(math.exp(scores[i, j] / t) for j in range(len(scores[i])) if neg[i, j])
            if pull and push:
                anchors.append(math.log(pull) + math.log(push))
        total += sum(anchors) / max(len(anchors), 1)
    return total


def masks(rng, n, m):
    kind = rng.integers(0, 3, (n, m))  # positive, negative, neither
    kind[0], kind[:, 1] = 0, 1  # an anchor without negatives, one without positives
    return torch.from_numpy(kind == 0), torch.from_numpy(kind == 1)


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_lifted_structure(temperature):
    rng = np.random.default_rng(0)
    s = torch.from_numpy(rng.uniform(-1, 1, (6, 5)))
    positive, negative = masks(rng, 6, 5)
    got = losses.lifted_structure(s, positive, negative, margin=0.5, temperature=temperature)
    expected = lifted_loop(s.numpy(), positive.numpy(), negative.numpy(), 0.5, temperature)
    assert float(got) == pytest.approx(expected, rel=1e-12)


def test_contrast():
    rng = np.random.default_rng(6)
    s = rng.uniform(-1, 1, (6, 5))
    positive, negative = masks(rng, 6, 5)
    expected = 0.0
    for scores, pos, neg in ((s, positive, negative), (s.T, positive.T, negative.T)):
        anchors = []
        for i in range(len(scores)):
            push = sum(math.exp(scores[i, j] / 0.2) for j in range(len(scores[i])) if neg[i, j])
            pulls = [math.exp((0.1 - scores[i, j]) / 0.2) for j in range(len(scores[i])) if pos[i, j]]
            if push and pulls:
                anchors.append(sum(math.log(1 + pull * push) for pull in pulls) / len(pulls))
        expected += sum(anchors) / len(anchors)
    got = losses.contrast(torch.from_numpy(s), positive, negative, margin=0.1, temperature=0.2)
    assert float(got) == pytest.approx(expected, rel=1e-12)


def test_a_margin_is_a_constant():
    rng = np.random.default_rng(1)
    s = torch.from_numpy(rng.uniform(-1, 1, (6, 5))).requires_grad_()
    labels = masks(rng, 6, 5)
    grads = [
        torch.autograd.grad(losses.lifted_structure(s, *labels, margin=m, temperature=0.1), s)[0]
        for m in (0.0, 0.5)
    ]
    assert torch.allclose(*grads, atol=1e-12)


def test_gradients():
    rng = np.random.default_rng(2)
    s = torch.from_numpy(rng.uniform(-1, 1, (8, 6))).requires_grad_()
    positive, negative = masks(rng, 8, 6)
    v = torch.tensor([[True, True, True, False], [True, True, False, False]])
    k = torch.tensor([[True, True, True], [True, True, False]])
    eye = torch.eye(2).bool()

    def local(x):
        return losses.lifted_structure(x, positive, negative, margin=0.5, temperature=0.3)

    def across(x):
        return losses.lifted_structure(losses.global_similarity(x, v, k), eye, ~eye, margin=0.5)

    def each(x):
        return losses.contrast(x, positive, negative, margin=0.1, temperature=0.3)

    def owner(x):
        best = losses.owner_similarity(x, v)
        return losses.contrast(best, best > 0, best <= 0, margin=0.1, temperature=0.3)

    for function in (local, across, each, owner):
        assert torch.autograd.gradcheck(function, (s,))


@pytest.mark.parametrize("form", losses.FORMS)
@pytest.mark.parametrize("kind", ["positives", "negatives", "both"])
def test_nothing_to_learn_is_zero_with_a_graph(kind, form):
    s = torch.randn(4, 4, requires_grad=True)
    none, everything = torch.zeros(4, 4).bool(), torch.ones(4, 4).bool()
    positive = none if kind in ("positives", "both") else everything
    negative = none if kind in ("negatives", "both") else everything
    loss = losses.FORMS[form](s, positive, negative, margin=0.5, temperature=0.1)
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.equal(s.grad, torch.zeros(4, 4))


def test_global_similarity_ignores_pads():
    rng = np.random.default_rng(3)
    v = torch.tensor([[True, True, False], [True, False, False], [True, True, True]])
    k = torch.tensor([[True, False], [True, True], [True, True]])
    s = torch.from_numpy(-rng.random((9, 6)))  # all negative: a zero pad would win
    real = v.flatten()[:, None] & k.flatten()
    got = losses.global_similarity(s.masked_fill(~real, 0.0), v, k)
    for n in range(3):
        for m in range(3):
            expected = max(
                float(s[n * 3 + i, m * 2 + j]) for i in range(3) for j in range(2) if v[n, i] and k[m, j]
            )
            assert float(got[n, m]) == expected


def test_global_similarity_of_nothing():
    v, k = torch.tensor([[False], [True]]), torch.tensor([[True], [True]])
    got = losses.global_similarity(torch.zeros(2, 2), v, k)
    assert got.tolist() == [[-math.inf, -math.inf], [0.0, 0.0]]


def test_owner_similarity():
    rng = np.random.default_rng(4)
    v = torch.tensor([[True, True, False], [True, False, False], [True, True, True]])
    s = torch.from_numpy(rng.uniform(-1, 0, (9, 6)))
    got = losses.owner_similarity(s.masked_fill(~v.flatten()[:, None], 0.0), v)
    for n in range(3):
        for j in range(6):
            assert float(got[n, j]) == max(float(s[n * 3 + i, j]) for i in range(3) if v[n, i])


def test_the_total_is_equation_13():
    parts = torch.tensor([2.0, 3.0])
    assert losses.total(parts[0], parts[1], 0.2).item() == pytest.approx(2.6)  # Eq. 13


@pytest.mark.parametrize("method", TRAINED)
def test_a_batch_does_not_depend_on_its_pads(method):
    """The whole loss in float64, once padded and once fragment by fragment."""
    features = make_pairs(8, seed=5)
    table = features.table(features.usable).flipped(0)
    batch = table.batch(torch.tensor([1, 6, 3, 0]))
    recipe = make_recipe("paper", method=method, hidden=8, out=5, layers=2, temperature=0.5)
    net = model.build(recipe, features.dim).eval()
    got = step.batch_loss(net, batch, recipe).item()
    with torch.no_grad():
        f = net(batch.vectors)
    v = [f[n, : batch.regions][batch.real_regions[n]] for n in range(4)]
    t = [f[n, batch.regions :][batch.real_keywords[n]] for n in range(4)]
    frozen = batch.frozen_similarity()
    s = (torch.cat(v) @ torch.cat(t).T).double().numpy()
    row = np.repeat(np.arange(4), [len(x) for x in v])
    column = np.repeat(np.arange(4), [len(x) for x in t])
    positive = np.zeros(s.shape, bool)
    for n in range(4):
        own = frozen[n][batch.real_regions[n]][:, batch.real_keywords[n]].numpy()
        rule = {
            "dense": np.ones_like(own, bool),
            "sparse": own == own.max(0),
            "dynamic": own >= own.mean() - 1e-6,
            "random": batch.flips[n][batch.real_regions[n]][:, batch.real_keywords[n]].numpy(),
        }[recipe.labels or "dense"]
        positive[np.ix_(row == n, column == n)] = rule
    expected = 0.0
    if recipe.labels:
        expected += lifted_loop(s, positive, ~positive, 0.5, 0.5)
    if recipe.has_global:
        pairs = np.array([[s[np.ix_(row == n, column == m)].max() for m in range(4)] for n in range(4)])
        eye = np.eye(4, dtype=bool)
        expected += (0.2 if recipe.labels else 1.0) * lifted_loop(pairs, eye, ~eye, 0.5, 0.5)
    if recipe.has_owner:
        ids = batch.keyword_ids[batch.real_keywords].numpy()
        best = np.array([s[row == n].max(0) for n in range(4)])
        owns = np.array([np.isin(ids, ids[column == n]) for n in range(4)])
        expected += 2.0 * lifted_loop(best, owns, ~owns, 0.5, 0.5)
    assert got == pytest.approx(expected, rel=1e-5)
