"""FENet (Eq. 8)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from felga.fenet.model import FENet, build
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
    x = unit(7, 6).numpy()
    whole = net.embed(x)
    assert net.training  # as it was
    assert np.allclose(np.linalg.norm(whole, axis=1), 1)
    assert np.allclose(whole, net.embed(x, batch=2), atol=1e-6)
    assert net.embed(x[:0]).shape == (0, 5)


def test_residual_is_no_longer_than_the_input():
    with pytest.raises(ValueError, match="at most its input's length 6, got 7"):
        FENet(6, 8, 7, dropout=0.0, residual=True)


def test_a_locked_network_starts_from_the_vectors_beside_the_components():
    net = build(make_recipe("locked", hidden=8), 6, components=3).eval()
    x = torch.cat([unit(5, 6), torch.randn(5, 3)], 1)
    assert torch.allclose(net(x), x[:, :6], atol=1e-6)


def test_the_scale_multiplies_the_input_alone():
    x = unit(5, 6)
    torch.manual_seed(0)
    scaled = build(make_recipe("paper", hidden=8, out=5, input_scale=10.0), 6).eval()
    plain = FENet(6, 8, 5, dropout=0.0, residual=False).eval()
    plain.load_state_dict(scaled.state_dict())
    assert torch.allclose(scaled(x), plain(10 * x), atol=1e-6)
