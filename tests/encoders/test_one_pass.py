"""One pass per image: RoIAlign against torchvision's, and images of many sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import roi_align as reference

from felga.encoders.crops import Preprocessing
from felga.encoders.one_pass import OnePass, roi_align
from felga.models.efficientnet import STRIDE
from felga.testing.encoder import boxes, noise


@pytest.mark.parametrize(("height", "width"), [(9, 12), (12, 9), (1, 12), (3, 1), (1, 1)])
@pytest.mark.parametrize(("bins", "samples"), [(7, 2), (2, 2), (1, 14), (3, 1)])
def test_roi_align_is_torchvisions(height, width, bins, samples):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(8, height, width, generator=generator)
    rows = torch.rand(200, 4, generator=generator) * torch.tensor([width, height] * 2) * STRIDE * 1.4 - 20
    rows[:150, 2:] = (
        rows[:150, :2] + torch.rand(150, 2, generator=generator) * 100
    )  # the others may be inverted
    rows[150] = torch.tensor([0, 0, width, height]) * STRIDE
    rows[151] = torch.tensor([5, 5, 5, 5])
    expected = reference(features[None], [rows], bins, 1 / STRIDE, samples, aligned=True)
    torch.testing.assert_close(roi_align(features, rows, bins, samples), expected, atol=1e-5, rtol=1e-5)


def test_bins_that_are_averaged_are_one_bin_with_their_samples():
    features = torch.randn(8, 9, 12, generator=torch.Generator().manual_seed(1))
    rows = torch.tensor([[3.0, 7.0, 200.0, 150.0], [0.0, 0.0, 384.0, 288.0]])
    seven = reference(features[None], [rows], 7, 1 / STRIDE, 2, aligned=True).mean((2, 3))
    torch.testing.assert_close(roi_align(features, rows, 1, 14).flatten(1), seven)


def test_half_precision_features_keep_their_dtype():
    features = torch.randn(8, 9, 12).half()
    pooled = roi_align(features, torch.tensor([[0.0, 0.0, 384.0, 288.0]]), 2, 2)
    assert pooled.dtype == torch.float16


def test_images_of_several_sizes_come_back_in_order():
    preprocessing = Preprocessing((64, 64), "squash", (0, 0, 0), (1, 1, 1), interpolation="bilinear")
    one_pass = OnePass(preprocessing, 96, 1, 4, 2, torch.device("cpu"), torch.float32, 3)
    images = [noise(90, 60, 1), noise(60, 90, 2), noise(30, 20, 3), noise(45, 30, 4), noise(50, 50, 5)]
    rows = [boxes(image.whole) for image in images]
    rows[2] = boxes()
    passes = []

    def trunk(inputs):
        passes.append(tuple(inputs.shape))
        return torch.nn.functional.avg_pool2d(inputs, STRIDE)

    encoded = one_pass.encode(images, rows, trunk=trunk, head=lambda pooled: pooled.flatten(1))
    assert passes == [(2, 3, 64, 96), (1, 3, 96, 64), (1, 3, 96, 96)]  # those without boxes are not run
    assert [len(vectors) for vectors in encoded] == [1, 1, 0, 1, 1]
    for image, vectors in zip(images, encoded, strict=True):
        if len(vectors):
            mean = image.pixels.reshape(-1, 3).mean(0)
            np.testing.assert_allclose(vectors[0], mean / np.linalg.norm(mean), atol=0.05)
