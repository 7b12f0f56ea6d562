"""Frozen RoI features: what a frozen network sees in any box of an image, and the boxes that it proposes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from felga.errors import BadInputError
from felga.registry import make_encoder, make_regions
from felga.types import Boxes, DecodedImage, FeatureEncoder, Region, RegionProposer

if TYPE_CHECKING:
    from felga.proposals.torchvision import Rpn


class RoiFeatures(Protocol):
    """A frozen detector without classes. Thread-safe; both methods share one pass over an image."""

    @property
    def dim(self) -> int:
        """Length of the features of a box."""
        ...

    def settings(self) -> Mapping[str, Any]:
        """Everything that decides boxes and features: json values, weights by sha256."""
        ...

    def propose(self, image: DecodedImage, top: int) -> list[Region]:
        """At most ``top`` regions, best first, never the whole image."""
        ...

    def features(self, image: DecodedImage, boxes: Boxes) -> npt.NDArray[np.float32]:
        """Of boxes (n, 4) of any origin, in pixels of the upright original: (n, dim) float32."""
        ...


class ConseFeatures:
    """The boxes of ``learned``, and conse's features of regions (:meth:`FeatureEncoder.encode_features`)."""

    def __init__(self, regions: RegionProposer, device: str) -> None:
        self._regions = regions
        encoder = make_encoder("conse", device=device)
        assert isinstance(encoder, FeatureEncoder)
        self._encoder = encoder

    @property
    def dim(self) -> int:
        """1280."""
        return self._encoder.feature_dim

    def settings(self) -> Mapping[str, Any]:
        """Of conse, and of the proposer."""
        return {"features": dict(self._encoder.identity()), "regions": dict(self._regions.settings())}

    def propose(self, image: DecodedImage, top: int) -> list[Region]:
        """Best predicted IoU first."""
        return self._regions.propose([image], top)[0]

    def features(self, image: DecodedImage, boxes: Boxes) -> npt.NDArray[np.float32]:
        """Square roots of mean activations, less a part of the surroundings'."""
        return self._encoder.encode_features([image], [boxes])[0][1].astype(np.float32)


class TorchvisionFeatures:
    """The boxes of a torchvision detector's RPN, and what its frozen box head sees of a box."""

    dim = 1024  # of every box head of torchvision

    def __init__(self, regions: Rpn) -> None:
        self._regions = regions

    def settings(self) -> Mapping[str, Any]:
        """Of the detector: its box head is in the same weight file."""
        return self._regions.settings()

    def propose(self, image: DecodedImage, top: int) -> list[Region]:
        """Best objectness first."""
        return self._regions.propose([image], top)[0]

    def features(self, image: DecodedImage, boxes: Boxes) -> npt.NDArray[np.float32]:
        """As :meth:`felga.proposals.torchvision.Rpn.box_features`."""
        return self._regions.box_features(image, boxes)


def roi_features(regions: str, device: str) -> RoiFeatures:
    """The frozen features that go with the boxes of a region proposer.

    Args:
        regions: ``learned``, ``learned:FILE``, or ``torchvision:...`` as for ``--regions``.

    Raises:
        BadInputError: another proposer; or, as MissingError and NotFoundError, what its factory raises.
    """
    family = regions.partition(":")[0]
    if family == "learned":
        return ConseFeatures(make_regions(regions, device=device), device)
    if family == "torchvision":
        from felga.proposals.torchvision import torchvision

        return TorchvisionFeatures(torchvision(regions.partition(":")[2], device=device))
    raise BadInputError(
        f"a head can read the features of learned, learned:FILE and torchvision:MODEL, not of {regions!r}"
    )
