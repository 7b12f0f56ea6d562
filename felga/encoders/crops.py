"""Crops of images in shared batches: cut, resize, normalize, encode.

A crop is resized as uint8 by torch's antialiased kernel: the pixels of PIL's resize (mean difference 0.04 of
255) at about a quarter of the cost. Normalization runs once per batch, on the model's device.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from felga.encoders.inputs import check_pairs, check_texts, scaled_boxes
from felga.models.fitting import Fitting
from felga.types import Boxes, DecodedImage, Vectors

T = TypeVar("T")
LONGEST_ASPECT = 8
VERSION = 1
"""Raised when the same settings yield other pixels."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a model expects its images, as its own configuration says.

    Attributes:
        size: (height, width) of the model's input.
        resize: ``squash`` to that size regardless of aspect ratio; ``shortest``: the short side fits and the
            center is cropped; ``longest``: the long side fits and the rest is filled with ``fill``.
        mean, std: per channel, for values from 0 to 1.
    """

    size: tuple[int, int]
    resize: Literal["squash", "shortest", "longest"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    fill: int = 0

    def settings(self) -> dict[str, Any]:
        """Json values, for an encoder's identity."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {"version": VERSION, **values}

    def fit(self, crop: Tensor) -> Tensor:
        """Resize (3, h, w) uint8 to (3, *size) uint8."""
        if self.resize == "squash":
            return self._resized(crop, self.size)
        height, width = crop.shape[1:]
        if self.resize == "shortest":
            # Beyond 8:1 the center is cropped first, or a strip of one pixel would grow by its whole length.
            crop = _center(crop, (min(height, LONGEST_ASPECT * width), min(width, LONGEST_ASPECT * height)))
            height, width = crop.shape[1:]
        ratios = (self.size[0] / height, self.size[1] / width)
        if self.resize == "shortest" and self.size[0] == self.size[1]:  # torchvision's Resize(int) truncates
            short = min(height, width)
            target = (int(self.size[0] * height / short), int(self.size[0] * width / short))
        else:
            ratio = max(ratios) if self.resize == "shortest" else min(ratios)
            target = (max(1, round(height * ratio)), max(1, round(width * ratio)))
        crop = self._resized(crop, target)
        if self.resize == "longest":
            down, right = self.size[0] - crop.shape[1], self.size[1] - crop.shape[2]
            sides = [right // 2, right - right // 2, down // 2, down - down // 2]
            crop = F.pad(crop, sides, value=float(self.fill))
        return _center(crop, self.size)

    def _resized(self, crop: Tensor, size: tuple[int, int]) -> Tensor:
        if tuple(crop.shape[1:]) == size:
            return crop
        return F.interpolate(crop[None], size, mode=self.interpolation, antialias=True)[0]

    def normalize(self, batch: Tensor, dtype: torch.dtype) -> Tensor:
        """(n, 3, h, w) uint8 -> the same normalized, in ``dtype`` and on its device."""
        scale = 1 / (255 * torch.tensor(self.std, device=batch.device).view(3, 1, 1))
        shift = torch.tensor(self.mean, device=batch.device).view(3, 1, 1) * 255 * scale
        return torch.mul(batch, scale).sub_(shift).to(dtype)  # two passes over memory, not four


@dataclass(frozen=True, slots=True)
class Crops:
    """Encodes each region by a forward pass over its crop.

    Attributes:
        batch_size: crops per forward pass; fewer from when the memory of a GPU does not suffice.
        device, dtype: of the model's input.
        dim: length of the vectors.
    """

    preprocessing: Preprocessing
    batch_size: int
    device: torch.device
    dtype: torch.dtype
    dim: int
    _fitting: Fitting = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_fitting", Fitting(self.batch_size))  # frozen but for this

    def encode(
        self, images: Sequence[DecodedImage], boxes: Sequence[Boxes], forward: Callable[[Tensor], Tensor]
    ) -> list[Vectors]:
        """Unit vectors of regions; the crops of many images share batches.

        Args:
            boxes: ``boxes[i]`` (n_i, 4) of ``images[i]``, pixels of the upright original.
            forward: (b, 3, h, w) of ``dtype`` on ``device`` -> (b, dim), of any length.

        Returns:
            Per image (n_i, dim) float32, each row of length 1, in the order of its boxes.

        Raises:
            BadInputError: the lists differ in length, or a box is not finite.
            MissingError: the memory of the device does not suffice for one crop.
        """
        outputs = [F.normalize(batch.float(), dim=-1) for batch in self.batches(images, boxes, forward)]
        return split(outputs, [len(np.reshape(rows, (-1, 4))) for rows in boxes], self.dim)

    def batches(
        self, images: Sequence[DecodedImage], boxes: Sequence[Boxes], forward: Callable[[Tensor], T]
    ) -> list[T]:
        """What ``forward`` returns for each batch of crops; arguments and errors of :meth:`encode`."""
        check_pairs(images, boxes)
        crops = (crop for image, rows in zip(images, boxes, strict=True) for crop in cut(image, rows))
        # A GPU waits for pixels, so several threads resize; on the CPU the model itself needs the cores.
        threads = min(8, os.cpu_count() or 1) if self.device.type == "cuda" else 1
        with ThreadPoolExecutor(threads) as pool, torch.inference_mode():

            def work(batch: list[Tensor]) -> T:
                fit = self.preprocessing.fit
                stacked = torch.stack(list(pool.map(fit, batch) if threads > 1 else map(fit, batch)))
                if self.device.type == "cuda":
                    stacked = stacked.pin_memory().to(self.device, non_blocking=True)
                return forward(self.preprocessing.normalize(stacked, self.dtype))  # (b, 3, h, w)

            return self._fitting.run(crops, work)


def cut(image: DecodedImage, boxes: Boxes) -> Iterator[Tensor]:
    """Views (3, h, w) uint8 of ``image`` inside ``boxes`` (n, 4), rounded to pixels, at least one.

    Raises:
        BadInputError: a box is not finite.
    """
    height, width = image.pixels.shape[:2]
    scaled = scaled_boxes(image, boxes, height, width)
    pixels = image.pixels if image.pixels.flags.writeable else image.pixels.copy()  # torch warns otherwise
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    limits = np.array([width, height, width, height], np.float32)
    for x1, y1, x2, y2 in np.round(np.clip(scaled, 0, limits)).astype(int).tolist():
        left, top = min(x1, width - 1), min(y1, height - 1)
        yield tensor[:, top : max(y2, top + 1), left : max(x2, left + 1)]


def encode_batches(
    texts: Sequence[str], *, batch_size: int, dim: int, forward: Callable[[list[str]], Tensor]
) -> Vectors:
    """Unit vectors (n, dim) float32 of texts, ``batch_size`` per forward pass.

    Raises:
        BadInputError: as :func:`felga.encoders.inputs.check_texts`.
    """
    check_texts(texts)
    with torch.inference_mode():
        outputs = Fitting(batch_size).run(texts, lambda batch: F.normalize(forward(batch).float(), dim=-1))
    return split(outputs, [len(texts)], dim)[0]


def split(outputs: Sequence[Tensor], counts: Sequence[int], dim: int) -> list[Vectors]:
    """Rows (n, dim) of batches regrouped per image; they leave the device once."""
    rows = torch.cat(list(outputs)).cpu().numpy() if outputs else np.zeros((0, dim), np.float32)
    return [np.ascontiguousarray(part) for part in np.split(rows, np.cumsum(counts)[:-1])] if counts else []


def _center(crop: Tensor, size: tuple[int, int]) -> Tensor:
    """The central part of (3, h, w), of at most ``size``, anchored as by torchvision's center_crop."""
    height, width = min(size[0], crop.shape[1]), min(size[1], crop.shape[2])
    top, left = round((crop.shape[1] - height) / 2), round((crop.shape[2] - width) / 2)
    return crop[:, top : top + height, left : left + width]
