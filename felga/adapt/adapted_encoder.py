"""The encoder ``adapted:FILE``: conse with classes of one's own.

conse's vector of a region is the mean of ImageNet's class vectors w_k, weighted by their probabilities p_k
(Norouzi et al., ICLR 2014, Eq. 4). The C classes of a head are appended, with their probabilities q_c
and MiniLM's vectors of their names:

    v = (1 - g) sum_k p_k w_k + sum_c G q_c w_c,    g = G sum_c q_c = G (1 - q_background)

So p = (1 - g) p_imagenet + g p_adapted with a gate g per region: what the head takes for background keeps
conse's vector. Texts are conse's.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from felga.adapt.adapted_head import AdaptedHead
from felga.encoders.conse import Conse, unit
from felga.types import Boxes, DecodedImage, RegionFeatures, Vectors

GATE = 1.0
"""G, chosen on images of train2017 that were held out (docs/adapt.md)."""
VERSION = 1
"""Raised when the same file yields other vectors."""


def adapted(
    argument: str, *, device: str = "auto", batch_size: int = 32, pooling: str | None = None
) -> AdaptedConse:
    """The encoder ``adapted:FILE``; the other arguments are those of conse.

    Raises:
        As of :class:`AdaptedHead` and of :func:`felga.encoders.conse.conse`.
    """
    head = AdaptedHead(argument, "encoder", device)
    return AdaptedConse(head, Conse("lite0", device=device, batch_size=batch_size, pooling=pooling))


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
        """conse's, and the file by its sha256."""
        own = self._conse.identity()
        head = self._head.settings()
        weights = own["weights"] | head.pop("weights")
        mixed = {"gate": GATE, "version": VERSION, **head}
        return {**own, "name": "adapted", "weights": weights, "adapted": mixed}

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
                taken = GATE * self._head.probabilities(image, own)[:, :-1]  # (n, C)
                means = (1 - taken.sum(1, keepdims=True)) * means + taken @ names
            found.append((unit(means), features))
        return found

    def _class_vectors(self) -> Vectors:
        with self._lock:
            if self._names is None:
                self._names = self._conse.encode_texts(self._head.classes)
            return self._names
