"""Exactness: the best owners of a FAISS search against a plain loop over every fragment."""

from __future__ import annotations

import numpy as np
import pytest

import felga.search.flat
from felga.errors import BadIndexError
from felga.search.flat import FragmentIndex, write_index
from felga.search.owners import best_owners


def unit(rng, n, dim=16):
    vectors = rng.standard_normal((n, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def build(folder, vectors, stem="x"):
    names = write_index([vectors[:7], vectors[7:7], vectors[7:]], vectors.shape[1], folder, stem)
    return FragmentIndex([folder / name for name in names], vectors.shape[1], len(vectors))


def loop(vectors, offsets, query, k, allowed=None):
    """Every fragment of every owner, one by one."""
    found = []
    for owner in range(len(offsets) - 1):
        rows = range(offsets[owner], offsets[owner + 1])
        scores = [
            float(np.einsum("d,d->", vectors[row], query)) for row in rows if allowed is None or allowed[row]
        ]
        if scores:
            found.append((-max(scores), owner))
    return [(owner, -score) for score, owner in sorted(found)[:k]]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("k", [1, 3, 40, 1000])
def test_top_owners_are_exact(tmp_path, monkeypatch, seed, k):
    monkeypatch.setattr(felga.search.flat, "PIECE", 150)  # several files
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 12, 60)
    counts[:3] = 0, 90, 0  # an owner that has most, beside owners that have none
    offsets = np.cumsum([0, *counts])
    vectors = unit(rng, offsets[-1])
    vectors[rng.integers(0, len(vectors), 80)] = vectors[5]  # near duplicates and ties over owners
    index = build(tmp_path, vectors)
    allowed = rng.random(len(vectors)) < 0.7
    queries = np.concatenate([unit(rng, 3), vectors[5:6]])
    for mask in (None, allowed):
        found = best_owners(index, offsets, queries, k, mask)
        for query, owners in zip(queries, found, strict=True):
            wanted = loop(vectors, offsets, query, k, mask)
            assert [owner.position for owner in owners] == [position for position, _ in wanted]
            np.testing.assert_allclose([o.score for o in owners], [s for _, s in wanted], atol=2e-6)


def test_top_regions_are_not_top_images(tmp_path):
    """All of the best 1,000 regions lie in one image; the second image is found all the same."""
    rng = np.random.default_rng(0)
    query = unit(rng, 1)
    near = query + 0.01 * unit(rng, 1000)
    far = unit(rng, 1)
    vectors = np.concatenate([near / np.linalg.norm(near, axis=1, keepdims=True), far])
    found = best_owners(build(tmp_path, vectors), np.array([0, 1000, 1001]), query, 2)[0]
    assert [owner.position for owner in found] == [0, 1]


def test_a_tie_goes_to_the_lower_owner_wherever_it_lies(tmp_path):
    rng = np.random.default_rng(1)
    vectors = unit(rng, 200)
    vectors[[3, 57, 111, 199]] = vectors[3]
    found = best_owners(build(tmp_path, vectors), np.arange(201), vectors[3:4], 3)[0]
    assert [owner.position for owner in found] == [3, 57, 111]
    assert len({owner.score for owner in found}) == 1


def test_an_index_of_nothing(tmp_path):
    index = build(tmp_path, np.empty((0, 16), np.float32))
    assert best_owners(index, np.array([0, 0, 0]), unit(np.random.default_rng(0), 2), 5) == [[], []]


def test_rows_are_read_back_over_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(felga.search.flat, "PIECE", 10)
    vectors = unit(np.random.default_rng(2), 35)
    index = build(tmp_path, vectors)
    assert len(list(tmp_path.glob("*.faiss"))) == 4
    for start, stop in ((0, 35), (9, 11), (10, 20), (34, 35), (5, 5)):
        np.testing.assert_array_equal(index.vectors(start, stop), vectors[start:stop])


def test_a_file_that_is_no_index_or_another_is_refused(tmp_path):
    vectors = unit(np.random.default_rng(3), 20)
    build(tmp_path, vectors)
    path = tmp_path / "x.faiss"
    with pytest.raises(BadIndexError, match="16 dimensions, wanted 8"):
        FragmentIndex([path], 8, 20)
    with pytest.raises(BadIndexError, match="hold 20 fragments, the manifest says 21"):
        FragmentIndex([path], 16, 21)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BadIndexError, match="not a readable FAISS file"):
        FragmentIndex([path], 16, 20)
