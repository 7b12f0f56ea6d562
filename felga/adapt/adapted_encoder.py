"""The encoder ``adapted:FILE``: conse with classes of one's own.

conse's vector of a region is the mean of ImageNet's class vectors w_k, weighted by their probabilities p_k
(Norouzi et al., ICLR 2014, Eq. 4). The C classes of a head are appended, with MiniLM's vectors of their
names; their probabilities q_c and the background's sum to 1:

    v = (1 - g) sum_k p_k w_k + g sum_c s_c w_c,    s_c = q_c^2 / sum q^2,    g = max_c q_c

So p = (1 - g) p_imagenet + g s, with a gate g per region: where the head is not sure of one class, be it that
the region is background or something that nobody taught, the vector stays conse's. Texts are conse's.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from felga.adapt.adapted_head import AdaptedHead
from felga.encoders.conse import Conse, unit
from felga.models.efficientnet import DEFAULT
from felga.types import Boxes, DecodedImage, RegionFeatures, Vectors

SHARPNESS = 2.0
"""Exponent of q in s; it and the gate were chosen on held-out images of train2017 (docs/adapt.md)."""
LEAST = 1e-12  # no division by 0
VERSION = 1
"""Raised when the same file yields other vectors."""
Floats32: TypeAlias = npt.NDArray[np.float32]


def adapted(
    argument: str, *, device: str = "auto", batch_size: int = 32, pooling: str | None = None
) -> AdaptedConse:
    """The encoder ``adapted:FILE``; the other arguments are those of conse.

    Raises:
        As of :class:`AdaptedHead` and of :func:`felga.encoders.conse.conse`.
    """
    head = AdaptedHead(argument, "encoder", device)
    return AdaptedConse(head, Conse(DEFAULT, device=device, batch_size=batch_size, pooling=pooling))


class AdaptedConse:
    """conse with the classes of a head. Thread-safe.

    Attributes:
        pooling: of conse, ``roi`` or ``crop``; the head's features are always those of one pass.
    """

    def __init__(self, head: AdaptedHead, conse: Conse) -> None:
        self._head, self._conse = head, conse
        self.pooling = conse.pooling
        self._lock = threading.Lock()
        self._names: Vectors | None = None

    @property
    def name(self) -> str:
        """``adapted:FILE``."""
        return self._head.name

    @property
    def dim(self) -> int:
        """384, as of MiniLM."""
        return self._conse.dim

    @property
    def feature_dim(self) -> int:
        """1280, as of conse."""
        return self._conse.feature_dim

    def identity(self) -> Mapping[str, Any]:
        """conse's, which is its ``base``: a FENet of conse takes its vectors; and the file by its sha256."""
        own = self._conse.identity()
        head = self._head.settings()
        weights = own["weights"] | head.pop("weights")
        about = {"sharpness": SHARPNESS, "version": VERSION, **head}
        return {**own, "name": "adapted", "weights": weights, "adapted": about, "base": own}

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """As of conse: (n, 384) float32, of length 1."""
        return self._conse.encode_texts(texts)

    def encode_regions(self, images: Sequence[DecodedImage], boxes: Sequence[Boxes]) -> list[Vectors]:
        """Unit vectors of regions: ``boxes[i]`` (n_i, 4) of ``images[i]`` -> (n_i, 384) float32.

        Raises:
            BadInputError: as of conse, or the file is damaged or of other features.
            MissingError: weights are missing or damaged.
        """
        return [vectors for vectors, _ in self.encode_features(images, boxes)]

    def encode_features(
        self, images: Sequence[DecodedImage], boxes: Sequence[Boxes]
    ) -> list[tuple[Vectors, RegionFeatures]]:
        """Vectors (n_i, 384), and conse's features (n_i, 1280) float16; raises as :meth:`encode_regions`."""
        names = self._class_vectors()  # (C, 384)
        found = []
        for image, own, (means, features) in zip(
            images, boxes, self._conse.combine(images, boxes), strict=True
        ):
            if len(means):
                means = mixed(means, self._head.probabilities(image, own)[:, :-1], names)
            found.append((unit(means), features))
        return found

    def _class_vectors(self) -> Vectors:
        with self._lock:
            if self._names is None:
                self._names = self._conse.encode_texts(self._head.classes)
            return self._names


def mixed(means: Floats32, chances: Floats32, names: Vectors) -> Floats32:
    """The vectors v (n, 384), before they are scaled to length 1.

    Args:
        means: (n, 384), conse's.
        chances: (n, C), the probabilities q.
        names: (C, 384), unit vectors of the class names.
    """
    gate = chances.max(1, keepdims=True)  # (n, 1)
    sharp = (chances / np.maximum(gate, LEAST)) ** SHARPNESS
    own = (sharp / sharp.sum(1, keepdims=True).clip(LEAST)) @ names  # (n, 384)
    vectors: Floats32 = (1 - gate) * means + gate * own
    return vectors
