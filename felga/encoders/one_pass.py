"""One pass per image: the network runs once on the whole image; regions are pooled from its feature map.

RoIAlign (He et al., Mask R-CNN, 2017) before the head, as RegionCLIP applies it to CLIP's ResNets (Zhong et
al. 2022): a tenth of the arithmetic of one pass per region, and a region is seen in its context.

RoIAlign's bilinear samples are separable: a bin is a weighted sum over rows and columns of the feature map.
Two small matrix products give torchvision's values within rounding, without a second spent on importing it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from felga.encoders.crops import Preprocessing
from felga.encoders.inputs import check_pairs, scaled_boxes
from felga.models.efficientnet import STRIDE, working_size
from felga.models.fitting import Fitting
from felga.types import Boxes, DecodedImage, Vectors

VERSION = 1
"""Raised when the same settings yield other features of a region."""


@dataclass(frozen=True, slots=True)
class OnePass:
    """Encodes all regions of an image from one forward pass; images of one size share a pass.

    Attributes:
        preprocessing: its mean, std and interpolation are used.
        longer_side: of the resized image in pixels; both sides become multiples of 32.
        bins: RoIAlign output size, per side.
        samples: RoIAlign sampling ratio: samples per bin and side.
        batch_size: images per forward pass on a GPU.
        device, dtype: of the model's input.
        dim: length of the vectors.
    """

    preprocessing: Preprocessing
    longer_side: int
    bins: int
    samples: int
    batch_size: int
    device: torch.device
    dtype: torch.dtype
    dim: int

    def settings(self) -> dict[str, Any]:
        """Json values, for an encoder's identity."""
        return {
            "version": VERSION,
            "longer_side": self.longer_side,
            "bins": self.bins,
            "samples": self.samples,
            "mean": list(self.preprocessing.mean),
            "std": list(self.preprocessing.std),
            "interpolation": self.preprocessing.interpolation,
        }

    def encode(
        self,
        images: Sequence[DecodedImage],
        boxes: Sequence[Boxes],
        *,
        trunk: Callable[[Tensor], Tensor],
        head: Callable[[Tensor], Tensor],
    ) -> list[Vectors]:
        """Unit vectors of regions.

        Args:
            boxes: ``boxes[i]`` (n_i, 4) of ``images[i]``, pixels of the upright original.
            trunk: (b, 3, h, w) of ``dtype`` on ``device`` -> (b, c, h / 32, w / 32).
            head: (n, c, bins, bins) -> (n, dim), of any length.

        Returns:
            Per image (n_i, dim) float32, each row of length 1.

        Raises:
            BadInputError: the lists differ in length, or a box is not finite.
            MissingError: the memory of the device does not suffice for one image.
        """
        check_pairs(images, boxes)
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i, image in enumerate(images):
            if len(boxes[i]):
                height, width = image.pixels.shape[:2]
                groups[working_size(height, width, self.longer_side)].append(i)
        vectors: list[Vectors] = [np.empty((0, self.dim), np.float32)] * len(images)
        at_once = self.batch_size if self.device.type == "cuda" else 2  # more overflow a CPU's cache
        fitting = Fitting(at_once)
        for size, members in groups.items():

            def work(batch: list[int], size: tuple[int, int] = size) -> None:
                rois = [scaled_boxes(images[i], boxes[i], *size) for i in batch]
                features = trunk(self._inputs([images[i] for i in batch], *size))
                pooled = [
                    roi_align(one, torch.from_numpy(rows).to(one.device), self.bins, self.samples)
                    for one, rows in zip(features, rois, strict=True)
                ]
                joint = F.normalize(head(torch.cat(pooled)).float(), dim=-1).cpu().numpy()  # (n, dim)
                parts = np.split(joint, np.cumsum([len(rows) for rows in rois])[:-1])
                for i, part in zip(batch, parts, strict=True):
                    vectors[i] = np.ascontiguousarray(part)

            with torch.inference_mode():
                fitting.run(members, work)
        return vectors

    def _inputs(self, images: Sequence[DecodedImage], height: int, width: int) -> Tensor:
        """(b, 3, height, width) of ``dtype``, normalized."""
        resample = Image.Resampling[self.preprocessing.interpolation.upper()]
        resized = [Image.fromarray(image.pixels).resize((width, height), resample) for image in images]
        pixels = torch.from_numpy(np.stack([np.asarray(one) for one in resized]))
        return self.preprocessing.normalize(pixels.to(self.device).permute(0, 3, 1, 2), self.dtype)


def roi_align(features: Tensor, boxes: Tensor, bins: int, samples: int) -> Tensor:
    """RoIAlign of one image, aligned (the half-pixel shift of Detectron2).

    Args:
        features: (c, h, w).
        boxes: (n, 4) float32, pixels of the input, of which each cell spans 32.

    Returns:
        (n, c, bins, bins) in the dtype of ``features``; computed in float32.
    """
    x1, y1, x2, y2 = boxes.unbind(1)
    across = _sampling(x1, x2, features.shape[2], bins, samples)  # (n, bins, w)
    down = _sampling(y1, y2, features.shape[1], bins, samples)  # (n, bins, h)
    columns = torch.einsum("nxw,chw->nxhc", across, features.float())  # (n, bins, h, c)
    return torch.einsum("nyh,nxhc->ncyx", down, columns).to(features.dtype)


def _sampling(start: Tensor, stop: Tensor, cells: int, bins: int, samples: int) -> Tensor:
    """(n, bins, cells): what each cell along one axis contributes to each bin of intervals (n,), (n,)."""
    low = start / STRIDE - 0.5
    size = (stop / STRIDE - 0.5 - low) / bins
    steps = (torch.arange(samples, device=start.device) + 0.5) / samples
    offsets = (torch.arange(bins, device=start.device)[:, None] + steps) * size[:, None, None]
    at = low[:, None, None] + offsets  # (n, bins, samples), in cells
    inside = ((at >= -1) & (at <= cells))[..., None]  # samples beyond the map count as zero
    distance = at.clamp(0, cells - 1)[..., None] - torch.arange(cells, device=start.device)
    return ((1 - distance.abs()).clamp(min=0) * inside).mean(2)
