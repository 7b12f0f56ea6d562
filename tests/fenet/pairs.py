"""Small synthetic pairs: concepts with a direction each, seen and named."""

from __future__ import annotations

import numpy as np

from felga.fenet.features import Features


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def make_pairs(pairs: int = 60, dim: int = 16, words: int = 12, seed: int = 0) -> Features:
    """Ragged pairs: 1 to 4 concepts each, as keywords and as regions that are rotated and noisy."""
    rng = np.random.default_rng(seed)
    named = unit(rng.normal(size=(words, dim)))
    turn = np.eye(dim) + 0.45 * rng.normal(size=(dim, dim))
    regions, ids, seen, said = [], [], [0], [0]
    for _ in range(pairs):
        mine = rng.choice(words, rng.integers(1, 5), replace=False)
        look = named[np.repeat(mine, rng.integers(1, 3))] @ turn
        regions.append(unit(look + 0.2 * rng.normal(size=look.shape)))
        ids.append(mine)
        seen.append(seen[-1] + len(look))
        said.append(said[-1] + len(mine))
    return Features(
        regions=np.concatenate(regions),
        region_offsets=np.array(seen),
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
    return Features(
        regions=np.concatenate([features.regions, features.regions[:2]]),
        region_offsets=np.append(features.region_offsets, [last_region, last_region + 2]),
        keywords=features.keywords,
        keyword_ids=np.append(features.keyword_ids, [0]),
        keyword_offsets=np.append(features.keyword_offsets, [last_keyword + 1, last_keyword + 1]),
        encoder=features.encoder,
        identity=features.identity,
    )
