"""The region head: points, boxes, assignment and loss against plain loops and torchvision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou, generalized_box_iou_loss

from felga.proposals.region_head import CHANNELS, RegionHead, points_of
from felga.proposals.region_loss import BEST, IOU_COST, NEAR, assign, iou, sums, total

HEIGHT, WIDTH = 64, 96


def boxes(seed: int, count: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([WIDTH * 0.6, HEIGHT * 0.6])
    return torch.cat([corner, corner + 6 + torch.rand(count, 2, generator=generator) * 40], 1)


def test_points_are_the_centers_of_all_cells_finest_first():
    points = points_of(HEIGHT, WIDTH)
    expected = [
        (x * s + s / 2, y * s + s / 2, s)
        for s in (8, 16, 32)
        for y in range(HEIGHT // s)
        for x in range(WIDTH // s)
    ]
    np.testing.assert_array_equal(torch.cat([points.at, points.stride[:, None]], 1), np.array(expected))


def test_every_point_lies_in_its_box():
    torch.manual_seed(0)
    head = RegionHead().eval()
    maps = [torch.randn(2, c, HEIGHT // s, WIDTH // s) for c, s in zip(CHANNELS, (8, 16, 32), strict=True)]
    logits, found = head(maps)
    at = points_of(HEIGHT, WIDTH).at
    assert logits.shape == (2, len(at))
    assert (found[..., :2] < at).all()
    assert (found[..., 2:] > at).all()
    assert logits.sigmoid().mean() < 0.05  # few points lie on an object
    one, alone = head([level[1:] for level in maps])
    torch.testing.assert_close(one, logits[1:])
    torch.testing.assert_close(alone, found[1:])


def test_iou_is_torchvisions():
    torch.testing.assert_close(iou(boxes(1), boxes(2)), box_iou(boxes(1), boxes(2)))
    assert iou(torch.zeros(1, 4), torch.zeros(1, 4)).item() == 0


def by_loops(truth, points, found, logits):
    overlap = box_iou(found, truth).double().numpy()
    owners = {}
    for j, box in enumerate(truth.numpy()):
        candidates = []
        for n, ((x, y), stride) in enumerate(zip(points.at.numpy(), points.stride.numpy(), strict=True)):
            inside = box[0] < x < box[2] and box[1] < y < box[3]
            near = max(abs(x - (box[0] + box[2]) / 2), abs(y - (box[1] + box[3]) / 2)) < NEAR * stride
            if inside and near:
                p, q = 1 / (1 + np.exp(-float(logits[n]))), overlap[n, j]
                entropy = -(q * np.log(p) + (1 - q) * np.log(1 - p))
                candidates.append((entropy - IOU_COST * np.log(max(q, 1e-6)), n, q))
        best = sorted((q for _, _, q in candidates), reverse=True)[:BEST]
        for cost, n, _ in sorted(candidates)[: max(1, int(sum(best)))]:
            if n not in owners or cost < owners[n][0]:
                owners[n] = (cost, j)
    return [owners[n][1] if n in owners else -1 for n in range(len(points.at))]


@pytest.mark.parametrize("seed", range(4))
def test_points_answer_for_boxes_as_simota_says(seed):
    points, truth = points_of(HEIGHT, WIDTH), boxes(seed)
    generator = torch.Generator().manual_seed(seed)
    found = torch.cat([points.at - 12, points.at + 12], 1) + torch.randn(
        len(points.at), 4, generator=generator
    )
    logits = torch.randn(len(points.at), generator=generator)
    owner = assign(truth, points, found, logits)
    assert owner.tolist() == by_loops(truth, points, found, logits)
    assert (owner >= 0).sum() >= len(truth) - 2


def test_without_boxes_nobody_answers_and_the_loss_has_a_gradient():
    points = points_of(HEIGHT, WIDTH)
    found = torch.cat([points.at - 12, points.at + 12], 1).requires_grad_()
    logits = torch.zeros(len(points.at), requires_grad=True)
    nothing = torch.zeros(0, 4)
    part = sums(logits, found, nothing, points, torch.ones(len(points.at), dtype=torch.bool))
    assert part.positives == 0
    total([part]).backward()
    assert (logits.grad > 0).all()  # every point learns that it sees no object


def test_the_loss_is_quality_focal_and_generalised_iou():
    points, truth = points_of(HEIGHT, WIDTH), boxes(5)
    generator = torch.Generator().manual_seed(5)
    found = torch.cat([points.at - 12, points.at + 12], 1) + torch.randn(
        len(points.at), 4, generator=generator
    )
    logits = torch.randn(len(points.at), generator=generator)
    counts = points.at[:, 0] < 70
    part = sums(logits, found, truth, points, counts)
    owner = assign(truth, points, found, logits)
    quality = box = weight = 0.0
    for n in range(len(points.at)):
        if not counts[n]:
            continue
        target = torch.tensor(0.0)
        if owner[n] >= 0:
            own, other = found[n : n + 1], truth[owner[n]][None]
            target = box_iou(own, other)[0, 0]
            share = max(float(target), 0.1)
            box += share * float(generalized_box_iou_loss(own, other))
            weight += share
        p = logits[n].sigmoid()
        entropy = -(target * p.log() + (1 - target) * (1 - p).log())
        quality += float((target - p) ** 2 * entropy)
    assert part.positives == int(((owner >= 0) & counts).sum()) > 0
    np.testing.assert_allclose([part.quality, part.box, part.weight], [quality, box, weight], rtol=1e-4)
    np.testing.assert_allclose(total([part]), quality / part.positives + 2 * box / weight, rtol=1e-4)
