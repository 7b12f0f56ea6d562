"""The losses of FELGA (3.2.4): lifted structure over fragments (Eq. 9-10) and over pairs (Eq. 11-13).

Eq. 10 prints a double sum over regions i and keywords j around ``log sum_{L_ij = 1}`` and ``log
sum_{L_ij = 0}``, whose inner sums reuse i and j. It is read here as the lifted structure that it cites: an
*anchor* is a row or a column of the similarity matrix, and the inner sums run over that anchor's positives
and negatives. Both directions are taken, regions as anchors over keywords and keywords as anchors over
regions. Each direction is the mean over its anchors instead of the sum, so that the rate does not depend on
the batch. An anchor without positives or without negatives contributes nothing.

With a temperature t, similarities and margins are divided by t inside the exponentials; t = 1 is Eq. 10 as
printed. As printed, a margin (lambda 1, lambda 2) is a constant: it moves the loss, never its gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _one_way(
    similarity: Tensor, positive: Tensor, negative: Tensor, margin: float, temperature: float
) -> Tensor:
    scaled = similarity / temperature  # (anchors, others)
    usable = positive.any(1) & negative.any(1)  # (anchors,)
    # An empty row would give -inf and a NaN gradient: it gets one harmless entry, and the weight 0.
    spare = ~usable[:, None]
    pull = (margin / temperature - scaled).masked_fill(~(positive | spare), -torch.inf).logsumexp(1)
    push = scaled.masked_fill(~(negative | spare), -torch.inf).logsumexp(1)
    weight = usable.to(scaled.dtype)
    return ((pull + push) * weight).sum() / weight.sum().clamp(min=1)


def lifted_structure(
    similarity: Tensor, positive: Tensor, negative: Tensor, *, margin: float, temperature: float = 1.0
) -> Tensor:
    """The form of Eq. 10 and Eq. 12, both directions (see the module).

    Per anchor: ``log sum_pos exp((margin - s) / t) + log sum_neg exp(s / t)``.

    Args:
        similarity: (n, m) float; what stands where neither mask is True does not matter.
        positive, negative: (n, m) bool, never both.
        margin: lambda 1 (Eq. 10) or lambda 2 (Eq. 12).
        temperature: t > 0.

    Returns:
        () float: mean over row anchors plus mean over column anchors; 0 with a graph if there is none.
    """
    rows = _one_way(similarity, positive, negative, margin, temperature)
    return rows + _one_way(similarity.T, positive.T, negative.T, margin, temperature)


def global_similarity(similarity: Tensor, real_regions: Tensor, real_keywords: Tensor) -> Tensor:
    """Eq. 11: a picture and a text are as similar as their most similar region and keyword.

    Args:
        similarity: (b * r, b * k) float, Eq. 9.
        real_regions: (b, r) bool; real_keywords: (b, k) bool. A pad never wins.

    Returns:
        (b, b) float, pictures by texts; -inf where a picture or a text has no fragment.
    """
    (b, r), k = real_regions.shape, real_keywords.shape[1]
    real = real_regions.flatten()[:, None] & real_keywords.flatten()  # (b * r, b * k)
    return similarity.masked_fill(~real, -torch.inf).view(b, r, b, k).amax((1, 3))  # (b, b)


def owner_loss(
    similarity: Tensor,
    real_regions: Tensor,
    owns: Tensor,
    counts: Tensor,
    *,
    margin: float,
    temperature: float = 1.0,
) -> Tensor:
    """Keywords against whole pictures, each by its best region: object discovery (3.1, 4.3) as a loss.

    Not in the paper: between its local loss, which trusts a frozen similarity for every single region, and
    its global one, which asks one fragment of each side. The same lifted structure.

    Args:
        similarity: (b * r, m) float, regions by keyword places.
        real_regions: (b, r) bool.
        owns: (b, m) bool, the picture's text has the keyword.
        counts: (m,) bool, the keyword place takes part.

    Returns:
        () float; 0 with a graph if no anchor has positives and negatives.
    """
    b, r = real_regions.shape
    real = real_regions.flatten()[:, None]  # (b * r, 1)
    best = similarity.masked_fill(~real, -torch.inf).view(b, r, -1).amax(1)  # (b, m)
    return lifted_structure(best, owns & counts, ~owns & counts, margin=margin, temperature=temperature)


def total(local: Tensor, across: Tensor, weight: float) -> Tensor:
    """Eq. 13: the local loss plus lambda 3 (``weight``) times the global loss."""
    return local + weight * across
