"""Exactness: the best owners against a plain loop over every fragment."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from felga.errors import BadIndexError, BadInputError
from felga.search.flat import FlatSearcher, write_piece
from felga.search.owners import best_fragments, best_owners
from tests.search.reference import Loop


def unit(rng, n, dim=16):
    vectors = rng.standard_normal((n, dim)).astype(np.float32)
    return half(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def half(vectors):
    """Rounded to what a file holds."""
    return vectors.astype(np.float16).astype(np.float32)


def build(folder, vectors, piece=7):
    """FAISS files of ``piece`` vectors each."""
    paths = []
    for number, start in enumerate(range(0, len(vectors), piece)):
        paths.append(folder / f"x-{number:03d}.faiss")
        write_piece([vectors[start : start + piece]], vectors.shape[1], paths[-1])
    return FlatSearcher(paths, vectors.shape[1], len(vectors))


class Weighted:
    """cosine x u^g, as a predicted IoU u may be used; the bound needs u <= 1."""

    def __init__(self, g):
        self.g = g

    def score(self, products, extras):
        return np.where(products > 0, products * extras["u"] ** self.g, products).astype(np.float32)

    def bound(self, products):
        return products


def loop(vectors, offsets, query, k, allowed=None, u=None, g=0.0, concepts=None):
    """Every fragment of every owner, one by one: (owner, best score), best first, ties by the next best."""
    ranked = []
    for owner in range(len(offsets) - 1):
        best: dict = {}
        names = None if concepts is None else concepts([owner])[0]
        for place, row in enumerate(range(offsets[owner], offsets[owner + 1])):
            if allowed is not None and not allowed[row]:
                continue
            score = np.einsum("nd,d->n", vectors[row : row + 1], query)[0]
            if u is not None and score > 0:
                score = np.float32(score * u[row] ** g)
            concept = place if names is None else names[place]
            best[concept] = max(best.get(concept, -np.inf), float(score))
        if best:
            ranked.append(([*(-score for score in sorted(best.values(), reverse=True)), np.inf], owner))
    return [(owner, -key[0]) for key, owner in sorted(ranked)[:k]]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("k", [1, 3, 40, 1000])
def test_the_best_owners_are_exact(tmp_path, seed, k):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 12, 60)
    counts[:3] = 0, 90, 0  # one owner with most of the fragments, beside owners without any
    offsets = np.cumsum([0, *counts])
    vectors = unit(rng, offsets[-1])
    vectors[rng.integers(0, len(vectors), 80)] = vectors[5]  # duplicates: ties between owners
    allowed = rng.random(len(vectors)) < 0.7
    queries = np.concatenate([unit(rng, 3), vectors[5:6]])
    for searcher in (build(tmp_path, vectors, 50), Loop(vectors)):
        for mask in (None, allowed):
            ranked = best_owners(searcher, offsets, queries, k, mask)
            for query, owners in zip(queries, ranked, strict=True):
                expected = loop(vectors, offsets, query, k, mask)
                assert [owner.position for owner in owners] == [position for position, _ in expected]
                np.testing.assert_allclose([o.score for o in owners], [s for _, s in expected], atol=2e-6)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("g", [0.1, 1.0, 3.0])
def test_another_score_is_exact_through_its_bound(tmp_path, seed, g):
    rng = np.random.default_rng(seed)
    offsets = np.cumsum([0, *rng.integers(0, 8, 80)])
    vectors, u = unit(rng, offsets[-1]), rng.random(offsets[-1]).astype(np.float32)
    queries = unit(rng, 4)
    ranked = best_owners(
        build(tmp_path, vectors, 60), offsets, queries, 5, scorer=Weighted(g), extras={"u": u}
    )
    for query, owners in zip(queries, ranked, strict=True):
        expected = loop(vectors, offsets, query, 5, u=u, g=g)
        assert [owner.position for owner in owners] == [position for position, _ in expected]
        np.testing.assert_allclose([o.score for o in owners], [s for _, s in expected], atol=2e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k", [1, 4, 25])
def test_ties_are_broken_by_the_next_best_fragments(tmp_path, seed, k):
    """Owners that share a few keywords, as texts do: nearly everything ties."""
    rng = np.random.default_rng(seed)
    words = unit(rng, 6)
    counts = rng.integers(1, 5, 60)
    offsets = np.cumsum([0, *counts])
    drawn = rng.integers(0, 6, offsets[-1])
    vectors = words[drawn]

    def concepts(owners):
        return [[int(word) // 2 for word in drawn[offsets[at] : offsets[at + 1]]] for at in owners]

    for same in (None, concepts):
        ranked = best_owners(build(tmp_path, vectors), offsets, words, k, concepts=same)
        for query, owners in zip(words, ranked, strict=True):
            expected = loop(vectors, offsets, query, k, concepts=same)
            assert [owner.position for owner in owners] == [position for position, _ in expected]


def test_singular_and_plural_count_once():
    """Two texts tie at their best word; the second best of the first is only the same word again."""
    zebra, near, grass = np.float32([1, 0, 0]), np.float32([0.8, 0.6, 0]), np.float32([0.6, 0, 0.8])
    vectors = np.stack([zebra, near, zebra, grass])
    names = [["zebra", "zebra"], ["zebra", "grass"]]
    query, offsets = zebra[None], np.array([0, 2, 4])
    alone = best_owners(Loop(vectors), offsets, query, 2)[0]
    assert [owner.position for owner in alone] == [0, 1]
    once = best_owners(
        Loop(vectors), offsets, query, 2, concepts=lambda owners: [names[at] for at in owners]
    )[0]
    assert [owner.position for owner in once] == [1, 0]


def test_a_fragment_without_a_concept_breaks_no_tie():
    """Two texts tie at their best word; what else the first one says is the whole text."""
    zebra, near, grass = np.float32([1, 0, 0]), np.float32([0.8, 0.6, 0]), np.float32([0.6, 0, 0.8])
    vectors = np.stack([zebra, near, zebra, grass])
    names = [["zebra", None], ["zebra", "grass"]]
    query, offsets = zebra[None], np.array([0, 2, 4])
    found = best_owners(
        Loop(vectors), offsets, query, 2, concepts=lambda owners: [names[at] for at in owners]
    )[0]
    assert [owner.position for owner in found] == [1, 0]


def test_the_best_regions_are_not_the_best_images(tmp_path):
    """The best 1,000 regions all lie in one image; the second image is returned all the same."""
    rng = np.random.default_rng(0)
    query = unit(rng, 1)
    near = query + 0.01 * unit(rng, 1000)
    far = unit(rng, 1)
    vectors = np.concatenate([near / np.linalg.norm(near, axis=1, keepdims=True), far])
    ranked = best_owners(build(tmp_path, vectors, 300), np.array([0, 1000, 1001]), query, 2)[0]
    assert [owner.position for owner in ranked] == [0, 1]


def test_equal_owners_are_in_order_wherever_they_lie(tmp_path):
    rng = np.random.default_rng(1)
    vectors = unit(rng, 200)
    vectors[[3, 57, 111, 199]] = vectors[3]
    ranked = best_owners(build(tmp_path, vectors), np.arange(201), vectors[3:4], 3)[0]
    assert [owner.position for owner in ranked] == [3, 57, 111]
    assert len({owner.score for owner in ranked}) == 1


def test_nothing_to_search(tmp_path):
    searcher = build(tmp_path, np.empty((0, 16), np.float32))
    assert best_owners(searcher, np.array([0, 0, 0]), unit(np.random.default_rng(0), 2), 5) == [[], []]


def test_products_are_those_of_a_loop_whatever_the_files(tmp_path):
    rng = np.random.default_rng(4)
    vectors, queries = unit(rng, 2500), unit(rng, 5)
    searcher = build(tmp_path, vectors, 1100)
    for start, stop in ((0, 2500), (1099, 1101), (1100, 2500), (7, 7)):
        for asked in (queries, queries[:1]):
            expected = Loop(vectors).products(asked, start, stop)
            found = searcher.products(asked, start, stop)
            np.testing.assert_allclose(found, expected, rtol=0, atol=searcher.error(asked))


def test_the_best_fragments_are_those_of_a_loop(tmp_path):
    rng = np.random.default_rng(6)
    vectors, query = unit(rng, 40_000), unit(rng, 1)[0]
    expected = np.argsort(-(vectors @ query), kind="stable")[:5]
    assert best_fragments(build(tmp_path, vectors, 9_000), query, 5).tolist() == expected.tolist()
    assert len(best_fragments(build(tmp_path, vectors[:3], 2), query, 5)) == 3


def test_fragments_that_do_not_count_keep_their_products(tmp_path):
    rng = np.random.default_rng(3)
    vectors, allowed = unit(rng, 30), rng.random(30) < 0.5
    (owners,) = best_owners(build(tmp_path, vectors), np.arange(0, 31, 3), vectors[:1], 10, allowed)
    for owner in owners:
        own = slice(3 * owner.position, 3 * owner.position + 3)
        np.testing.assert_allclose(owner.products, vectors[own] @ vectors[0], atol=1e-6)
        assert (np.isneginf(owner.scores) == ~allowed[own]).all()


@pytest.mark.parametrize("share", [0.02, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_a_filter_of_owners_is_exact(tmp_path, seed, share):
    """Few owners are gathered, many are read with what lies between them."""
    rng = np.random.default_rng(seed)
    offsets = np.cumsum([0, *rng.integers(0, 12, 4000)])
    vectors, queries = unit(rng, offsets[-1]), unit(rng, 3)
    among, allowed = rng.random(4000) < share, rng.random(offsets[-1]) < 0.7
    ranked = best_owners(build(tmp_path, vectors, 7000), offsets, queries, 6, allowed, among=among)
    for query, owners in zip(queries, ranked, strict=True):
        allowed_now = allowed & np.repeat(among, np.diff(offsets))
        expected = loop(vectors, offsets, query, 6, allowed_now)
        assert [owner.position for owner in owners] == [position for position, _ in expected]
    assert best_owners(Loop(vectors), offsets, queries, 6, among=np.zeros(4000, bool)) == [[], [], []]


def test_a_damaged_vector_is_said(tmp_path):
    vectors = unit(np.random.default_rng(8), 40)
    vectors[33] = np.nan
    with pytest.raises(BadInputError, match="NaN"):
        best_owners(build(tmp_path, vectors), np.arange(41), vectors[:1], 3)


def test_rows_are_read_back_across_files(tmp_path):
    vectors = unit(np.random.default_rng(2), 35)
    searcher = build(tmp_path, vectors, 10)
    assert len(list(tmp_path.glob("*.faiss"))) == 4
    for start, stop in ((0, 35), (9, 11), (10, 20), (34, 35), (5, 5)):
        np.testing.assert_array_equal(searcher.vectors(start, stop), vectors[start:stop])


def write_faiss(path, build_index):
    index = build_index(16)
    index.add(unit(np.random.default_rng(3), 20))
    faiss.write_index(index, str(path))


def of_halves(dim):
    return faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)


@pytest.mark.parametrize(
    "kind",
    [
        faiss.IndexFlatIP,
        lambda dim: faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_L2),
        lambda dim: faiss.IndexScalarQuantizer(
            dim, faiss.ScalarQuantizer.QT_bf16, faiss.METRIC_INNER_PRODUCT
        ),
        lambda dim: faiss.IndexHNSWFlat(dim, 4),
    ],
)
def test_another_type_of_index_is_refused(tmp_path, kind):
    write_faiss(tmp_path / "x.faiss", kind)
    with pytest.raises(BadIndexError, match="not a FAISS IndexScalarQuantizer of half precision"):
        FlatSearcher([tmp_path / "x.faiss"], 16, 20)


def test_a_file_that_contradicts_its_header_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "x.faiss"
    write_faiss(path, of_halves)
    whole = path.read_bytes()
    monkeypatch.setattr("felga.search.flat.mmap.mmap", lambda *_, **__: pytest.fail("mapped too early"))
    with pytest.raises(BadIndexError, match="16 dimensions, expected 8"):
        FlatSearcher([path], 8, 20)
    with pytest.raises(BadIndexError, match="hold 20 fragments, the manifest says 21"):
        FlatSearcher([path], 16, 21)
    for damaged in (
        whole[:100],
        whole[:10],
        whole + b"x",
        whole[:8] + b"\xff" * 6 + b"\0\0" + whole[16:],
        b"",
    ):
        path.write_bytes(damaged)
        with pytest.raises(BadIndexError):
            FlatSearcher([path], 16, 20)
    with pytest.raises(BadIndexError, match="cannot be read"):
        FlatSearcher([tmp_path / "gone.faiss"], 16, 20)


def test_a_file_is_read_by_faiss_alike(tmp_path):
    rng = np.random.default_rng(7)
    vectors, queries = unit(rng, 300), unit(rng, 2)
    path = tmp_path / "x.faiss"
    write_piece([vectors[:120], vectors[120:]], vectors.shape[1], path)
    searcher = FlatSearcher([path], vectors.shape[1], 300)
    products, rows = faiss.read_index(str(path)).search(queries, 300)
    own = searcher.products(queries, 0, 300)
    np.testing.assert_allclose(np.take_along_axis(own.T, rows, 1), products, atol=1e-6)


def test_a_piece_is_whole_or_not_there(tmp_path, monkeypatch):
    vectors = unit(np.random.default_rng(5), 4)
    monkeypatch.setattr("felga.files.os.replace", lambda *_: (_ for _ in ()).throw(OSError("killed")))
    with pytest.raises(OSError, match="killed"):
        write_piece([vectors], 16, tmp_path / "x.faiss")
    assert not (tmp_path / "x.faiss").exists()
