"""FENet (Eq. 8)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from felga.fenet.model import build
from felga.fenet.recipes import make_recipe


def unit(n, dim):
    return nn.functional.normalize(torch.randn(n, dim), dim=1)


def test_the_papers_layers():
    net = build(make_recipe("paper"), 512)
    linear = [(part.in_features, part.out_features) for part in net.net if isinstance(part, nn.Linear)]
    assert linear == [(512, 4096), (4096, 4096), (4096, 512)]
    assert [type(part).__name__ for part in net.net] == ["Linear", "ReLU", "Dropout"] * 2 + ["Linear"]
    assert sum(weight.numel() for weight in net.parameters()) == 20_980_224  # performance.md, 3


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_residual_starts_from_the_frozen_vector(layers):
    net = build(make_recipe("residual", layers=layers, hidden=8), 6)
    x = unit(5, 6)
    assert torch.allclose(net.eval()(x), x, atol=1e-6)
    net(x).pow(3).sum().backward()
    last = net.net[-1]
    assert last.weight.grad.abs().sum() > 0


def test_the_output_has_length_one_in_any_batch():
    net = build(make_recipe("paper", hidden=8, out=5), 6)
    x = unit(7, 6)
    whole = net.apply_to(x)
    assert net.training  # as it was
    assert torch.allclose(whole.norm(dim=1), torch.ones(7))
    assert torch.allclose(whole, net.apply_to(x, batch=2), atol=1e-6)
    assert net.apply_to(x[:0]).shape == (0, 5)


def test_residual_keeps_the_length_of_the_input():
    from felga.fenet.model import FENet

    with pytest.raises(ValueError, match="input's length 6, got 5"):
        FENet(6, 8, 5, dropout=0.0, residual=True)
