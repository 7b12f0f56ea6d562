"""The losses of FELGA (3.2.4): lifted structure over fragments (Eq. 9-10) and over pairs (Eq. 11-13).

Eq. 10 prints a double sum over regions i and keywords j around ``log sum_{L_ij = 1}`` and ``log
sum_{L_ij = 0}``, whose inner sums reuse i and j. It is read here as the lifted structure that it cites: an
*anchor* is a row or a column of the similarity matrix, and the inner sums run over that anchor's positives
and negatives. Both directions are used: regions as anchors over keywords, and keywords as anchors over
regions. Each direction is the mean over its anchors instead of the sum, so that the rate does not depend on
the batch size. An anchor without positives or without negatives contributes nothing.

With a temperature t, similarities and margins are divided by t inside the exponentials; t = 1 is Eq. 10 as
printed. As printed, a margin (lambda 1, lambda 2) is a constant: it shifts the loss, never its gradient. A
hinge around the bracket, as in the lifted loss that Eq. 10 cites, would change nothing: with cosines and 8
pairs the bracket is at least ln 70 + .5 - 2 = 2.7 (local), ln 7 + .5 - 2 = .45 (global).

With t = 1 on cosines both logarithms are nearly linear, and embeddings collapse to a few directions. Measured
on coco-mini with conse (hidden 512, 6 epochs, one seed): the participation ratio of the covariance of region
embeddings falls from 29 to 3, discovery / assignment mAP to 33.2 / 39.3, where frozen vectors have 45.8 /
43.5; no other reading of Eq. 10 mends it. With t = .1, inputs of length 10 and the rate .01 it is 49.4 / 45.4
(ratio 13): the recipe ``paper+``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def _row_sums(values: Tensor, mask: Tensor, usable: Tensor) -> Tensor:
    """``log sum exp`` over the masked entries of each row; finite where ``usable`` is False."""
    # An empty row would give -inf and a NaN gradient: it gets harmless entries here, and weight 0 later.
    return values.masked_fill(~(mask | ~usable[:, None]), -torch.inf).logsumexp(1)  # (anchors,)


def _mean(per_anchor: Tensor, usable: Tensor) -> Tensor:
    weight = usable.to(per_anchor.dtype)
    return (per_anchor * weight).sum() / weight.sum().clamp(min=1)


def lifted_structure(
    similarity: Tensor, positive: Tensor, negative: Tensor, *, margin: float, temperature: float = 1.0
) -> Tensor:
    """The form of Eq. 10 and Eq. 12, both directions (see the module).

    Per anchor: ``log sum_pos exp((margin - s) / t) + log sum_neg exp(s / t)``.

    Args:
        similarity: (n, m) float; entries where neither mask is True are ignored.
        positive, negative: (n, m) bool, never both.
        margin: lambda 1 (Eq. 10) or lambda 2 (Eq. 12).
        temperature: t > 0.

    Returns:
        () float: mean over row anchors plus mean over column anchors; 0 with a graph if there are none.
    """

    def one_way(s: Tensor, pos: Tensor, neg: Tensor) -> Tensor:
        usable = pos.any(1) & neg.any(1)  # (anchors,)
        pull = _row_sums(margin / temperature - s, pos, usable)
        return _mean(pull + _row_sums(s, neg, usable), usable)

    scaled = similarity / temperature  # (n, m)
    return one_way(scaled, positive, negative) + one_way(scaled.T, positive.T, negative.T)


def contrast(
    similarity: Tensor, positive: Tensor, negative: Tensor, *, margin: float, temperature: float = 1.0
) -> Tensor:
    """A per-positive variant of the lifted structure that saturates (not in the paper).

    Per anchor: the mean over its positives p of ``log(1 + exp((margin - s_p) / t) * sum_neg exp(s / t))``.
    Eq. 10 pulls hardest at an anchor's least similar positive, the pseudo-label most likely to be wrong, and
    keeps pushing apart what is apart already; this does neither. Here the margin affects the gradient.

    Args, returns: as of :func:`lifted_structure`.
    """

    def one_way(s: Tensor, pos: Tensor, neg: Tensor) -> Tensor:
        usable = pos.any(1) & neg.any(1)  # (anchors,)
        push = _row_sums(s, neg, usable)[:, None]  # (anchors, 1)
        each = torch.nn.functional.softplus(margin / temperature + push - s)  # (anchors, others)
        per_anchor = each.masked_fill(~pos, 0).sum(1) / pos.sum(1).clamp(min=1)
        return _mean(per_anchor, usable)

    scaled = similarity / temperature  # (n, m)
    return one_way(scaled, positive, negative) + one_way(scaled.T, positive.T, negative.T)


FORMS: dict[str, Callable[..., Tensor]] = {"lifted": lifted_structure, "contrast": contrast}
"""The forms of a loss, by their names in a recipe."""


def global_similarity(similarity: Tensor, real_regions: Tensor, real_keywords: Tensor) -> Tensor:
    """Eq. 11: an image and a text are as similar as their most similar region and keyword.

    Args:
        similarity: (b * r, b * k) float, Eq. 9.
        real_regions, real_keywords: (b, r) and (b, k) bool; a pad never wins.

    Returns:
        (b, b) float, images by texts; -inf where an image or a text has no fragment.
    """
    (b, r), k = real_regions.shape, real_keywords.shape[1]
    real = real_regions.flatten()[:, None] & real_keywords.flatten()  # (b * r, b * k)
    return similarity.masked_fill(~real, -torch.inf).view(b, r, b, k).amax((1, 3))  # (b, b)


def owner_similarity(similarity: Tensor, real_regions: Tensor) -> Tensor:
    """Images by keywords: an image scores what its best region scores, as in object discovery (3.1, 4.3).

    The paper has no loss on it. It lies between the local loss, which trusts the frozen similarity of every
    single region, and the global one (Eq. 11), which needs just one fragment of each side.

    Args:
        similarity: (b * r, m) float, regions by keyword places.
        real_regions: (b, r) bool; a pad never wins.

    Returns:
        (b, m) float; -inf for an image without regions.
    """
    b, r = real_regions.shape
    real = real_regions.flatten()[:, None]  # (b * r, 1)
    return similarity.masked_fill(~real, -torch.inf).view(b, r, -1).amax(1)  # (b, m)


def total(local: Tensor, across: Tensor, weight: float) -> Tensor:
    """Eq. 13: the local loss plus lambda 3 (``weight``) times the global loss."""
    return local + weight * across
