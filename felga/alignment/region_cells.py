"""What a frozen network sees of a region: a 7 x 7 map, RoIAligned from its last map of the whole image."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from felga.alignment.region_texts import RegionTexts
from felga.corpus.decode import read_image
from felga.encoders.inputs import scaled_boxes
from felga.encoders.one_pass import roi_align
from felga.files import storage_errors, write_whole
from felga.models.efficientnet import CHANNELS, DEFAULT, NETWORKS, STRIDE, shared_trunk
from felga.types import Boxes, DecodedImage, Progress

BINS, SAMPLES = 7, 2  # per side; RoIAlign's samples per bin and side
CELLS = BINS * BINS
SAVED_EVERY = 50  # images

Halves = npt.NDArray[np.float16]


def region_cells(image: DecodedImage, boxes: Boxes, device: torch.device) -> Tensor:
    """The 7 x 7 maps of regions: square roots of activations, as conse takes them for features.

    Args:
        boxes: (n, 4) pixels of the upright original.

    Returns:
        (n, 49, 1280) float32, cells row by row, from one pass that conse and the region head share.

    Raises:
        BadInputError: a box is not finite.
    """
    seen = shared_trunk(DEFAULT, device).maps(image).last
    height, width = (STRIDE * cells for cells in seen.shape[1:])
    rois = torch.from_numpy(scaled_boxes(image, boxes, height, width)).to(seen.device)
    with torch.inference_mode():
        aligned = roi_align(seen.float(), rois, BINS, SAMPLES)  # (n, 1280, 7, 7)
    return aligned.flatten(2).transpose(1, 2).clamp(min=0).sqrt()


def places(image: DecodedImage, boxes: Boxes) -> npt.NDArray[np.float32]:
    """Center, width and height of boxes as shares of the image's: (n, 4) float32."""
    size = np.array([image.width, image.height], np.float32)
    rows = np.asarray(boxes, np.float32).reshape(-1, 4)
    low, high = rows[:, :2] / size, rows[:, 2:] / size
    return np.concatenate([(low + high) / 2, high - low], 1)


def cell_settings() -> dict[str, Any]:
    """Json values: what decides the map of a region, beside the code."""
    settings = shared_trunk(DEFAULT, torch.device("cpu")).settings()
    return {
        "network": DEFAULT,
        "weights": NETWORKS[DEFAULT].sha256,
        "pass": settings,
        "bins": BINS,
        "samples": SAMPLES,
    }


class CellFile:
    """What was seen of the boxes of a :class:`RegionTexts`, on disk.

    A run that was killed goes on with the images that are missing; of other boxes all are made anew.

    Attributes:
        means: (N, 1280) float16, of each box the mean of its cells.
        places: (N, 4) float32, as of :func:`places`.
        cells: (D, 49, 1280) float16, of the described boxes.
    """

    def __init__(self, folder: Path, texts: RegionTexts) -> None:
        self._texts, self._list, self._folder = texts, folder / "cells.json", folder
        key = json.dumps(
            [
                cell_settings(),
                [one for one, _ in texts.images],
                texts.boxes.tolist(),
                texts.described.tolist(),
            ]
        )
        self._key = hashlib.sha256(key.encode()).hexdigest()
        done, total = self._done(), len(texts.boxes)
        self.means: Halves = self._array("means", done, (total, CHANNELS), np.float16)
        self.places: npt.NDArray[np.float32] = self._array("places", done, (total, 4), np.float32)
        described = (len(texts.described), CELLS, CHANNELS)
        self.cells: Halves = self._array("cells", done, described, np.float16)

    def fill(self, device: torch.device, progress: Progress) -> None:
        """Read the images that are missing, with the progress ``maps``.

        Raises:
            BadInputError: an image cannot be read.
            StorageError: the disk is full.
        """
        texts, total = self._texts, len(self._texts.images)
        bounds = np.searchsorted(texts.box_image, np.arange(total + 1))
        described = np.full(len(texts.boxes), -1)
        described[texts.described] = np.arange(len(texts.described))
        with storage_errors(self._folder):
            for at in range(self._done(), total):
                image_id, path = texts.images[at]
                own = slice(int(bounds[at]), int(bounds[at + 1]))
                if own.start < own.stop:
                    image = read_image(path, image_id)
                    cells = region_cells(image, texts.boxes[own], device)
                    self.means[own] = cells.mean(1).half().cpu().numpy()
                    self.places[own] = places(image, texts.boxes[own])
                    wanted = described[own] >= 0
                    self.cells[described[own][wanted]] = cells.half().cpu().numpy()[wanted]
                progress("maps", at + 1, total)
                if (at + 1) % SAVED_EVERY == 0 or at + 1 == total:
                    self._save(at + 1)

    def _save(self, done: int) -> None:
        arrays: tuple[Any, ...] = self.means, self.places, self.cells
        for array in arrays:
            array.flush()
        write_whole(self._list, json.dumps({"done": done, "of": self._key}).encode())

    def _done(self) -> int:
        if not self._list.exists():
            return 0
        said = json.loads(self._list.read_bytes())
        return int(said["done"]) if said["of"] == self._key else 0

    def _array(self, name: str, done: int, shape: tuple[int, ...], dtype: Any) -> Any:
        path = self._folder / f"{name}.npy"
        mode: Any = "r+" if done else "w+"
        with storage_errors(self._folder):
            return np.lib.format.open_memmap(path, mode, None if done else dtype, None if done else shape)
