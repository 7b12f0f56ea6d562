import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from felga.errors import BadInputError
from felga.search import matrix
from felga.search.average_precision import metrics
from felga.search.matrix import owner_metrics, owner_scores
from felga.search.owners import best_owners
from felga.search.segments import segment_max

from . import reference
from .test_owners import Loop, Weighted


def exact_vectors(g, count, dim=16):
    """Unit vectors of four halves: every product is a multiple of a quarter, exact in any order of sums."""
    vectors = np.zeros((count, dim), np.float32)
    for row in vectors:
        row[g.choice(dim, 4, replace=False)] = g.choice([-0.5, 0.5], 4)
    return vectors


def problem(seed=0, queries=37, fragments=60, owners=50, classes=5):
    """Shared keywords, ragged lists, some of them empty."""
    g = np.random.default_rng(seed)
    lengths = g.integers(0, 6, owners)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return {
        "queries": exact_vectors(g, queries),
        "fragments": exact_vectors(g, fragments),
        "rows": g.integers(0, fragments, offsets[-1]),
        "offsets": offsets,
        "query_class": g.integers(0, classes, queries),
        "relevant": g.random((classes, owners)) < 0.2,
    }


def loop_scores(given):
    return np.array(
        [
            reference.best_fragment_scores(query, given["fragments"], given["rows"], given["offsets"])
            for query in given["queries"]
        ]
    )


@pytest.mark.parametrize("tile", [1, 5, 128])
@pytest.mark.parametrize("workers", [1, 2])
def test_metrics_equal_loops_and_sklearn(monkeypatch, tile, workers):
    monkeypatch.setattr(matrix, "TILE", tile)  # 37 queries: tiles of 5 do not divide them
    given = problem()
    found = owner_metrics(**given, workers=workers)
    scores = loop_scores(given)
    for row, kind in enumerate(given["query_class"]):
        relevant = given["relevant"][kind]
        expected = average_precision_score(relevant, np.maximum(scores[row], -9))
        assert found.average_precision[row] == pytest.approx(expected, abs=1e-12)
        assert found.average_precision[row] == pytest.approx(
            reference.grouped_precision(scores[row], relevant), abs=1e-12
        )


def test_scores_equal_loops():
    given = problem(1)
    found = owner_scores(given["queries"], given["fragments"], given["rows"], given["offsets"])
    np.testing.assert_array_equal(found, loop_scores(given))
    assert np.isneginf(found[:, np.diff(given["offsets"]) == 0]).all()


def test_a_tight_memory_limit_changes_nothing(monkeypatch):
    given = problem(2)
    expected = owner_metrics(**given).average_precision
    monkeypatch.setattr(matrix, "TILE_BYTES", 1)
    np.testing.assert_array_equal(owner_metrics(**given).average_precision, expected)


def test_negative_cosines_and_an_owner_without_fragments():
    found = owner_metrics(
        np.float32([[1, 0]]),
        np.float32([[-1, 0], [-0.6, 0.8]]),
        rows=np.array([0, 1, 0]),
        offsets=np.array([0, 1, 1, 3]),  # the owner in the middle has none
        query_class=np.array([0]),
        relevant=np.array([[True, True, False]]),
    )
    # -0.6 (not relevant), -1, then the empty owner
    assert found.average_precision[0] == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_owners_with_the_same_best_keyword_tie():
    g = np.random.default_rng(0)
    vectors = g.standard_normal((40, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = np.concatenate([[i, 39] for i in range(39)])  # all have keyword 39 ...
    found = owner_metrics(
        vectors[39:], vectors, rows, np.arange(0, 79, 2), np.array([0]), np.arange(39)[None] < 13
    )  # ... which is the query itself
    assert found.average_precision[0] == pytest.approx(13 / 39, abs=1e-12)
    assert found.optimistic[0] == 1.0


def test_a_single_owner_without_fragments_and_no_queries():
    given = problem(3, owners=1)
    given |= {"rows": np.zeros(0, int), "offsets": np.array([0, 0]), "relevant": np.ones((5, 1), bool)}
    assert owner_metrics(**given).average_precision.tolist() == [1.0] * 37
    none = problem(4) | {"queries": np.zeros((0, 16), np.float32), "query_class": np.zeros(0, int)}
    assert owner_metrics(**none).average_precision.shape == (0,)


def test_read_only_input_works_and_torch_threads_are_restored():
    given = problem(6)
    given["fragments"].flags.writeable = False
    before = torch.get_num_threads()
    owner_metrics(**given)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": np.full((37, 16), np.nan, np.float32)}, "query vectors"),
        ({"fragments": np.ones((60, 16), np.float32)}, "length 1"),
        ({"queries": np.zeros((37, 15), np.float32)}, "same d"),
        ({"offsets": np.array([0, 3])}, "offsets"),
        ({"query_class": np.full(37, 5)}, "class"),
        ({"query_class": np.zeros(3, int)}, "class"),
        ({"relevant": np.zeros((5, 49), bool)}, "relevant"),
    ],
)
def test_mismatched_input_is_refused(change, message):
    with pytest.raises(BadInputError, match=message):
        owner_metrics(**(problem() | change))


def test_rows_out_of_range_and_falling_offsets_are_refused():
    given = problem()
    with pytest.raises(BadInputError, match="rows"):
        owner_metrics(**(given | {"rows": given["rows"] + 60}))
    falling = given["offsets"].copy()
    falling[3] = falling[-1]
    with pytest.raises(BadInputError, match="fall"):
        owner_metrics(**(given | {"offsets": falling}))


def test_the_same_score_in_one_query_in_tiles_and_through_a_searcher():
    """`segment_max`, `owner_scores` and `best_owners` agree on what an owner scores."""
    given = problem(8)
    vectors = given["fragments"][given["rows"]]
    scores = owner_scores(given["queries"], given["fragments"], given["rows"], given["offsets"])
    ranked = best_owners(Loop(vectors), given["offsets"], given["queries"], 50)
    for query, row, owners in zip(given["queries"], scores, ranked, strict=True):
        best, _ = segment_max(np.einsum("nd,d->n", vectors, query), given["offsets"])
        np.testing.assert_array_equal(row, best)
        assert {owner.position: owner.score for owner in owners} == {
            position: score for position, score in enumerate(row.tolist()) if score > -np.inf
        }


@pytest.mark.parametrize("tile", [3, 128])
def test_another_scorer_ranks_all_owners_as_a_search_does(monkeypatch, tile):
    monkeypatch.setattr(matrix, "TILE", tile)
    given = problem(9)
    u = np.random.default_rng(9).random(60).astype(np.float32)
    fragments = given["fragments"], given["rows"], given["offsets"]
    scores = owner_scores(given["queries"], *fragments, scorer=Weighted(2.0), extras={"u": u})
    ranked = best_owners(
        Loop(given["fragments"][given["rows"]]),
        given["offsets"],
        given["queries"],
        50,
        scorer=Weighted(2.0),
        extras={"u": u[given["rows"]]},
    )
    for row, owners in zip(scores, ranked, strict=True):
        assert [owner.score for owner in owners] == sorted(row[row > -np.inf].tolist(), reverse=True)
    measured = owner_metrics(**given, scorer=Weighted(2.0), extras={"u": u})
    expected = metrics(scores, given["relevant"][given["query_class"]])
    np.testing.assert_array_equal(measured.average_precision, expected.average_precision)
