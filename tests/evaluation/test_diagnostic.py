from dataclasses import replace

import numpy as np
import pytest

from felga.evaluation.diagnostic import diagnose

from .test_localisation import with_regions


def test_shares_of_variance_equal_loops():
    split = with_regions(1)
    shares = []
    for p in range(split.images):
        words = sorted(set(split.keyword_rows[split.keyword_offsets[p] : split.keyword_offsets[p + 1]]))
        rows = range(split.region_offsets[p], split.region_offsets[p + 1])
        if len(words) < 2 or len(rows) < 2:
            continue
        s = [[float(split.region_vectors[r] @ split.keyword_vectors[w]) for w in words] for r in rows]
        mean = np.mean([x for row in s for x in row])
        total = sum((x - mean) ** 2 for row in s for x in row)
        keyword = sum(len(s) * (np.mean([row[k] for row in s]) - mean) ** 2 for k in range(len(words)))
        region = sum(len(words) * (np.mean(row) - mean) ** 2 for row in s)
        rest = sum(
            (s[r][k] - np.mean(s[r]) - np.mean([row[k] for row in s]) + mean) ** 2
            for r in range(len(s))
            for k in range(len(words))
        )
        assert keyword + region + rest == pytest.approx(total)
        shares.append([keyword / total, region / total, rest / total])
    found = diagnose(split)
    assert found.pairs == len(shares) > 5
    assert [found.keyword, found.region, found.interaction] == pytest.approx(np.mean(shares, axis=0))


@pytest.mark.parametrize("centred", [False, True])
def test_cosines_equal_loops(centred):
    split = with_regions(2)
    vectors = split.region_vectors.astype(float)
    if centred:
        vectors = vectors - vectors.mean(axis=0)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    image = np.repeat(np.arange(split.images), np.diff(split.region_offsets))
    within, between = [], []
    for i in range(len(vectors)):
        for j in range(i):
            (within if image[i] == image[j] else between).append(vectors[i] @ vectors[j])
    found = diagnose(split)
    ending = "_centred" if centred else ""
    assert getattr(found, f"within_image{ending}") == pytest.approx(np.mean(within))
    assert getattr(found, f"between_images{ending}") == pytest.approx(np.mean(between))


def test_an_image_whose_regions_are_one_vector_tells_keywords_apart_only():
    split = with_regions(3)
    image = np.repeat(np.arange(split.images), np.diff(split.region_offsets))
    same = split.region_vectors[split.region_offsets[:-1]][image]
    found = diagnose(replace(split, region_vectors=same))
    assert found.keyword == pytest.approx(1.0)
    assert found.within_image == pytest.approx(1.0)
