"""Cutting, resizing and batching; the references are PIL and open_clip's own transform."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from felga.encoders.crops import Crops, Preprocessing, cut, encode_batches
from felga.errors import BadInputError
from felga.testing.encoder import boxes, noise
from felga.types import DecodedImage

MEAN, STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD


@pytest.mark.parametrize("resize", ["squash", "shortest", "longest"])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
@pytest.mark.parametrize("shape", [(50, 60), (90, 31), (20, 140), (32, 32), (17, 23)])
def test_pixels_are_those_of_open_clip(resize, size, shape):
    pixels = noise(shape[1], shape[0], 3).pixels
    expected = image_transform_v2(
        PreprocessCfg(size=size, mean=MEAN, std=STD, resize_mode=resize, fill_color=7), is_train=False
    )(Image.fromarray(pixels))
    own = Preprocessing(size=size, resize=resize, mean=MEAN, std=STD, fill=7)
    fit = own.fit(torch.from_numpy(pixels).permute(2, 0, 1))
    assert fit.dtype == torch.uint8
    encoded = own.normalize(fit[None], torch.float32)[0]
    assert encoded.shape == expected.shape
    assert (encoded - expected).abs().mean() * 255 * min(STD) < 0.5


def test_a_long_strip_needs_no_memory():
    own = Preprocessing(size=(224, 224), resize="shortest", mean=MEAN, std=STD)
    strip = torch.zeros((3, 1, 100_000), dtype=torch.uint8)  # resized whole: 15 GB
    assert own.fit(strip).shape == (3, 224, 224)


def test_cut_rounds_clips_and_keeps_a_pixel():
    whole = noise(60, 50, 1)
    encoded = list(
        cut(whole, boxes((9.6, 4.4, 20.4, 30.6), (-9, -9, 999, 999), (70, 70, 80, 80), (5, 5, 5, 5)))
    )
    assert [tuple(c.shape) for c in encoded] == [(3, 27, 10), (3, 50, 60), (3, 1, 1), (3, 1, 1)]
    np.testing.assert_array_equal(encoded[0].permute(1, 2, 0).numpy(), whole.pixels[4:31, 10:20])


def test_read_only_pixels_are_read():
    whole = noise(8, 8, 1)
    whole.pixels.flags.writeable = False
    assert len(list(cut(whole, boxes(whole.whole)))) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_box_that_is_not_finite_is_refused(bad):
    with pytest.raises(BadInputError, match="not finite"):
        list(cut(noise(8, 8, 1), boxes((0, 0, bad, 4))))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_batches_run_over_images_and_come_back_in_order(batch_size):
    images = [DecodedImage(str(v), np.full((4, 4, 3), v, np.uint8), 4, 4) for v in (10, 20, 30)]
    own = [boxes(*[images[i].whole] * n) for i, n in enumerate((2, 0, 3))]
    seen = []

    def forward(batch):
        seen.append(len(batch))
        return torch.stack([batch.mean((1, 2, 3)), torch.ones(len(batch))], 1)  # (b, 2)

    preprocessing = Preprocessing(size=(4, 4), resize="squash", mean=(0, 0, 0), std=(1, 1, 1))
    crops = Crops(preprocessing, batch_size, torch.device("cpu"), torch.float32, 2)
    encoded = crops.encode(images, own, forward)
    assert seen == [min(batch_size, 5 - at) for at in range(0, 5, batch_size)]
    assert [len(v) for v in encoded] == [2, 0, 3]
    np.testing.assert_allclose(encoded[0][:, 0] / encoded[0][:, 1], 10 / 255, rtol=1e-5)
    np.testing.assert_allclose(encoded[2][:, 0] / encoded[2][:, 1], 30 / 255, rtol=1e-5)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(224, 224), (17, 90), (8, 8)])
def test_pixels_are_those_of_torchvision(mode, size):
    """To the bit, where torchvision resizes uint8 natively (AVX2, ARM); else within one step of 255."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    own = Preprocessing(size=size, resize="squash", mean=MEAN, std=STD, interpolation=mode)
    for height, width in ((50, 60), (300, 31), (8, 8), (1, 1)):
        (crop,) = cut(noise(width, height, 5), boxes((0, 0, width, height)))
        expected = F.resize(crop, list(size), interpolation=InterpolationMode(mode), antialias=True)
        assert (own.fit(crop).int() - expected.int()).abs().max() <= 1


def test_texts_are_encoded_in_batches():
    sizes = []

    def forward(batch):
        sizes.append(len(batch))
        return torch.tensor([[len(t), 1.0] for t in batch])

    encoded = encode_batches(["a", "bb", "ccc"], batch_size=2, dim=2, forward=forward)
    assert sizes == [2, 1]
    np.testing.assert_allclose(encoded[:, 0] / encoded[:, 1], [1, 2, 3], rtol=1e-6)
