"""One pass an image: the network runs once on the whole, and each region is pooled from its feature map.

RoIAlign (He et al., Mask R-CNN, 2017) before the head, as RegionCLIP has it for CLIP's ResNets (Zhong et al.
2022): a tenth of the arithmetic of one pass a region, and a region is seen with what lies around it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.ops import roi_align

from felga.encoders.crops import Preprocessing
from felga.errors import BadInputError
from felga.types import Boxes, DecodedImage, Vectors

STRIDE = 32  # pixels of the input in a cell of the last feature map; so in all networks used here
SAMPLES = 2  # of RoIAlign, a side of a bin


def encode_one_pass(
    images: Sequence[DecodedImage],
    boxes: Sequence[Boxes],
    *,
    preprocessing: Preprocessing,
    longer_side: int,
    bins: int,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
    dim: int,
    trunk: Callable[[Tensor], Tensor],
    head: Callable[[Tensor], Tensor],
) -> list[Vectors]:
    """Encode regions from one pass over each image; images of one size share a pass.

    Args:
        boxes: ``boxes[i]`` (n_i, 4) of ``images[i]``, pixels of the upright original.
        preprocessing: its mean, std and interpolation are used.
        longer_side: of the image that is encoded, pixels; both sides become whole cells.
        bins: of RoIAlign, a side.
        trunk: (b, 3, h, w) of ``dtype`` on ``device`` -> (b, c, h / 32, w / 32).
        head: (n, c, bins, bins) -> (n, dim), of any length.

    Returns:
        For each image (n_i, dim) float32, each row of length 1.

    Raises:
        BadInputError: a box is not finite.
    """
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, image in enumerate(images):
        height, width = image.pixels.shape[:2]
        groups[working_size(height, width, longer_side)].append(i)
    out: list[Vectors] = [np.empty((0, dim), np.float32)] * len(images)
    at_once = batch_size if device.type == "cuda" else 2  # beyond, a CPU's cache is too small
    for (height, width), members in groups.items():
        for start in range(0, len(members), at_once):
            batch = members[start : start + at_once]
            rois = [_scaled(images[i], boxes[i], height, width) for i in batch]
            counts = [len(rows) for rows in rois]
            if not sum(counts):
                continue
            resample = Image.Resampling[preprocessing.interpolation.upper()]
            pixels = np.stack(
                [
                    np.asarray(Image.fromarray(images[i].pixels).resize((width, height), resample))
                    for i in batch
                ]
            )
            with torch.inference_mode():
                inputs = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2)  # (b, 3, h, w) uint8
                features = trunk(preprocessing.normalise(inputs, dtype))  # (b, c, h / 32, w / 32)
                on_map = [torch.from_numpy(rows).to(features) for rows in rois]
                pooled = roi_align(features, on_map, bins, 1 / STRIDE, SAMPLES, aligned=True)
                vectors = F.normalize(head(pooled).float(), dim=-1).cpu().numpy()  # (n, dim)
            for i, rows in zip(batch, np.split(vectors, np.cumsum(counts)[:-1]), strict=True):
                out[i] = np.ascontiguousarray(rows)
    return out


def working_size(height: int, width: int, longer_side: int) -> tuple[int, int]:
    """(height, width) with the longer side ``longer_side``, both whole cells of the feature map.

    >>> working_size(480, 640, 384)
    (288, 384)
    """
    scale = longer_side / max(height, width) / STRIDE
    return max(1, round(height * scale)) * STRIDE, max(1, round(width * scale)) * STRIDE


def _scaled(image: DecodedImage, boxes: Boxes, height: int, width: int) -> Boxes:
    rows = np.asarray(boxes, np.float32).reshape(-1, 4)
    if not np.isfinite(rows).all():
        raise BadInputError(f"a box of {image.image_id!r} holds a value that is not finite")
    return rows * np.array([width / image.width, height / image.height] * 2, np.float32)
