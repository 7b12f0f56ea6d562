"""A file of ``felga adapt``: a linear head on frozen RoI features, its classes, and where they come from."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from felga.adapt.roi_features import RoiFeatures, roi_features
from felga.errors import BadInputError
from felga.files import canonical, sha256_file, shown
from felga.models.arrays import Arrays, read_about, read_arrays
from felga.types import Boxes, DecodedImage

KIND = "adapted"
FIELDS = {"supervision": str, "classes": list, "regions": str, "frozen": dict}
AGAIN = "train it with felga adapt"


class AdaptedHead:
    """Class probabilities of boxes. The weights are loaded on first use. Thread-safe.

    Attributes:
        path: of the file, absolute.
        classes: C names.
        roi: the frozen network whose features it reads.
    """

    def __init__(self, argument: str, family: str, device: str) -> None:
        """
        Args:
            argument: the file.
            family: what it is for, ``encoder`` or ``regions``; for error messages.

        Raises:
            NotFoundError, BadInputError: no file, or one of another kind, damaged, or of other features.
            MissingError: the frozen network is not on this machine, or no such device.
        """
        if not argument:
            raise BadInputError(f"adapted needs a file of felga adapt: --{family} adapted:FILE")
        self.path = Path(argument).expanduser().absolute()
        about = read_about(self.path, KIND)
        self.classes = tuple(_checked(self.path, about)["classes"])
        self._about = about
        self.roi: RoiFeatures = roi_features(about["regions"], device)
        self._lock = threading.Lock()
        self._arrays: Arrays | None = None

    @property
    def name(self) -> str:
        """``adapted:FILE``."""
        return f"adapted:{self.path}"

    def settings(self) -> dict[str, Any]:
        """The sha256 of the file, its classes, whose boxes and names they are, and the frozen network.

        Raises:
            BadInputError: the file was trained on features of other weights than those here.
        """
        frozen = canonical(dict(self.roi.settings()))
        if frozen != self._about["frozen"]:
            raise BadInputError(
                f"{shown(self.path)} was trained on features of another {self._about['regions']!r} (other "
                f"weights or preprocessing): {AGAIN}"
            )
        return {
            "weights": {"head": sha256_file(self.path)},
            "classes": list(self.classes),
            "supervision": self._about["supervision"],
            "frozen": frozen,
        }

    def probabilities(self, image: DecodedImage, boxes: Boxes) -> npt.NDArray[np.float32]:
        """Of boxes (n, 4) in pixels of the original: (n, C + 1) float32, the last column the background's.

        Raises:
            BadInputError: the weights are not those of such a head.
        """
        arrays = self._weights()
        logits = self.roi.features(image, boxes) @ arrays["weight"].T + arrays["bias"]
        grown = np.exp(logits - logits.max(1, keepdims=True, initial=-np.inf))
        found: npt.NDArray[np.float32] = grown / grown.sum(1, keepdims=True)
        return found

    def _weights(self) -> Mapping[str, npt.NDArray[Any]]:
        with self._lock:
            if self._arrays is None:
                self.settings()
                arrays, _ = read_arrays(self.path, KIND)
                rows = len(self.classes) + 1
                expected = {"weight": (rows, self.roi.dim), "bias": (rows,)}
                if {name: array.shape for name, array in arrays.items()} != expected or not all(
                    array.dtype == np.float32 and np.isfinite(array).all() for array in arrays.values()
                ):
                    raise BadInputError(f"{shown(self.path)} holds no head for its classes: {AGAIN}")
                self._arrays = arrays
            return self._arrays


def _checked(path: Path, about: Mapping[str, Any]) -> Mapping[str, Any]:
    """Its fields have their types.

    Raises:
        BadInputError: one has not.
    """
    for name, kind in FIELDS.items():
        if not isinstance(about.get(name), kind):
            raise BadInputError(f"{shown(path)} does not say its {name}: {AGAIN}")
    names = about["classes"]
    if not names or not all(isinstance(one, str) for one in names) or len(set(names)) != len(names):
        raise BadInputError(f"{shown(path)} does not name its classes, each once: {AGAIN}")
    return about
