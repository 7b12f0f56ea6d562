import sys
import warnings

import numpy as np
import onnx
import pytest
import torch

from felga.models import efficientnet, onnx_trunk
from felga.models.efficientnet import STRIDES, Trunk, forward, load_network, working_size
from felga.types import DecodedImage

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["lite0", "lite2"])
def module(request):
    return load_network(request.param, 256, CPU, torch.float32)


def eager(module, inputs):
    with torch.inference_mode():
        levels, last = forward(module, inputs)
    return [*levels, last]


def noise(height, width, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return DecodedImage("noise", pixels, width, height)


def test_the_maps_are_torchs_for_images_of_every_shape(module):
    run = onnx_trunk.verified(module, STRIDES, lambda inputs: eager(module, inputs))
    for sides in (working_size(480, 640, 512), working_size(640, 480, 512), working_size(1, 9, 512)):
        inputs = torch.randn(1, 3, *sides, generator=torch.Generator().manual_seed(1))
        for found, wanted in zip(run(inputs), eager(module, inputs), strict=True):
            assert found.shape == wanted.shape
            assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()


def test_what_is_written_is_onnx(module):
    written = onnx.load_model_from_string(onnx_trunk.graph(module, STRIDES))
    onnx.checker.check_model(written, full_check=True)
    convolutions = [part for part in module.modules() if isinstance(part, torch.nn.Conv2d)]
    assert sum(node.op_type == "Conv" for node in written.graph.node) == len(convolutions)
    weights = {one.name: onnx.numpy_helper.to_array(one) for one in written.graph.initializer}
    np.testing.assert_array_equal(weights["conv0_weight"], module._conv_stem.weight.numpy())


def test_a_trunk_on_a_cpu_runs_it(monkeypatch):
    trunk = Trunk("lite0", CPU, 224)
    _ = trunk.module
    monkeypatch.setattr(efficientnet, "forward", None)  # torch is not asked again
    assert trunk.maps(noise(60, 80)).last.shape == (1280, 5, 7)


@pytest.mark.parametrize("cause", ["missing", "wrong"])
def test_without_it_torch_yields_the_maps_and_a_warning_says_why(monkeypatch, cause):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = Trunk("lite0", CPU, 224).maps(noise(60, 80))
    if cause == "missing":
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    else:
        monkeypatch.setattr(onnx_trunk, "TOLERANCE", -1.0)
    reason = {"missing": "pip install onnxruntime", "wrong": "other maps than torch"}[cause]
    with pytest.warns(UserWarning, match=reason):
        found = Trunk("lite0", CPU, 224).maps(noise(60, 80))
    for one, other in zip((*found.levels, found.last), (*expected.levels, expected.last), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4 * float(other.abs().max()))
