"""Near duplicates against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from felga.search import duplicates
from felga.search.duplicates import Groups, join_near, without_copies
from felga.search.owners import Owner


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def families(seed, n=90, dim=16):
    """Rows of which some are near others."""
    rng = np.random.default_rng(seed)
    bases = rng.standard_normal((n // 2, dim))
    return unit(bases[rng.integers(0, n // 2, n)] + rng.normal(0, 0.12, (n, dim)))


def by_walking(near):
    """The connected parts of more than one row of a symmetric matrix, by walking from each row."""
    seen, found = set(), []
    for start in range(len(near)):
        part, todo = set(), [start]
        while todo:
            row = todo.pop()
            if row not in seen:
                seen.add(row)
                part.add(row)
                todo += np.flatnonzero(near[row]).tolist()
        if len(part) > 1:
            found.append(sorted(part))
    return found


@pytest.mark.parametrize("block", [1, 7, 32, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_groups_are_the_connected_parts_in_blocks_of_any_size(monkeypatch, seed, block):
    monkeypatch.setattr(duplicates, "BLOCK", block)
    vectors = families(seed)
    cosines = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    assert np.abs(cosines - 0.9).min() > 1e-6, "a pair at the threshold would decide by rounding"
    groups, told = Groups(len(vectors)), []
    rows = np.arange(len(vectors))
    join_near(groups, lambda start, stop: vectors[start:stop], rows, 0.9, lambda *now: told.append(now[1]))
    expected = by_walking(cosines >= 0.9)
    assert len(expected) > 5
    assert [group.tolist() for group in groups.several()] == expected
    assert told[-1] == len(vectors)


def test_no_more_than_two_blocks_are_read_at_once(monkeypatch):
    monkeypatch.setattr(duplicates, "BLOCK", 10)
    vectors, asked = families(1), []

    def read(start, stop):
        asked.append(stop - start)
        return vectors[start:stop]

    join_near(Groups(len(vectors)), read, np.arange(len(vectors)), 0.9)
    assert max(asked) == 10


def test_groups_joined_step_by_step_are_one():
    groups = Groups(6)
    for pair in ((4, 5), (1, 2), (2, 4)):
        groups.join(np.array(pair))
    assert [group.tolist() for group in groups.several()] == [[1, 2, 4, 5]]


def owners(order):
    return [Owner(at, -float(rank), np.zeros(1, np.float32), np.zeros(1, np.float32))
            for rank, at in enumerate(order)]  # fmt: skip


@pytest.mark.parametrize("k", [1, 5, 20, 200])
def test_copies_of_a_better_hit_are_left_out_and_k_remain(k):
    vectors = families(2)
    cosines = vectors @ vectors.T
    rng = np.random.default_rng(5)
    orders = [rng.permutation(len(vectors)).tolist() for _ in range(3)]
    names = [f"file {at % 80}" for at in range(len(vectors))]  # ten of them are equal files
    depths = []

    def ranked(want):
        depths.append(want)
        return [owners(order)[:want] for order in orders]

    found = without_copies(ranked, lambda at: ([names[i] for i in at], vectors[list(at)]), k, 0.9)
    for order, own in zip(orders, found, strict=True):
        kept = []
        for at in order:
            if all(cosines[at, other] < 0.9 and names[at] != names[other] for other in kept):
                kept.append(at)
        assert [owner.position for owner in own] == kept[:k]
    assert len(depths) < 4


def test_many_copies_make_the_ranking_longer():
    vectors = unit(np.eye(4)[[0] * 30 + [1, 2, 3]])
    depths = []

    def ranked(want):
        depths.append(want)
        return [owners(range(len(vectors)))[:want]]

    (found,) = without_copies(ranked, lambda at: (list(at), vectors[list(at)]), 3, 0.9)
    assert [owner.position for owner in found] == [0, 30, 31]
    assert depths == [6, 12, 24, 48]
