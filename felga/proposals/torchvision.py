"""The region proposal network of a torchvision Faster or Mask R-CNN, and its frozen features of boxes.

``torchvision:MODEL`` uses torchvision's default weights (COCO) from torch.hub's cache or the network,
``torchvision:MODEL/TAG`` the weights of another tag, ``torchvision:MODEL/FILE`` your own checkpoint with any
number of classes. MODEL is for example ``fasterrcnn_resnet50_fpn`` or ``maskrcnn_resnet50_fpn_v2``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.models import WeightsEnum, detection, get_model, get_model_weights, list_models
from torchvision.models.detection.rpn import concat_box_prediction_layers

from felga.errors import BadInputError, MissingError, did_you_mean
from felga.models.caches import cache_folders, note
from felga.models.device import pick_device
from felga.models.per_image import PerImage
from felga.models.weights import (
    existing,
    first_line,
    load_exactly,
    read_checkpoint,
    require_network,
    sha256_of,
    state_of,
)
from felga.proposals.regions import as_regions, stretched
from felga.types import Boxes, DecodedImage, Region

VERSION = 1
"""Raised when the same settings yield other regions."""
WITHOUT_EPS = (
    detection.FasterRCNN_ResNet50_FPN_Weights.COCO_V1,
    detection.MaskRCNN_ResNet50_FPN_Weights.COCO_V1,
)
"""Trained with batch norms whose eps is 0, which torchvision sets for exactly these two tags."""


def torchvision(argument: str, *, device: str = "auto") -> Rpn:
    """The proposer ``torchvision:MODEL``, ``torchvision:MODEL/TAG`` or ``torchvision:MODEL/FILE``.

    Args:
        argument: see the module; a relative FILE that does not exist is tried from the root folder.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        BadInputError: no model of that name with a region proposal network, or no such tag.
        NotFoundError: no such file.
        MissingError: the weights are neither cached nor downloadable, or no such device.
    """
    return Rpn(argument, pick_device(device))


class _Seen(NamedTuple):
    """The resized image in a batch of one, and the maps of the backbone by name."""

    batch: Any
    maps: dict[str, Tensor]


class Rpn:
    """The best boxes of a region proposal network, after its own non-maximum suppression (IoU 0.7)."""

    def __init__(self, argument: str, device: torch.device) -> None:
        self.name = f"torchvision:{argument}"
        self.device = device
        self._lock = threading.Lock()
        self._kept: PerImage[_Seen] = PerImage(1)  # maps of 800 pixels take some 100 MB
        self.architecture, _, rest = argument.partition("/")
        if self.architecture not in _models():
            hint = did_you_mean(self.architecture, _models())
            raise BadInputError(f"torchvision has no region proposal network {self.architecture!r}: {hint}")
        tags = get_model_weights(self.architecture)
        if rest in ("", *tags.__members__):
            self._source: Path | WeightsEnum = tags[rest or "DEFAULT"]
            if not _cached(self._source).is_file():  # now: who constructs it decides whether it may download
                require_network(str(self._source.url), f"the weight file of {self.name}")
            return
        self._source = Path(rest).expanduser()
        if not self._source.is_file() and Path("/", rest).is_file():
            self._source = Path("/", rest)
        if "/" not in rest and not self._source.suffix:
            known_tags = ", ".join(tags.__members__)
            raise BadInputError(
                f"{rest!r} is neither a file nor a tag of {self.architecture}: its tags are {known_tags}"
            )
        existing(self._source)

    def settings(self) -> dict[str, Any]:
        """The architecture and the sha256 of its weights."""
        with self._lock:  # one download
            weights = sha256_of(self.checkpoint)
        return {
            "name": "torchvision",
            "version": VERSION,
            "architecture": self.architecture,
            "weights": weights,
        }

    def propose(self, images: Sequence[DecodedImage], top: int) -> list[list[Region]]:
        """For each image the ``top`` best boxes of the network, 1,000 at most; one forward pass per image.

        Raises:
            BadInputError: the checkpoint is truncated or of another architecture.
            MissingError: the download of the weights fails.
        """
        return [self._propose(image, top) for image in images]

    def box_features(self, image: DecodedImage, boxes: Boxes) -> npt.NDArray[np.float32]:
        """What the box head hands to its classifier, (n, 1024) float32, of boxes (n, 4) of any origin.

        Args:
            boxes: pixels of the upright original.

        Raises:
            BadInputError, MissingError: as :meth:`propose`.
        """
        with self._lock, torch.inference_mode():
            seen, heads = self._see(image), self._model.roi_heads
            sizes = seen.batch.image_sizes
            height, width = sizes[0]
            scale = np.array([width / image.width, height / image.height] * 2, np.float32)
            rois = torch.from_numpy(np.asarray(boxes, np.float32).reshape(-1, 4) * scale).to(self.device)
            found: Tensor = heads.box_head(heads.box_roi_pool(seen.maps, [rois], sizes))
        features: npt.NDArray[np.float32] = found.float().cpu().numpy()
        return features

    @cached_property
    def checkpoint(self) -> Path:
        """The weight file; downloaded on first use and checked against the hash in its name."""
        if isinstance(self._source, Path):
            return self._source
        cached = _cached(self._source)
        if not cached.is_file():
            cached.parent.mkdir(parents=True, exist_ok=True)
            prefix = cached.stem.rpartition("-")[2]
            try:
                url = str(self._source.url)
                torch.hub.download_url_to_file(url, str(cached), hash_prefix=prefix, progress=False)
            except (OSError, RuntimeError) as error:
                reason = first_line(error)
                raise MissingError(f"cannot download the weights of {self.name}: {reason}") from error
        note(cached)
        return cached

    @cached_property
    def _model(self) -> Any:
        state = state_of(read_checkpoint(self.checkpoint), self.checkpoint)
        classes = state.get("roi_heads.box_predictor.cls_score.bias")
        count = len(classes) if classes is not None else 91
        model = get_model(self.architecture, weights=None, weights_backbone=None, num_classes=count)
        load_exactly(
            model,
            state,
            source=repr(str(self.checkpoint)),
            wanted=self.architecture,
            may_lack=r"\.num_batches_tracked",  # frozen norms, as in most checkpoints, do not count batches
        )
        if self._source in WITHOUT_EPS:
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.eps = 0.0
        return model.requires_grad_(False).to(self.device).eval()

    def _propose(self, image: DecodedImage, top: int) -> list[Region]:
        with self._lock, torch.inference_mode():
            batch, maps = self._see(image)
            features = list(maps.values())
            rpn = self._model.rpn  # its forward() does not return the scores
            scores, deltas = rpn.head(features)
            anchors = rpn.anchor_generator(batch, features)
            counts = [int(np.prod(s[0].shape)) for s in scores]
            flat_scores, flat_deltas = concat_box_prediction_layers(scores, deltas)
            decoded = rpn.box_coder.decode(flat_deltas, anchors).view(1, -1, 4)
            boxes, objectness = rpn.filter_proposals(decoded, flat_scores, batch.image_sizes, counts)
        height, width = batch.image_sizes[0]
        corners, scores = boxes[0].cpu().numpy(), objectness[0].cpu().numpy()
        return as_regions(image, corners, scores, top, frame=(width, height))

    def _see(self, image: DecodedImage) -> _Seen:
        """The backbone's pass over an image, under the lock; that of the last image is kept."""
        return self._kept.of(image, self._run)

    def _run(self, image: DecodedImage) -> _Seen:
        tensor = torch.from_numpy(stretched(image.pixels)).permute(2, 0, 1)
        batch, _ = self._model.transform([tensor.to(self.device).float().div_(255)])
        return _Seen(batch, dict(self._model.backbone(batch.tensors)))


def _cached(weights: WeightsEnum) -> Path:
    """Where torch.hub keeps a weight file, whether it is there or not."""
    return cache_folders()["torch"] / str(weights.url).rpartition("/")[2]


def _models() -> list[str]:
    """The architectures with a region proposal network."""
    return [name for name in list_models(detection) if "rcnn" in name and "keypoint" not in name]


def found() -> Iterator[tuple[str, Path]]:
    """The names whose weights are in torch.hub's cache, each with its weight file."""
    for architecture in _models():
        for weights in get_model_weights(architecture):
            if _cached(weights).is_file():
                yield f"torchvision:{architecture}/{weights.name}", _cached(weights)
