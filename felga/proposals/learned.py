"""``learned``: class-agnostic regions by a small trained head, and the predicted IoU of any box.

The head reads the feature maps of a frozen EfficientNet-Lite, which conse computes anyway: with conse, both
share one forward pass. The packaged weights were trained on boxes, without class names: ``supervision`` in
:meth:`Learned.settings` says on which. ``learned:FILE`` takes weights of ``felga train-regions``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from felga.boxes import area, distinct, iou
from felga.errors import BadInputError
from felga.files import sha256_file, shown
from felga.models.arrays import read_arrays
from felga.models.device import pick_device
from felga.models.efficientnet import DEFAULT, NETWORKS, STRIDE, shared_trunk
from felga.models.per_image import PerImage
from felga.proposals.region_head import RegionHead, put_weights
from felga.proposals.regions import WHOLE, as_regions
from felga.types import Boxes, DecodedImage, Region, Scores

Candidates: TypeAlias = tuple[Boxes, Scores, npt.NDArray[np.float32]]
PACKAGED = Path(__file__).parent / "weights" / "regions.safetensors"
DUPLICATE = 0.5  # IoU with a better box
CANDIDATES = 600  # best points of an image
LEAST = 1e-3  # the smallest quality: its logarithm is part of a score
VERSION = 1
"""Raised when the same settings yield other regions or qualities."""


def learned(argument: str, *, device: str = "auto") -> Learned:
    """The proposer ``learned`` with the packaged weights, or ``learned:FILE``.

    Raises:
        NotFoundError, BadInputError: the file is missing, damaged, or of another kind.
        MissingError: no such device.
    """
    return Learned(Path(argument).expanduser() if argument else PACKAGED, device, bool(argument))


def found() -> Iterator[tuple[str, Path]]:
    """The packaged weights: the network that the head reads is conse's."""
    yield "learned", PACKAGED


class Learned:
    """A trained region head on the maps of a frozen network; loaded on first use. Thread-safe.

    Attributes:
        head_type: the head whose weights the file holds.
    """

    head_type: type[RegionHead] = RegionHead

    def __init__(self, path: Path, device: str, named: bool) -> None:
        self.name = f"learned:{path}" if named else "learned"
        self._path = path
        self._trunk = shared_trunk(DEFAULT, pick_device(device))
        self._lock = threading.Lock()
        self._kept: PerImage[Candidates] = PerImage()
        if named:
            _ = self._about  # the file is checked before any work

    def settings(self) -> Mapping[str, Any]:
        """Weights by sha256, whose boxes they learned from, and the settings of the pass."""
        return {
            "name": "learned",
            "version": VERSION,
            "weights": {DEFAULT: NETWORKS[DEFAULT].sha256, "head": sha256_file(self._path)},
            "supervision": self._about["supervision"],
            "preprocessing": self._trunk.settings(),
            "candidates": CANDIDATES,
            "duplicate": DUPLICATE,
        }

    def propose(self, images: Sequence[DecodedImage], top: int) -> list[list[Region]]:
        """For each image at most ``top`` regions, by predicted IoU, which is their score and quality.

        Raises:
            MissingError, BadInputError: weights are missing or damaged.
        """
        return [self._propose(image, top) for image in images]

    def quality(
        self, images: Sequence[DecodedImage], boxes: Sequence[Boxes]
    ) -> list[npt.NDArray[np.float32]]:
        """Predicted IoU with an object, (n_i,) float32 in (0, 1], of boxes of any origin.

        A box is as good as the head's predictions that it covers: the greatest product of a prediction's own
        quality and its IoU with the box. For a region of :meth:`propose` that is hardly more than its score.

        Args:
            boxes: ``boxes[i]`` (n_i, 4) of ``images[i]``, pixels of the upright original.
        """
        return [self._quality(image, own) for image, own in zip(images, boxes, strict=True)]

    def _quality(self, image: DecodedImage, boxes: Boxes) -> npt.NDArray[np.float32]:
        found, scores, scale = self._candidates(image)
        asked = np.asarray(boxes, np.float32).reshape(-1, 4) * scale
        best: Scores = (iou(asked, found) * scores).max(1).clip(LEAST, 1)
        return best

    def _propose(self, image: DecodedImage, top: int) -> list[Region]:
        if top < 1:
            return []
        found, scores, scale = self._candidates(image)
        width, height = image.width * scale[0], image.height * scale[1]
        part = area(found) < WHOLE * width * height
        boxes, values = found[part], scores[part]
        kept = distinct(boxes, top, DUPLICATE)
        regions = as_regions(image, boxes[kept] / scale, values[kept], top)
        return [Region(one.box, one.score, quality=max(one.score, LEAST)) for one in regions]

    def _candidates(self, image: DecodedImage) -> Candidates:
        """The best predictions of an image; kept, as proposing regions and predicting quality both read them.

        Returns:
            boxes (n, 4) in pixels of the network's input and their predicted IoU (n,), best first; and the
            factors (4,) that take a box of the original there.
        """
        return self._kept.of(image, self._predict)

    def _predict(self, image: DecodedImage) -> Candidates:
        head = self._head
        levels = self._trunk.maps(image).levels
        height, width = (STRIDE * side for side in levels[-1].shape[1:])
        with torch.inference_mode():
            logits, boxes = head([level[None].float() for level in levels])
            limit = torch.tensor([width, height] * 2, dtype=torch.float32, device=boxes.device)
            clipped = boxes[0].clamp(min=0).minimum(limit)
            order = logits[0].argsort(descending=True, stable=True)[:CANDIDATES]
            scale = np.array([width / image.width, height / image.height] * 2, np.float32)
            return clipped[order].cpu().numpy(), logits[0, order].sigmoid().cpu().numpy(), scale

    @cached_property
    def _about(self) -> dict[str, Any]:
        about = read_arrays(self._path, "regions")[1]
        if about.get("network", {}).get("weights") != NETWORKS[DEFAULT].sha256 or not isinstance(
            about.get("supervision"), str
        ):
            raise BadInputError(
                f"{shown(self._path)} was trained on another network's maps, or does not say on whose boxes: "
                "train it with felga train-regions"
            )
        return about

    @cached_property
    def _head(self) -> RegionHead:
        with self._lock:
            arrays, _ = read_arrays(self._path, "regions")
            _ = self._about
            head = self.head_type()
            if not put_weights(head, arrays):
                raise BadInputError(f"{shown(self._path)} holds no region head of this felga: train it again")
            return head.eval().requires_grad_(False).to(self._trunk.device)
