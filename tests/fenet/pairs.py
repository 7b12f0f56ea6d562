"""Small synthetic pairs: concepts with a direction each, seen and named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from felga.fenet.features import Features


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def make_pairs(pairs: int = 60, dim: int = 16, words: int = 12, seed: int = 0, seen: int = 0) -> Features:
    """Ragged pairs: 1 to 4 concepts each, as keywords and as regions that are rotated and noisy.

    With ``seen``, regions have features of that length, and the first of each image is the whole image.
    """
    rng = np.random.default_rng(seed)
    named = unit(rng.normal(size=(words, dim)))
    turn = np.eye(dim) + 0.45 * rng.normal(size=(dim, dim))
    regions, ids, starts, said = [], [], [0], [0]
    for _ in range(pairs):
        mine = rng.choice(words, rng.integers(1, 5), replace=False)
        look = named[np.repeat(mine, rng.integers(1, 3))] @ turn
        regions.append(unit(look + 0.2 * rng.normal(size=look.shape)))
        ids.append(mine)
        starts.append(starts[-1] + len(look))
        said.append(said[-1] + len(mine))
    more = {}
    if seen:
        look = np.concatenate(regions)
        more["region_features"] = (look @ rng.normal(size=(dim, seen)) + rng.normal(size=seen)).astype("f2")
        more["whole"] = np.isin(np.arange(len(look)), starts[:-1])
    return Features(
        **more,
        regions=np.concatenate(regions),
        region_offsets=np.array(starts),
        keywords=named,
        keyword_ids=np.concatenate(ids),
        keyword_offsets=np.array(said),
        keyword_texts=tuple(f"word{i}" for i in range(words)),
        encoder="made",
        identity={"sha256": "0" * 64},
    )


def with_empty_pairs(features: Features) -> Features:
    """The same pairs, then one without regions and one without keywords."""
    last_region, last_keyword = features.region_offsets[-1], features.keyword_offsets[-1]
    more = {
        name: np.concatenate([array, array[:2]])
        for name in ("regions", "region_features", "whole")
        if (array := getattr(features, name)) is not None
    }
    return replace(
        features,
        **more,
        region_offsets=np.append(features.region_offsets, [last_region, last_region + 2]),
        keyword_ids=np.append(features.keyword_ids, [0]),
        keyword_offsets=np.append(features.keyword_offsets, [last_keyword + 1, last_keyword + 1]),
        pair_ids=(),
        keyword_texts=None,
    )
