"""Pseudo-labels: which region belongs to which keyword, guessed from frozen similarities (FELGA, 3.2.2-3).

Eq. 1 is the label an annotator would give; Eq. 3-6 stand in for it. Labels within pairs are (b, r, k): pair
of the batch, region, keyword. ``real_regions`` (b, r) and ``real_keywords`` (b, k) are False for pads; a pad
has no positive label and counts in neither a mean nor a maximum.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDING = 1e-6
"""A similarity this close below the mean still counts as the mean: cosines are float32."""


def _places(real_regions: Tensor, real_keywords: Tensor) -> Tensor:
    return real_regions[:, :, None] & real_keywords[:, None, :]  # (b, r, k)


def dense(real_regions: Tensor, real_keywords: Tensor) -> Tensor:
    """Eq. 3: every region of a pair belongs to each of its keywords. (b, r, k) bool."""
    return _places(real_regions, real_keywords)


def sparse(similarity: Tensor, real_regions: Tensor, real_keywords: Tensor) -> Tensor:
    """Eq. 4: a keyword belongs to the most similar region of its pair.

    Regions that tie for the maximum are all positive, as the equation says (``d = max d``).

    Args:
        similarity: (b, r, k) float, frozen cosines within each pair.

    Returns:
        (b, r, k) bool.
    """
    places = _places(real_regions, real_keywords)
    best = similarity.masked_fill(~places, -torch.inf).amax(1, keepdim=True)  # (b, 1, k)
    return places & (similarity == best)


def dynamic(similarity: Tensor, real_regions: Tensor, real_keywords: Tensor) -> Tensor:
    """Eq. 5-6: positive where the similarity is at least the mean of its pair.

    The mean (Eq. 5) runs over the pair's real regions and keywords. If all similarities are equal, all are
    positive, however the mean is rounded.

    Args:
        similarity: (b, r, k) float, frozen cosines within each pair.

    Returns:
        (b, r, k) bool.
    """
    places = _places(real_regions, real_keywords)
    count = places.sum((1, 2)).clamp(min=1)  # (b,)
    mean = similarity.masked_fill(~places, 0).sum((1, 2)) / count  # (b,)
    return places & (similarity >= mean[:, None, None] - ROUNDING)


def random(flips: Tensor, real_regions: Tensor, real_keywords: Tensor) -> Tensor:
    """Labels that know nothing (not in the paper): the ``flips`` (b, r, k) bool of a coin. (b, r, k) bool."""
    return flips & _places(real_regions, real_keywords)


def global_labels(pairs: int, device: torch.device | None = None) -> Tensor:
    """Eq. 7: an image belongs only to its own text. (b, b) bool."""
    return torch.eye(pairs, dtype=torch.bool, device=device)


def local_labels(labels: Tensor, real_regions: Tensor, real_keywords: Tensor) -> tuple[Tensor, Tensor]:
    """The label matrix of a batch as in the paper: 1 within pairs where ``labels`` is True, else 0.

    Returns:
        positive, negative: (b * r, b * k) bool, rows are regions; both False at a pad.
    """
    pairs = len(labels)
    own = global_labels(pairs, labels.device)[:, None, :, None]  # (b, 1, b, 1)
    positive = (own & labels[:, :, None, :]).flatten(2).flatten(0, 1)  # (b * r, b * k)
    real = real_regions.flatten()[:, None] & real_keywords.flatten()  # (b * r, b * k)
    return positive, real & ~positive


def same_keyword(keyword_ids: Tensor, real_keywords: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which keywords occur in several texts of the batch.

    Args:
        keyword_ids: (b, k) int64, equal for equal keywords.
        real_keywords: (b, k) bool.

    Returns:
        same: (b * k, b * k) bool, two places hold the same keyword.
        owns: (b, b * k) bool, the text has the keyword at that place, which may be in another text.
        first: (b * k,) bool, the keyword occurs at no earlier place.
    """
    real, ids = real_keywords.flatten(), keyword_ids.flatten()  # (b * k,)
    same = (ids[:, None] == ids) & real[:, None] & real  # (b * k, b * k)
    owns = same.view(*keyword_ids.shape, -1).any(1)  # (b, b * k)
    return same, owns, real & ~same.tril(-1).any(1)


def distinct_labels(
    labels: Tensor, real_regions: Tensor, same: Tensor, first: Tensor
) -> tuple[Tensor, Tensor]:
    """:func:`local_labels` without the limitation noted in section 5 of the paper.

    Two pairs of a batch may share a concept, which Eq. 3-6 count as a negative. Here each distinct keyword is
    one column, its first place. A region's label for it is that of the region's own pair: 0 only if it is 0
    there, or if that text does not have the keyword.

    Args:
        labels: (b, r, k) bool, within pairs.
        real_regions: (b, r) bool.
        same, first: from :func:`same_keyword`.

    Returns:
        positive, negative: (b * r, b * k) bool.
    """
    b, _, k = labels.shape
    # (b, r, k) @ (b, k, b * k): at how many places of its own text the keyword is a positive of the region
    own = labels.float() @ same.view(b, k, b * k).float()
    positive = (own > 0).flatten(0, 1) & first  # (b * r, b * k)
    return positive, real_regions.flatten()[:, None] & first & ~positive
