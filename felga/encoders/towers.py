"""What the encoders with a checkpoint of two towers have in common: clip, blip and blip2."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from felga.encoders.crops import Crops, Preprocessing, encode_batches
from felga.models.weights import is_offline, offline
from felga.types import Boxes, DecodedImage, Vectors

Tower = Literal["visual", "text"]
VERSION = 1
"""Raised when clip, blip or blip2 yields other vectors from the same weights and preprocessing."""


class TwoTowers(ABC):
    """A frozen encoder whose towers are read from a checkpoint on first use. Thread-safe.

    Attributes:
        device: of the towers.
        dtype: float16 on a GPU, else float32.
        batch_size: crops or texts per forward pass.
        preprocessing: of crops.
    """

    preprocessing: Preprocessing

    def __init__(self, name: str, *, device: torch.device, batch_size: int) -> None:
        self._name = name
        self.device = device
        self.dtype = torch.float16 if device.type == "cuda" else torch.float32
        self.batch_size = batch_size
        self._offline = is_offline()
        self._lock = threading.RLock()
        self._towers: dict[Tower, nn.Module] = {}

    @property
    def name(self) -> str:
        """The name under which it can be made again."""
        return self._name

    @property
    @abstractmethod
    def dim(self) -> int:
        """Length of its vectors."""

    def identity(self) -> dict[str, Any]:
        """What makes two vectors comparable. The precision is left out: vectors of half and of full
        precision compare, so an index built on a GPU is searched on a CPU.

        Raises:
            MissingError: the weights are neither on this machine nor downloadable.
        """
        with self._lock, offline(self._offline):
            weights = self._sha256()
        return {
            "name": self._family_name(),
            "version": VERSION,
            "dim": self.dim,
            "weights": weights,
            "preprocessing": self.preprocessing.settings(),
            "pooling": "crop",
        }

    def encode_regions(self, images: Sequence[DecodedImage], boxes: Sequence[Boxes]) -> list[Vectors]:
        """Unit vectors of crops: ``boxes[i]`` (n_i, 4) of ``images[i]`` -> (n_i, dim) float32.

        Raises:
            BadInputError: the weights are truncated or of another model, or a box is not finite.
            NotFoundError: the weight file is gone.
            MissingError: the weights are neither on this machine nor downloadable.
        """
        return self._crops.encode(images, boxes, self._embed_pixels)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors of texts: (n, dim) float32; text beyond the model's context is not read.

        Raises:
            BadInputError, NotFoundError, MissingError: as :meth:`encode_regions`.
        """
        return encode_batches(texts, batch_size=self.batch_size, dim=self.dim, forward=self._embed_texts)

    @cached_property
    def _crops(self) -> Crops:
        return Crops(self.preprocessing, self.batch_size, self.device, self.dtype, self.dim)

    def _tower(self, tower: Tower) -> Any:
        with self._lock, offline(self._offline):
            if tower not in self._towers:
                self._towers[tower] = self._load(tower)
            return self._towers[tower]

    @cached_property
    def _text_tokenizer(self) -> Any:
        with self._lock, offline(self._offline):
            return self._load_tokenizer()

    @abstractmethod
    def _family_name(self) -> str:
        """The name without paths of this machine; the hash of the weights says the rest."""

    @abstractmethod
    def _sha256(self) -> str:
        """Of the weights."""

    @abstractmethod
    def _load(self, tower: Tower) -> nn.Module:
        """The tower on its device, frozen."""

    @abstractmethod
    def _load_tokenizer(self) -> Any:
        """The tokenizer of the texts."""

    @abstractmethod
    def _embed_pixels(self, batch: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, dim)."""

    @abstractmethod
    def _embed_texts(self, batch: list[str]) -> Tensor:
        """-> (b, dim)."""
