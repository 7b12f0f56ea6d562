"""Each loss against its definition, by plain loops or by torchvision."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss

from felga.alignment.align_losses import TEMPERATURE, caption_loss, condition_loss, multi_loss, tag_loss
from felga.captions.caption_batches import IGNORED
from tests.captions.made import random_decoder


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_tags_are_judged_by_focal_loss_where_they_are_known():
    logits, targets = unit(5, 7) * 4, (unit(5, 7, seed=1) > 0).float()
    known = unit(5, 7, seed=2) > -0.2
    expected = 0.0
    for row in range(5):
        for tag in range(7):
            if known[row, tag]:
                expected += float(sigmoid_focal_loss(logits[row, tag], targets[row, tag], alpha=0.25))
    assert float(tag_loss(logits, targets, known)) == pytest.approx(2 * expected / 5, rel=1e-5)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(F.cosine_similarity(a, b, dim=0))


def test_multi_loss_is_info_nce_both_ways_without_equal_phrases():
    m, phrases = unit(4, 6) * 3, unit(4, 6, seed=1)
    phrases[2] = phrases[0]
    same = torch.eye(4, dtype=torch.bool)
    same[0, 2] = same[2, 0] = True
    expected = 0.0
    for row in range(4):
        for one in (
            lambda other, row=row: cosine(m[row], phrases[other]),
            lambda other, row=row: cosine(m[other], phrases[row]),
        ):
            others = [other for other in range(4) if other == row or not same[row, other]]
            total = sum(math.exp(one(other) / TEMPERATURE) for other in others)
            expected -= math.log(math.exp(one(row) / TEMPERATURE) / total) / 8
    assert float(multi_loss(m, phrases, same)) == pytest.approx(expected, rel=1e-4)


def test_condition_loss_has_the_same_tag_elsewhere_and_wrong_tags_here_as_negatives():
    refined, own, phrases = unit(3, 2, 6) * 2, unit(3, 3, 6, seed=1) * 2, unit(3, 6, seed=2)
    wrong = torch.tensor([[True, False], [True, True], [False, False]])
    same = torch.eye(3, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True
    expected = 0.0
    for r in range(3):
        negatives = [cosine(own[s, r], phrases[r]) for s in range(3) if s != r and not same[r, s]]
        negatives += [cosine(refined[r, tag], phrases[r]) for tag in range(2) if wrong[r, tag]]
        right = math.exp(cosine(own[r, r], phrases[r]) / TEMPERATURE)
        expected -= math.log(right / (right + sum(math.exp(n / TEMPERATURE) for n in negatives))) / 3
    assert float(condition_loss(refined, wrong, own, phrases, same)) == pytest.approx(expected, rel=1e-4)


def test_caption_loss_reaches_the_prefix_through_a_frozen_decoder():
    decoder = random_decoder().requires_grad_(False)
    prefix = torch.randn(2, 3, decoder.width, requires_grad=True)
    words = torch.tensor([[0, 5, 6], [0, 7, 1]])
    targets = torch.tensor([[5, 6, 1], [7, 1, IGNORED]])
    loss = caption_loss(decoder, prefix, words, targets)
    logs = decoder(prefix, words, torch.arange(2)).log_softmax(-1)
    picked = [logs[0, 0, 5], logs[0, 1, 6], logs[0, 2, 1], logs[1, 0, 7], logs[1, 1, 1]]
    assert float(loss.detach()) == pytest.approx(-float(torch.stack(picked).mean().detach()), rel=1e-5)
    loss.backward()
    assert prefix.grad is not None
    assert (prefix.grad.abs().sum((1, 2)) > 0).all()
    assert all(weight.grad is None for weight in decoder.parameters())
