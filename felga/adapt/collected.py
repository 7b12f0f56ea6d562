"""The examples of a training as a frozen network's features, on disk: one pass over each image."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from felga.adapt.examples import Task
from felga.adapt.roi_features import RoiFeatures
from felga.corpus.decode import read_image
from felga.errors import NotFoundError
from felga.files import shown
from felga.types import Progress, Rows

PROPOSALS = 100  # per image
CHUNK = 4096  # rows read at once


class Collected:
    """Features (n, dim) float16 and labels (n,) of all examples, image by image.

    Beside the features a list has one line per image, written once its features are: a run that was killed
    goes on with the next image.

    Attributes:
        labels: (n,) int64.
        features: (n, dim) float16, on disk.
    """

    def __init__(self, folder: Path, dim: int) -> None:
        self._file, self._list, self._dim = folder / "features.bin", folder / "features.jsonl", dim
        self.labels: Rows = np.empty(0, np.int64)
        self.features: npt.NDArray[np.float16] = np.empty((0, dim), np.float16)

    def fill(self, task: Task, images: Path, roi: RoiFeatures, progress: Progress) -> None:
        """Add the images that are missing.

        Raises:
            NotFoundError: an image is not in the folder; before any work.
            BadInputError: an image cannot be decoded, or a box lies outside its image.
        """
        check_images(task, images)
        labels, lines = self._done(list(task.images))
        with self._file.open("ab") as features, self._list.open("ab") as listed:
            features.truncate(2 * self._dim * sum(map(len, labels)))
            listed.truncate(sum(map(len, lines)))
            for image_id, name in list(task.images.items())[len(labels) :]:
                image = read_image(images / name, image_id)
                proposed = [region.box for region in roi.propose(image, PROPOSALS)]
                own = task.examples(image, np.array(proposed, np.float32).reshape(-1, 4))
                features.write(roi.features(image, own.boxes).astype(np.float16).tobytes())
                features.flush()
                listed.write(json.dumps([image_id, own.labels.tolist()]).encode() + b"\n")
                listed.flush()
                labels.append(own.labels.tolist())
                progress("images", len(labels), len(task.images))
        self.labels = np.array([label for own in labels for label in own], np.int64)
        if len(self.labels):
            rows = np.memmap(self._file, np.float16, "r").reshape(-1, self._dim)
            self.features = rows

    def _done(self, ids: list[str]) -> tuple[list[list[int]], list[bytes]]:
        """The labels of the images that a killed run had done, and their lines."""
        lines = self._list.read_bytes().splitlines(keepends=True) if self._list.exists() else []
        lines = [line for line in lines if line.endswith(b"\n")]
        entries = [json.loads(line) for line in lines]
        rows = sum(len(own) for _, own in entries)
        size = self._file.stat().st_size if self._file.exists() else 0
        if [one for one, _ in entries] != ids[: len(entries)] or size < 2 * self._dim * rows:
            return [], []
        return [own for _, own in entries], lines

    def chunks(self) -> Iterator[npt.NDArray[np.float32]]:
        """All features, in float32, :data:`CHUNK` rows at a time."""
        for start in range(0, len(self.features), CHUNK):
            yield self.features[start : start + CHUNK].astype(np.float32)

    def scale(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Mean and standard deviation of each feature, (dim,) each; the deviation is at least 1e-3."""
        total, squares = np.zeros(self._dim), np.zeros(self._dim)
        for chunk in self.chunks():
            total += chunk.sum(0, dtype=np.float64)
            squares += np.square(chunk, dtype=np.float64).sum(0)
        mean = total / len(self.features)
        deviation = np.sqrt(np.maximum(squares / len(self.features) - mean**2, 0))
        return mean.astype(np.float32), np.maximum(deviation, 1e-3).astype(np.float32)


def check_images(task: Task, images: Path) -> None:
    """Refuse a folder that lacks an image.

    Raises:
        NotFoundError: names the first one.
    """
    missing = [name for name in task.images.values() if not (images / name).is_file()]
    if missing:
        raise NotFoundError(
            f"{len(missing)} of {len(task.images)} images are not in {shown(images)}, such as "
            f"{shown(missing[0])}: name the folder of the images"
        )
