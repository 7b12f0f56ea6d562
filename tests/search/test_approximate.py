"""Approximate search: what it finds, what it says it finds, and what is left of it when files change."""

from __future__ import annotations

import numpy as np
import pytest

from felga.errors import BadIndexError, BadInputError
from felga.search import approximate as a
from felga.search.owners import best_owners
from felga.search.rules import BestAndWhole
from tests.search.test_owners import build, half, unit

DIM, OWNERS, EACH, PIECE = 32, 1500, 6, 900
FACTORIES = ["IVF32,PQ8x4fs", "HNSW16", "IVF16,Flat", "SQ8", "PCA24,IVF16,Flat"]


class Made:
    """Fragments around a few hundred centres, and queries that lie apart from them."""

    def __init__(self, folder):
        rng = np.random.default_rng(0)
        centres = unit(rng, 300, DIM)
        vectors = centres[rng.integers(0, 300, OWNERS * EACH)] + 0.5 * unit(rng, OWNERS * EACH, DIM)
        self.vectors = half(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        self.offsets = np.arange(0, OWNERS * EACH + 1, EACH)
        asked = centres[:40] + 0.8 * unit(rng, 40, DIM)
        self.queries = asked / np.linalg.norm(asked, axis=1, keepdims=True)
        self.flat = build(folder, self.vectors, PIECE)
        self.counts = [PIECE] * (OWNERS * EACH // PIECE)
        self.starts = list(range(0, OWNERS * EACH, PIECE))

    def best(self, shortlister=None, queries=None, flat=None, offsets=None, **more):
        found = best_owners(
            flat or self.flat, self.offsets if offsets is None else offsets,
            self.queries if queries is None else queries, 10, shortlister=shortlister, **more,
        )  # fmt: skip
        return [[owner.position for owner in owners] for owners in found]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("flat"))


@pytest.fixture(scope="module")
def codes(made, tmp_path_factory):
    path = tmp_path_factory.mktemp("codes") / "codes.faiss"
    a.write_approximate(made.flat, FACTORIES[0], path)
    return path


def searcher(made, path, depth=None, starts=None):
    depth = depth or a.Depth(32, 90)
    return a.ApproximateSearcher(path, made.flat, made.counts, starts or made.starts, depth)


def shares(exact, found):
    return [len({*best} & {*own}) / len(best) for best, own in zip(exact, found, strict=True)]


@pytest.mark.parametrize("factory", FACTORIES)
def test_the_deepest_search_finds_nearly_all(made, tmp_path, factory):
    path = tmp_path / "codes.faiss"
    a.write_approximate(made.flat, factory, path)
    found = searcher(made, path)
    assert not found.rest
    found.depth = a.depths(found, len(made.flat))[-1]
    assert np.mean(shares(made.best(), made.best(found))) > 0.97
    assert made.best(found, made.queries[:1]) == made.best(found)[:1]  # alone and among others


def test_scores_are_exact_whatever_was_looked_at(made, codes):
    whole = np.zeros(len(made.vectors), bool)
    whole[EACH - 1 :: EACH] = True
    kwargs = {"rule": BestAndWhole(), "extras": {"whole": whole}}
    shallow = searcher(made, codes, a.Depth(1, 3))
    exact = best_owners(made.flat, made.offsets, made.queries, OWNERS, **kwargs)
    found = best_owners(made.flat, made.offsets, made.queries, 10, shortlister=shallow, **kwargs)
    for every, own in zip(exact, found, strict=True):
        scores = {owner.position: owner.score for owner in every}
        assert [owner.score for owner in own] == [scores[owner.position] for owner in own]
        assert [owner.score for owner in own] == sorted((owner.score for owner in own), reverse=True)


def test_more_depth_is_never_less_recall(made, codes):
    exact, found = made.best(), searcher(made, codes)
    recalls = []
    for effort in (1, 4, 32):
        found.depth = a.Depth(effort, 90)
        recalls.append(np.mean(shares(exact, made.best(found))))
    assert recalls == sorted(recalls)
    assert recalls[0] < 0.9 < recalls[-1]


def test_files_that_are_new_are_searched_exactly_and_those_that_are_gone_are_not(made, codes, tmp_path):
    """Files 0, 1 and 4 are gone, one is new, the others have moved."""
    rng = np.random.default_rng(9)
    kept = [number for number in range(len(made.counts)) if number not in (0, 1, 4)]
    parts = [made.vectors[number * PIECE : (number + 1) * PIECE] for number in kept]
    new = unit(rng, PIECE, DIM)
    new[::EACH][:40] = half(made.queries)  # the best of each query is in the new file
    vectors = np.concatenate([*parts[:2], new, *parts[2:]])
    flat = build(tmp_path, vectors, PIECE)
    place = {number: (at if at < 2 else at + 1) * PIECE for at, number in enumerate(kept)}
    starts = [place.get(number) for number in range(len(made.counts))]
    found = a.ApproximateSearcher(codes, flat, made.counts, starts, a.Depth(32, 90))
    assert found.rest == [(2 * PIECE, 3 * PIECE)]
    offsets = np.arange(0, len(vectors) + 1, EACH)
    exact, own = made.best(flat=flat, offsets=offsets), made.best(found, flat=flat, offsets=offsets)
    first = 2 * PIECE // EACH
    assert [ranked[0] for ranked in own] == list(range(first, first + 40))
    assert np.mean(shares(exact, own)) > 0.97


def test_fragments_that_do_not_count_are_no_hits(made, codes):
    allowed = np.random.default_rng(1).random(len(made.vectors)) < 0.5
    exact, found = made.best(allowed=allowed), made.best(searcher(made, codes), allowed=allowed)
    assert np.mean(shares(exact, found)) > 0.97


def test_a_filter_of_owners_is_exact_all_the_same(made, codes):
    among = np.random.default_rng(2).random(OWNERS) < 0.01
    assert made.best(searcher(made, codes, a.Depth(1, 1)), among=among) == made.best(among=among)


def test_nothing_is_left(made, codes):
    empty = a.ApproximateSearcher(codes, made.flat, made.counts, [None] * len(made.counts), a.Depth(8, 9))
    assert empty.rest == [(0, len(made.flat))]
    assert made.best(empty) == made.best()


def test_depths_get_dearer(made, codes):
    tried = a.depths(searcher(made, codes), len(made.flat))
    assert len(set(tried)) == len(tried) > 10
    assert tried[0].effort < tried[-1].effort
    assert {depth.effort for depth in tried} <= set(range(1, 33))


@pytest.mark.parametrize(
    ("fragments", "dim", "factory"),
    [(99_999, 512, None), (1_000_000, 512, "IVF4096,PQ128x4fs"), (10_000_000, 384, "IVF16384,PQ96x4fs"),
     (200_000, 510, "IVF2048,PQ102x4fs")],
)  # fmt: skip
def test_what_auto_takes(fragments, dim, factory):
    assert a.factory_for(fragments, dim) == factory
    if factory:
        a.check_factory(factory, dim)


def test_factories_that_faiss_refuses(made, tmp_path):
    with pytest.raises(BadInputError, match=r"by 'nonsense' \(could not parse.*use flat"):
        a.check_factory("nonsense", DIM)
    with pytest.raises(BadInputError, match="multiple of the number of subquantizers"):
        a.check_factory("PQ7", DIM)
    with pytest.raises(BadInputError, match="cannot be trained on 9000 fragments"):
        a.write_approximate(made.flat, "IVF16384,Flat", tmp_path / "x.faiss")
    assert list(tmp_path.iterdir()) == []


def test_damaged_codes_and_codes_of_something_else(made, codes, tmp_path):
    path = tmp_path / "codes.faiss"
    for damaged in (codes.read_bytes()[:1000], b"", b"IxFI" + b"\0" * 100):
        path.write_bytes(damaged)
        with pytest.raises(BadIndexError, match="not readable by FAISS|is no index of"):
            searcher(made, path)
    with pytest.raises(BadIndexError, match="is no index of 900 fragments"):
        a.ApproximateSearcher(codes, made.flat, [PIECE], [0], a.Depth(1, 1))
