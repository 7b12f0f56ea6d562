"""What an encoder's fragments can tell apart before anything is trained: a standing test for any encoder."""

from __future__ import annotations

import numpy as np

from felga.evaluation.protocol import Split
from felga.evaluation.task_results import Cosine, Diagnostic
from felga.types import Floats, Rows


def diagnose(split: Split) -> Diagnostic:
    """Variance within pairs and likeness of regions; frozen vectors.

    The cosines of the regions and keywords of one image and its text are split as by a two-way analysis of
    variance without repetition: what the keyword explains, what the region explains, and the rest, their
    interaction, which alone says that *this* region fits *this* keyword. FELGA's pseudo-labels (Eq. 4-6) have
    no other information on fragments. Shares are means over the pairs with at least two of each.
    """
    shares = []
    for p in range(split.images):
        regions = split.region_vectors[split.region_offsets[p] : split.region_offsets[p + 1]]
        rows = np.unique(split.keyword_rows[split.keyword_offsets[p] : split.keyword_offsets[p + 1]])
        share = _shares(regions.astype(np.float64) @ split.keyword_vectors[rows].T)
        if share is not None:
            shares.append(share)
    keyword, region, interaction = np.mean(shares, axis=0).tolist() if shares else (None, None, None)
    vectors = split.region_vectors.astype(np.float64)
    centred = vectors - vectors.mean(axis=0) if len(vectors) else vectors
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    (within, apart), (within_centred, apart_centred) = (
        _likeness(each, split.region_offsets) for each in (vectors, centred)
    )
    return Diagnostic(
        keyword=keyword,
        region=region,
        interaction=interaction,
        pairs=len(shares),
        within_image=within,
        between_images=apart,
        within_image_centred=within_centred,
        between_images_centred=apart_centred,
    )


def _shares(cosines: Floats) -> tuple[float, float, float] | None:
    """Shares of keyword, region and interaction in the variance of (regions, keywords); None: no variance."""
    if min(cosines.shape) < 2:
        return None
    centred = cosines - cosines.mean()
    total = float(np.square(centred).mean())
    if total < 1e-12:
        return None
    keyword = float(np.square(centred.mean(axis=0)).mean()) / total
    region = float(np.square(centred.mean(axis=1)).mean()) / total
    return keyword, region, max(0.0, 1 - keyword - region)


def _likeness(vectors: Floats, offsets: Rows) -> tuple[Cosine | None, Cosine | None]:
    """Mean cosine of two regions of one image, and of two regions of different images."""
    counts = np.diff(offsets)
    sums = np.stack([part.sum(axis=0) for part in np.split(vectors, offsets[1:-1])])
    of_images = np.einsum("ij,ij->i", sums, sums)
    pairs, all_pairs = float((counts * (counts - 1)).sum()), float(len(vectors) ** 2)
    own = np.einsum("ij,ij->", vectors, vectors)
    within = Cosine(float(of_images.sum() - own) / pairs) if pairs else None
    apart_pairs = all_pairs - float(np.square(counts).sum())
    total = sums.sum(axis=0)
    apart = Cosine(float(total @ total - of_images.sum()) / apart_pairs) if apart_pairs else None
    return within, apart
