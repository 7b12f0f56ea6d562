"""The region proposal network of a torchvision Faster or Mask R-CNN.

``torchvision:MODEL`` takes torchvision's own weights (COCO) from the cache of torch.hub or the network,
``torchvision:MODEL/TAG`` those of another tag, ``torchvision:MODEL/FILE`` a checkpoint of one's own, with any
number of classes; MODEL is such as ``fasterrcnn_resnet50_fpn`` or ``maskrcnn_resnet50_fpn_v2``. This is the
detector that installs without trouble.
"""

from __future__ import annotations

import difflib
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.models import WeightsEnum, detection, get_model, get_model_weights, list_models
from torchvision.models.detection.rpn import concat_box_prediction_layers

from felga.errors import BadInputError, MissingError
from felga.models.device import pick_device
from felga.models.weights import (
    existing,
    first_line,
    load_exactly,
    read_checkpoint,
    require_network,
    sha256_of,
    state_of,
)
from felga.proposals.boxfile import as_regions
from felga.types import DecodedImage, Pixels, Region

WITHOUT_EPS = (
    detection.FasterRCNN_ResNet50_FPN_Weights.COCO_V1,
    detection.MaskRCNN_ResNet50_FPN_Weights.COCO_V1,
)
"""Trained with batch norms that add nothing to the variance; torchvision sets this behind these two tags."""


def torchvision(argument: str, *, device: str = "auto") -> Rpn:
    """The proposer ``torchvision:MODEL``, ``torchvision:MODEL/TAG`` or ``torchvision:MODEL/FILE``.

    Args:
        argument: a file is looked up as given, then from the root.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        BadInputError: no model with a region proposal network of that name, or no such tag.
        NotFoundError: no such file. MissingError: no such device.
    """
    return Rpn(argument, pick_device(device))


class Rpn:
    """The best boxes of a region proposal network, with its own suppression of overlaps (IoU 0.7)."""

    def __init__(self, argument: str, device: torch.device) -> None:
        self.name = f"torchvision:{argument}"
        self.device = device
        self._lock = threading.Lock()
        self.architecture, _, rest = argument.partition("/")
        known = [name for name in list_models(detection) if "rcnn" in name and "keypoint" not in name]
        if self.architecture not in known:
            near = difflib.get_close_matches(self.architecture, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise BadInputError(f"torchvision has no region proposals of {self.architecture!r}; {hint}")
        tags = get_model_weights(self.architecture)
        if rest in ("", *tags.__members__):
            self._source: Path | WeightsEnum = tags[rest or "DEFAULT"]
            return
        self._source = Path(rest).expanduser()
        if not self._source.is_file() and Path("/", rest).is_file():
            self._source = Path("/", rest)
        if "/" not in rest and not self._source.suffix:
            told = f"tags: {', '.join(tags.__members__)}"
            raise BadInputError(f"{rest!r} is neither weights of {self.architecture} nor a file; {told}")
        existing(self._source)

    def settings(self) -> dict[str, Any]:
        """The architecture, and its weights by sha256."""
        weights = sha256_of(self.checkpoint)
        return {"name": "torchvision", "architecture": self.architecture, "weights": weights}

    def propose(self, images: Sequence[DecodedImage], top: int) -> list[list[Region]]:
        """For each image the ``top`` best boxes of the network, at most its own 1,000; one pass an image.

        Raises:
            BadInputError: the checkpoint is truncated or of another architecture.
            MissingError: the weights are not cached and cannot be downloaded.
        """
        return [self._of(image, top) for image in images]

    @cached_property
    def checkpoint(self) -> Path:
        """The weight file; downloaded when it is first asked for, checked against the hash in its name."""
        if isinstance(self._source, Path):
            return self._source
        url = str(self._source.url)
        cached = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
        if not cached.is_file():
            wanted = f"the weights of {self.name}"
            require_network(url, wanted)
            cached.parent.mkdir(parents=True, exist_ok=True)
            prefix = cached.stem.rpartition("-")[2]
            try:
                torch.hub.download_url_to_file(url, str(cached), hash_prefix=prefix, progress=False)
            except (OSError, RuntimeError) as error:
                raise MissingError(f"{wanted} cannot be had: {first_line(error)}") from error
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
            may_lack=r"\.num_batches_tracked",  # the frozen norms of most checkpoints count none
        )
        if self._source in WITHOUT_EPS:
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.eps = 0.0
        return model.requires_grad_(False).to(self.device).eval()

    def _of(self, image: DecodedImage, top: int) -> list[Region]:
        tensor = torch.from_numpy(stretched(image.pixels)).permute(2, 0, 1)
        with self._lock, torch.inference_mode():
            model = self._model
            batch, _ = model.transform([tensor.to(self.device).float().div_(255)])
            features = list(model.backbone(batch.tensors).values())
            rpn = model.rpn  # its forward() keeps the scores to itself
            scores, deltas = rpn.head(features)
            anchors = rpn.anchor_generator(batch, features)
            counts = [int(np.prod(s[0].shape)) for s in scores]
            flat_scores, flat_deltas = concat_box_prediction_layers(scores, deltas)
            decoded = rpn.box_coder.decode(flat_deltas, anchors).view(1, -1, 4)
            boxes, chances = rpn.filter_proposals(decoded, flat_scores, batch.image_sizes, counts)
        height, width = batch.image_sizes[0]
        scale = np.array([image.width / width, image.height / height] * 2, np.float32)
        return as_regions(image, boxes[0].cpu().numpy() * scale, chances[0].cpu().numpy(), top)


def stretched(pixels: Pixels) -> Pixels:
    """A copy of ``pixels``, a strip beyond 32:1 stretched to that: a detector would scale it to nothing."""
    height, width = pixels.shape[:2]
    down, right = max(1, -(-width // (32 * height))), max(1, -(-height // (32 * width)))
    return np.ascontiguousarray(pixels.repeat(down, 0).repeat(right, 1)).copy()
