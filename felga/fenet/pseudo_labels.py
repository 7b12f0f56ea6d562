"""Pseudo-labels: which region belongs to which keyword, guessed from frozen similarities (FELGA, 3.2.2-3).

Eq. 1 is the label that an annotator would give; Eq. 3-6 stand in for it. Within-pair labels are
(b, r, k): batch place, region place, keyword place. ``real_regions`` (b, r) and ``real_keywords`` (b, k)
are False for pads; a pad has no positive label and enters neither a mean nor a maximum.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDING = 1e-6
"""A similarity this little below the mean still counts as the mean: cosines are float32."""


def _places(real_regions: Tensor, real_keywords: Tensor) -> Tensor:
    return real_regions[:, :, None] & real_keywords[:, None, :]  # (b, r, k)


def dense(real_regions: Tensor, real_keywords: Tensor) -> Tensor:
    """Eq. 3: every region of a pair belongs to every keyword of it. (b, r, k) bool."""
    return _places(real_regions, real_keywords)


def sparse(similarity: Tensor, real_regions: Tensor, real_keywords: Tensor) -> Tensor:
    """Eq. 4: a keyword belongs to the region of its pair that is most similar to it.

    Regions that tie for the maximum are all positive, as the equation reads (``d = max d``).

    Args:
        similarity: (b, r, k) float, frozen cosines within each pair.

    Returns:
        (b, r, k) bool.
    """
    places = _places(real_regions, real_keywords)
    best = similarity.masked_fill(~places, -torch.inf).amax(1, keepdim=True)  # (b, 1, k)
    return places & (similarity == best)


def dynamic(similarity: Tensor, real_regions: Tensor, real_keywords: Tensor) -> Tensor:
    """Eq. 5-6: positive where the similarity is at least the mean of its own pair.

    The mean (Eq. 5) runs over the pair's real regions and keywords. Where all similarities are equal, all
    are positive, whatever the rounding of the mean.

    Args:
        similarity: (b, r, k) float, frozen cosines within each pair.

    Returns:
        (b, r, k) bool.
    """
    places = _places(real_regions, real_keywords)
    count = places.sum((1, 2)).clamp(min=1)  # (b,)
    mean = similarity.masked_fill(~places, 0).sum((1, 2)) / count  # (b,)
    return places & (similarity >= mean[:, None, None] - ROUNDING)


def global_labels(pairs: int, device: torch.device | None = None) -> Tensor:
    """Eq. 7: an image belongs to its own text alone. (b, b) bool."""
    return torch.eye(pairs, dtype=torch.bool, device=device)


def local_labels(labels: Tensor, real_regions: Tensor, real_keywords: Tensor) -> tuple[Tensor, Tensor]:
    """The label matrix of a batch as the paper has it: 1 within pairs where ``labels`` says so, else 0.

    Returns:
        positive, negative: (b * r, b * k) bool, rows are regions; both False at a pad.
    """
    pairs = len(labels)
    own = global_labels(pairs, labels.device)[:, None, :, None]  # (b, 1, b, 1)
    positive = (own & labels[:, :, None, :]).flatten(2).flatten(0, 1)  # (b * r, b * k)
    real = real_regions.flatten()[:, None] & real_keywords.flatten()  # (b * r, b * k)
    return positive, real & ~positive


def same_keyword(keyword_ids: Tensor, real_keywords: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where one keyword stands in several texts of the batch.

    Args:
        keyword_ids: (b, k) int64, alike for one keyword.
        real_keywords: (b, k) bool.

    Returns:
        same: (b * k, b * k) bool, two places hold one keyword.
        owns: (b, b * k) bool, the text has the keyword of that place, be it in another text.
        first: (b * k,) bool, the keyword stands at no earlier place.
    """
    real, ids = real_keywords.flatten(), keyword_ids.flatten()  # (b * k,)
    same = (ids[:, None] == ids) & real[:, None] & real  # (b * k, b * k)
    owns = same.view(*keyword_ids.shape, -1).any(1)  # (b, b * k)
    return same, owns, real & ~same.tril(-1).any(1)


def distinct_labels(
    labels: Tensor, real_regions: Tensor, same: Tensor, first: Tensor
) -> tuple[Tensor, Tensor]:
    """:func:`local_labels` with the limitation mended that the paper names (5).

    Two pairs of a batch may share a concept, which Eq. 3-6 count as a negative. Here each distinct keyword is
    one column, its first place; a region's label for it is the one that it has in the region's own pair, 0
    only if it is 0 there or the keyword is not in that text at all.

    Args:
        labels: (b, r, k) bool, within pairs.
        real_regions: (b, r) bool.
        same, first: from :func:`same_keyword`.

    Returns:
        positive, negative: (b * r, b * k) bool.
    """
    b, _, k = labels.shape
    # (b, r, k) @ (b, k, b * k): in how many places of its own text the keyword is a positive of the region
    own = labels.float() @ same.view(b, k, b * k).float()
    positive = (own > 0).flatten(0, 1) & first  # (b * r, b * k)
    return positive, real_regions.flatten()[:, None] & first & ~positive
