"""A class-agnostic, anchor-free region head on a frozen network's feature maps.

Each cell of three maps (strides 8, 16 and 32) proposes one box, by its distances to the four sides (FCOS,
Tian et al. 2019), and the IoU that the box will have with an object, which is its score (generalised focal
loss, Li et al. 2020; ObjEmbed keeps this quality beside the meaning of a region). It knows no classes, so it
also finds objects that it was never trained on. All coordinates are pixels of the network's input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from felga.models.efficientnet import DEFAULT, NETWORKS, STRIDES

CHANNELS = NETWORKS[DEFAULT].channels
WIDTH = 96
DEPTH = 2  # blocks of a tower


class Points(NamedTuple):
    """The cells of all maps, finest first.

    Attributes:
        at: (n, 2) float32, centers ``x, y``.
        stride: (n,) float32.
    """

    at: Tensor
    stride: Tensor


def points_of(height: int, width: int) -> Points:
    """The points of an input of ``height`` x ``width``, both multiples of 32."""
    at, stride = [], []
    for step in STRIDES:
        y, x = torch.meshgrid(
            torch.arange(height // step) * step + step / 2,
            torch.arange(width // step) * step + step / 2,
            indexing="ij",
        )
        at.append(torch.stack([x, y], -1).reshape(-1, 2))
        stride.append(torch.full((len(at[-1]),), float(step)))
    return Points(torch.cat(at), torch.cat(stride))


class RegionHead(nn.Module):
    """Maps of a batch of images to a box and the logit of its IoU, for every point.

    A small feature pyramid: each map is projected to ``width`` channels, coarse ones are added to finer
    ones, and each level has a tower of its own: batch statistics differ between levels.
    """

    def __init__(self, width: int = WIDTH, depth: int = DEPTH) -> None:
        super().__init__()
        self.lateral = nn.ModuleList([nn.Conv2d(channels, width, 1) for channels in CHANNELS])
        self.towers = nn.ModuleList(
            [nn.Sequential(*[_block(width) for _ in range(depth + 1)]) for _ in STRIDES]
        )
        self.out = nn.Conv2d(width, 5, 1)
        nn.init.normal_(self.out.weight, std=0.01)
        assert self.out.bias is not None
        nn.init.constant_(self.out.bias, 0)
        self.out.bias.data[0] = -4  # few points lie on an object
        self.scale = nn.Parameter(torch.ones(len(STRIDES)))

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits and boxes of all points.

        Args:
            maps: (b, c, h / s, w / s) for each stride s, c of :data:`CHANNELS`.

        Returns:
            logits (b, n) of the predicted IoU, and boxes (b, n, 4) ``x1, y1, x2, y2``.
        """
        levels = [project(one) for project, one in zip(self.lateral, maps, strict=True)]
        for fine in (1, 0):
            levels[fine] = levels[fine] + F.interpolate(levels[fine + 1], scale_factor=2.0)
        rows = []
        for level, stride in enumerate(STRIDES):
            found = self.predict(level, levels[level])
            sides = F.softplus(found[:, 1:] * self.scale[level] + 1) * stride
            rows.append(torch.cat([found[:, :1], sides], 1).flatten(2))
        joint = torch.cat(rows, 2).transpose(1, 2)  # (b, n, 5)
        height, width = (STRIDES[0] * size for size in maps[0].shape[2:])
        at = points_of(height, width).at.to(joint.device)
        return joint[..., 0], torch.cat([at - joint[..., 1:3], at + joint[..., 3:]], -1)

    def predict(self, level: int, features: Tensor) -> Tensor:
        """The outputs of one level: (b, width, h, w) -> (b, 5, h, w), the logit of the IoU and the raw sides.

        Both come from one tower (bench/region_trunks.py measures two).
        """
        found: Tensor = self.out(self.towers[level](features))
        return found


def weights_of(head: RegionHead) -> dict[str, npt.NDArray[np.float16]]:
    """The weights by name, as they are written; a batch norm's count of batches is not among them."""
    return {
        name: value.detach().cpu().numpy().astype(np.float16)
        for name, value in head.state_dict().items()
        if value.is_floating_point()
    }


def put_weights(head: RegionHead, arrays: Mapping[str, npt.NDArray[Any]]) -> bool:
    """Load weights of :func:`weights_of`; False if they are another network's, or not finite."""
    expected = {name: array.shape for name, array in weights_of(head).items()}
    if {name: array.shape for name, array in arrays.items()} != expected:
        return False
    if not all(array.dtype == np.float16 and np.isfinite(array).all() for array in arrays.values()):
        return False
    values = {name: torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()}
    head.load_state_dict(values, strict=False)
    return True


def _block(width: int) -> nn.Module:
    """5x5 depthwise and 1x1: a large field of view for few weights."""
    return nn.Sequential(
        nn.Conv2d(width, width, 5, padding=2, groups=width, bias=False),
        nn.BatchNorm2d(width),
        nn.Conv2d(width, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )
