"""The loss of the region head: which points answer for which box, and how well.

Assignment is SimOTA's (Ge et al., YOLOX, 2021): a box is given to the points near its center that already
predict it best, as many as the IoUs of its ten best predictions add up to. The score learns the IoU of the
predicted box (quality focal loss, Li et al. 2020), the box by generalised IoU (Rezatofighi et al. 2019).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from felga.proposals.region_head import Points

NEAR = 2.5  # strides between a point and the center of a box it may answer for
BEST = 10  # predictions whose IoUs add up to the number of points of a box
IOU_COST = 3.0
BOX_WEIGHT = 2.0
LEAST_WEIGHT = 0.1  # of a positive point whose box is still bad


class Sums(NamedTuple):
    """Sums over the points of one image; a batch is averaged after adding them up."""

    quality: Tensor
    positives: int
    box: Tensor
    weight: Tensor


def assign(truth: Tensor, points: Points, boxes: Tensor, logits: Tensor) -> Tensor:
    """The box that each point answers for: (n,) int64, -1 for none.

    Args:
        truth: (m, 4) boxes of objects.
        points: n of them.
        boxes, logits: (n, 4) and (n,), the current predictions.
    """
    none = torch.full((len(points.at),), -1)
    if not len(truth):
        return none
    overlap = iou(boxes, truth)  # (n, m)
    x, y = points.at[:, :1], points.at[:, 1:]
    sides = torch.stack([x - truth[:, 0], y - truth[:, 1], truth[:, 2] - x, truth[:, 3] - y])
    center = (truth[:, :2] + truth[:, 2:]) / 2  # (m, 2)
    distance = (points.at[:, None] - center).abs().amax(-1)  # (n, m)
    may = (sides.amin(0) > 0) & (distance < NEAR * points.stride[:, None])
    wrong = F.binary_cross_entropy_with_logits(logits[:, None].expand_as(overlap), overlap, reduction="none")
    cost = (wrong - IOU_COST * overlap.clamp(min=1e-6).log()).masked_fill(~may, torch.inf)
    taken = torch.zeros_like(may)
    for box in range(len(truth)):
        candidates = int(may[:, box].sum())
        if candidates:
            best = overlap[may[:, box], box].topk(min(BEST, candidates)).values
            count = min(candidates, max(1, int(best.sum())))
            taken[cost[:, box].topk(count, largest=False).indices, box] = True
    cheapest = cost.masked_fill(~taken, torch.inf).argmin(1)  # of several boxes a point answers for one
    return torch.where(taken.any(1), cheapest, none)


def sums(logits: Tensor, boxes: Tensor, truth: Tensor, points: Points, counts: Tensor) -> Sums:
    """The loss of one image.

    Args:
        logits, boxes: (n,) and (n, 4), predictions.
        truth: (m, 4) boxes of objects.
        counts: (n,) bool, False for points in the padding or in a crowd: they are neither right nor wrong.
    """
    with torch.no_grad():
        owner = assign(truth, points, boxes, logits)
    positive = (owner >= 0) & counts
    own, target = boxes[positive], truth[owner[positive]]
    overlap, hull = _paired(own, target)
    quality = torch.zeros_like(logits)
    quality[positive] = overlap.detach().clamp(0, 1)
    entropy = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    focal = entropy * (quality - logits.sigmoid()).square()
    weight = overlap.detach().clamp(min=LEAST_WEIGHT)
    return Sums((focal * counts).sum(), int(positive.sum()), ((1 - hull) * weight).sum(), weight.sum())


def total(parts: list[Sums]) -> Tensor:
    """The loss of a batch, per positive point."""
    quality = torch.stack([part.quality for part in parts]).sum() / max(
        1, sum(part.positives for part in parts)
    )
    weight = torch.stack([part.weight for part in parts]).sum().clamp(min=1e-6)
    return quality + BOX_WEIGHT * torch.stack([part.box for part in parts]).sum() / weight


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union: (n, 4) and (m, 4) -> (n, m)."""
    low = torch.maximum(boxes[:, None, :2], others[:, :2])
    high = torch.minimum(boxes[:, None, 2:], others[:, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    return shared / (_area(boxes)[:, None] + _area(others) - shared).clamp(min=1e-9)


def _paired(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU of n pairs: (n,) each."""
    shared = (
        (torch.minimum(boxes[:, 2:], others[:, 2:]) - torch.maximum(boxes[:, :2], others[:, :2]))
        .clamp(min=0)
        .prod(-1)
    )
    union = (_area(boxes) + _area(others) - shared).clamp(min=1e-9)
    hull = (torch.maximum(boxes[:, 2:], others[:, 2:]) - torch.minimum(boxes[:, :2], others[:, :2])).prod(-1)
    return shared / union, shared / union - (hull - union) / hull.clamp(min=1e-9)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1)
