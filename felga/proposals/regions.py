"""What all box sources share: the step from boxes to regions, and input that detectors can resize."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from felga.boxes import area
from felga.types import Box, DecodedImage, Pixels, Region

WHOLE = 0.99
"""A box covering at least this share of the image counts as the whole image, which is indexed separately."""


def as_regions(
    image: DecodedImage,
    boxes: npt.ArrayLike,
    scores: npt.ArrayLike,
    top: int,
    labels: Sequence[str | None] | None = None,
    *,
    frame: tuple[float, float] | None = None,
) -> list[Region]:
    """Boxes as regions: scaled and clipped to the image, best first, no duplicates.

    Dropped are boxes with a coordinate or score that is not finite, boxes that enclose nothing inside the
    image, and boxes that cover all of it (:data:`WHOLE`). Of equal boxes the best one stays.

    Args:
        boxes: (n, 4) ``x1, y1, x2, y2`` in the units of ``frame``.
        scores: (n,), higher is better; ties keep their order.
        labels: (n,) class names, None where there is none.
        frame: width and height of the image that the boxes refer to, such as the resized input of a
            network, or ``(1, 1)`` for shares; default: the upright original.

    Returns:
        At most ``top`` regions; coordinates are rounded to float32, the precision that an index stores.
    """
    corners = np.asarray(boxes, np.float64).reshape(-1, 4)
    values = np.asarray(scores, np.float64).reshape(-1)
    width, height = frame or (image.width, image.height)
    scale = np.array([image.width / width, image.height / height] * 2)
    limits = np.array([image.width, image.height] * 2, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(corners).all(1) & np.isfinite(values.astype(np.float32))
        cut = np.clip(corners * scale, 0, limits).astype(np.float32).astype(np.float64)
    areas = area(cut)
    usable = finite & (areas > 0) & (areas < WHOLE * image.width * image.height)
    regions: dict[Box, Region] = {}
    for i in np.argsort(-values, kind="stable").tolist():
        if len(regions) >= top:
            break
        if usable[i]:
            x1, y1, x2, y2 = cut[i].tolist()
            label = None if labels is None else labels[i]
            regions.setdefault((x1, y1, x2, y2), Region((x1, y1, x2, y2), float(values[i]), label=label))
    return list(regions.values())


def stretched(pixels: Pixels) -> Pixels:
    """A writable copy of ``pixels``; strips longer than 32:1 are stretched to 32:1.

    Detectors limit the longer side, so the shorter side of a longer strip would round to zero.
    """
    height, width = pixels.shape[:2]
    down, right = max(1, -(-width // (32 * height))), max(1, -(-height // (32 * width)))
    return np.ascontiguousarray(pixels.repeat(down, 0).repeat(right, 1)).copy()
