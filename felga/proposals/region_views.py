"""What a region head learns from: views of images, as a frozen network's maps on disk, and their boxes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from felga.corpus.coco import Instances
from felga.corpus.decode import read_image
from felga.models.efficientnet import DEFAULT, LONGER_SIDE, STRIDES, Trunk
from felga.proposals.region_head import CHANNELS
from felga.types import Box, Boxes, DecodedImage, Progress

SIDES = (LONGER_SIDE, 384)  # longer sides of the views, in pixels; each also mirrored


class Objects(NamedTuple):
    """The boxes of an image, as shares of its width and height: (n, 4) float32 each."""

    objects: Boxes
    crowds: Boxes

    @classmethod
    def of(cls, truth: Instances, image_id: str, size: tuple[int, int], kept: set[int] | None) -> Objects:
        """The boxes of the categories ``kept`` (None: all), and all crowds; ``size`` is (width, height)."""
        rows: tuple[list[Box], list[Box]] = ([], [])
        for one in truth.truths[image_id]:
            if one.crowd or kept is None or one.category_id in kept:
                rows[one.crowd].append(one.box)
        scale = np.array([*size, *size], np.float32)
        return cls(*(np.array(own, np.float32).reshape(-1, 4) / scale for own in rows))

    def seen(self, view: View) -> tuple[Tensor, Tensor]:
        """Both in pixels of a view: (n, 4) each."""
        scale = np.array([view.width, view.height] * 2, np.float32)
        parts = self
        if view.mirrored:
            parts = Objects(*(np.stack([1 - b[:, 2], b[:, 1], 1 - b[:, 0], b[:, 3]], 1) for b in self))
        return torch.from_numpy(parts.objects * scale), torch.from_numpy(parts.crowds * scale)


@dataclass(frozen=True, slots=True)
class View:
    """A view of an image: the size of the network's input, and where its maps begin among all numbers."""

    image_id: str
    mirrored: bool
    height: int
    width: int
    start: int

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """Of its maps: (c, h / s, w / s)."""
        return [(c, self.height // s, self.width // s) for c, s in zip(CHANNELS, STRIDES, strict=True)]


class Views:
    """The maps of all views of some images, float16, in one file.

    Beside it a list has one line per image, written once its maps are: a run that was killed goes on with the
    next image.
    """

    def __init__(self, folder: Path) -> None:
        self._maps, self._list = folder / "maps.bin", folder / "maps.jsonl"
        self.views: list[View] = []
        self._end = 0
        self._numbers = np.empty(0, np.float16)

    def fill(self, images: Sequence[tuple[str, Path]], device: torch.device, progress: Progress) -> None:
        """Add the images (id, file) that are missing; of another list of images all are made anew."""
        lines = self._list.read_bytes().splitlines(keepends=True) if self._list.exists() else []
        entries = [json.loads(line) for line in lines if line.endswith(b"\n")]
        if [entry[0] for entry in entries] != [image_id for image_id, _ in images[: len(entries)]]:
            entries = []
        for image_id, sizes in entries:
            self._add(image_id, sizes)
        trunks = [Trunk(DEFAULT, device, side) for side in SIDES]
        with self._maps.open("ab") as maps, self._list.open("ab") as listed:
            maps.truncate(2 * self._end)
            listed.truncate(sum(map(len, lines[: len(entries)])))
            for number, (image_id, path) in enumerate(images[len(entries) :], len(entries) + 1):
                image = read_image(path, image_id)
                sizes = []
                for trunk in trunks:
                    for one in (image, _mirrored(image)):
                        levels = [level.half().cpu().numpy() for level in trunk.maps(one).levels]
                        maps.writelines(level.tobytes() for level in levels)
                    sizes.append([STRIDES[0] * side for side in levels[0].shape[1:]])
                maps.flush()
                listed.write(json.dumps([image_id, sizes]).encode() + b"\n")
                listed.flush()
                self._add(image_id, sizes)
                progress("maps", number, len(images))
        self._numbers = np.memmap(self._maps, np.float16, "r")

    def _add(self, image_id: str, sizes: Sequence[Sequence[int]]) -> None:
        for height, width in sizes:
            for mirrored in (False, True):
                view = View(image_id, mirrored, height, width, self._end)
                self.views.append(view)
                self._end += sum(c * h * w for c, h, w in view.shapes)

    def batch(self, views: Sequence[View]) -> list[Tensor]:
        """Their maps, padded to one size on the right and below: (b, c, h / s, w / s) float32 each."""
        height, width = max(view.height for view in views), max(view.width for view in views)
        levels: list[list[Tensor]] = [[] for _ in STRIDES]
        for view in views:
            at = view.start
            for level, (c, h, w) in enumerate(view.shapes):
                numbers = np.array(self._numbers[at : at + c * h * w], np.float32).reshape(c, h, w)
                at += c * h * w
                missing = width // STRIDES[level] - w, height // STRIDES[level] - h
                levels[level].append(F.pad(torch.from_numpy(numbers), (0, missing[0], 0, missing[1])))
        stacked = [torch.stack(level) for level in levels]
        return [one.contiguous(memory_format=torch.channels_last) for one in stacked]  # faster on a CPU


def _mirrored(image: DecodedImage) -> DecodedImage:
    pixels = np.ascontiguousarray(image.pixels[:, ::-1])
    return DecodedImage(image.image_id, pixels, image.width, image.height)
