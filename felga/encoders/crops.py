"""The shared ground of encoders that see one crop at a time: cut, resize, batch over images, normalise.

A crop is resized as uint8 with torchvision's antialiased kernel: the pixels of PIL's resize (mean difference
0.04 of 255) at about a quarter of the cost. Normalisation runs once a batch, on the model's device.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Literal, cast

import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from felga.errors import BadInputError
from felga.types import Boxes, DecodedImage, Vectors

LONGEST_ASPECT = 8


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a model wants its images; read from the model's own configuration.

    Attributes:
        size: (height, width) of the model's input.
        resize: ``squash`` to that size whatever the aspect; ``shortest``: the short side fits, the middle is
            cut out; ``longest``: the long side fits, the rest is filled with ``fill``.
        mean, std: of the channels, for values 0 to 1.
    """

    size: tuple[int, int]
    resize: Literal["squash", "shortest", "longest"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    fill: int = 0

    def settings(self) -> dict[str, Any]:
        """Json values, for an encoder's identity."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def fit(self, crop: torch.Tensor) -> torch.Tensor:
        """Resize (3, h, w) uint8 to (3, *size) uint8."""
        if self.resize == "squash":
            return self._scaled(crop, self.size)
        height, width = crop.shape[1:]
        if self.resize == "shortest":
            # Beyond 8:1 the middle is cut out first, else a strip of one pixel grows by its whole length.
            crop = F.center_crop(
                crop, [min(height, LONGEST_ASPECT * width), min(width, LONGEST_ASPECT * height)]
            )
            height, width = crop.shape[1:]
        ratios = (self.size[0] / height, self.size[1] / width)
        if self.resize == "shortest" and self.size[0] == self.size[1]:  # torchvision's Resize(int) truncates
            short = min(height, width)
            target = (int(self.size[0] * height / short), int(self.size[0] * width / short))
        else:
            ratio = max(ratios) if self.resize == "shortest" else min(ratios)
            target = (max(1, round(height * ratio)), max(1, round(width * ratio)))
        crop = self._scaled(crop, target)
        if self.resize == "longest":
            down, right = self.size[0] - crop.shape[1], self.size[1] - crop.shape[2]
            sides = [right // 2, down // 2, right - right // 2, down - down // 2]
            crop = F.pad(crop, sides, fill=[float(self.fill)])
        return cast(torch.Tensor, F.center_crop(crop, list(self.size)))

    def _scaled(self, crop: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        mode = InterpolationMode(self.interpolation)
        return cast(torch.Tensor, F.resize(crop, list(size), interpolation=mode, antialias=True))

    def normalise(self, batch: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """(n, 3, h, w) uint8 -> the same in ``dtype``, on its device."""
        scale = 1 / (255 * torch.tensor(self.std, device=batch.device).view(3, 1, 1))
        shift = torch.tensor(self.mean, device=batch.device).view(3, 1, 1) * 255 * scale
        return torch.mul(batch, scale).sub_(shift).to(dtype)  # two passes over memory, not four


def cut(image: DecodedImage, boxes: Boxes) -> Iterator[torch.Tensor]:
    """Views (3, h, w) uint8 of ``image`` inside ``boxes`` (n, 4); rounded to pixels, one at least.

    Raises:
        BadInputError: a box is not finite.
    """
    scaled = image.in_pixels(boxes)
    if not np.isfinite(scaled).all():
        raise BadInputError(f"a box of {image.image_id!r} holds a value that is not finite")
    height, width = image.pixels.shape[:2]
    pixels = image.pixels if image.pixels.flags.writeable else image.pixels.copy()  # torch wants it so
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    limits = np.array([width, height, width, height], np.float32)
    for x1, y1, x2, y2 in np.round(np.clip(scaled, 0, limits)).astype(int).tolist():
        left, top = min(x1, width - 1), min(y1, height - 1)
        yield tensor[:, top : max(y2, top + 1), left : max(x2, left + 1)]


def encode_crops(
    images: Sequence[DecodedImage],
    boxes: Sequence[Boxes],
    *,
    preprocessing: Preprocessing,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
    dim: int,
    forward: Callable[[torch.Tensor], torch.Tensor],
    rows: int = 1,
) -> list[Vectors]:
    """Encode the crops of many images in shared batches.

    Args:
        boxes: ``boxes[i]`` (n_i, 4) of ``images[i]``, pixels of the upright original.
        forward: (b, 3, h, w) of ``dtype`` on ``device`` -> (b * rows, dim), of any length.
        rows: vectors of one crop.

    Returns:
        For each image (n_i * rows, dim) float32, each row of length 1, in the order of its boxes.

    Raises:
        BadInputError: not as many lists of boxes as images, or a box that is not finite.
    """
    if len(images) != len(boxes):
        raise BadInputError(f"{len(images)} images came with {len(boxes)} lists of boxes")
    crops = (crop for image, own in zip(images, boxes, strict=True) for crop in cut(image, own))
    # A GPU waits for pixels, so several threads resize; on the CPU the model itself needs the cores.
    threads = min(8, os.cpu_count() or 1) if device.type == "cuda" else 1
    outputs: list[torch.Tensor] = []
    with ThreadPoolExecutor(threads) as pool, torch.inference_mode():
        while batch := list(islice(crops, batch_size)):
            fit = pool.map(preprocessing.fit, batch) if threads > 1 else map(preprocessing.fit, batch)
            stacked = torch.stack(list(fit))  # (b, 3, h, w) uint8
            if device.type == "cuda":
                stacked = stacked.pin_memory().to(device, non_blocking=True)
            vectors = forward(preprocessing.normalise(stacked, dtype)).float()  # (b, dim)
            outputs.append(torch.nn.functional.normalize(vectors, dim=-1))
    return split(outputs, [rows * len(np.reshape(own, (-1, 4))) for own in boxes], dim)


def encode_batches(
    texts: Sequence[str], *, batch_size: int, dim: int, forward: Callable[[list[str]], torch.Tensor]
) -> Vectors:
    """Encode texts, ``batch_size`` at a time: (n, dim) float32, each row of length 1."""
    outputs = []
    with torch.inference_mode():
        for start in range(0, len(texts), batch_size):
            vectors = forward(list(texts[start : start + batch_size])).float()
            outputs.append(torch.nn.functional.normalize(vectors, dim=-1))
    return split(outputs, [len(texts)], dim)[0]


def split(outputs: Sequence[torch.Tensor], counts: Sequence[int], dim: int) -> list[Vectors]:
    """Rows of batches, regrouped by owner; leaves the device once."""
    rows = torch.cat(list(outputs)).cpu().numpy() if outputs else np.zeros((0, dim), np.float32)
    return [np.ascontiguousarray(part) for part in np.split(rows, np.cumsum(counts)[:-1])] if counts else []
