"""Arithmetic of boxes ``x1, y1, x2, y2`` in any unit: area, overlap, and which ones are no duplicates."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from felga.types import Rows

AnyFloats: TypeAlias = npt.NDArray[np.floating[Any]]
"""float32 or float64; a result has the precision of its arguments."""


def area(boxes: AnyFloats) -> AnyFloats:
    """Areas of boxes, (n, 4) -> (n,); 0 where a side is not positive."""
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    areas: AnyFloats = sides[:, 0] * sides[:, 1]
    return areas


def iou(a: AnyFloats, b: AnyFloats) -> AnyFloats:
    """Intersection over union, (n, 4) and (m, 4) -> (n, m); 0 where a box has no area."""
    width = np.minimum(a[:, 2, None], b[:, 2]) - np.maximum(a[:, 0, None], b[:, 0])
    height = np.minimum(a[:, 3, None], b[:, 3]) - np.maximum(a[:, 1, None], b[:, 1])
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    union = area(a)[:, None] + area(b) - shared
    ratio: AnyFloats = np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)
    return ratio


def distinct(boxes: AnyFloats, most: int, overlap: float) -> Rows:
    """The first boxes whose IoU with each one kept before is at most ``overlap`` (greedy NMS).

    Args:
        boxes: (n, 4), best first.
        most: how many to keep.

    Returns:
        Their rows, at most ``most``, ascending int64.
    """
    kept: list[int] = []
    left = np.arange(len(boxes))
    while len(left) and len(kept) < most:
        kept.append(int(left[0]))
        left = left[1:]
        if len(kept) < most:
            left = left[iou(boxes[kept[-1:]], boxes[left])[0] <= overlap]
    return np.array(kept, np.int64)
