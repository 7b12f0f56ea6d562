import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from felga.errors import BadInputError
from felga.evaluation.ranking import rank
from felga.search import matrix
from felga.search.matrix import owner_scores

from . import reference


def exact_vectors(g, count, dim=16):
    """Unit vectors of four halves, plus or minus: every product is a quarter, exact in any order of sums."""
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
def test_equals_loops_and_sklearn(monkeypatch, tile, workers):
    monkeypatch.setattr(matrix, "TILE", tile)  # 37 queries: tiles of 5 do not divide them
    given = problem()
    found = rank(**given, workers=workers).metrics
    scores = loop_scores(given)
    for row, kind in enumerate(given["query_class"]):
        relevant = given["relevant"][kind]
        wanted = average_precision_score(relevant, np.maximum(scores[row], -9))
        assert found.average_precision[row] == pytest.approx(wanted, abs=1e-12)
        assert found.average_precision[row] == pytest.approx(
            reference.grouped_precision(scores[row], relevant), abs=1e-12
        )


def test_owner_scores_are_those_of_loops():
    given = problem(1)
    found = owner_scores(given["queries"], given["fragments"], given["rows"], given["offsets"])
    np.testing.assert_array_equal(found, loop_scores(given))
    assert np.isneginf(found[:, np.diff(given["offsets"]) == 0]).all()


def test_memory_bound_makes_tiles_of_one_query(monkeypatch):
    given = problem(2)
    wanted = rank(**given).metrics.average_precision
    monkeypatch.setattr(matrix, "TILE_BYTES", 1)
    np.testing.assert_array_equal(rank(**given).metrics.average_precision, wanted)


def test_all_negative_query_and_empty_owner():
    found = rank(
        np.float32([[1, 0]]),
        np.float32([[-1, 0], [-0.6, 0.8]]),
        rows=np.array([0, 1, 0]),
        offsets=np.array([0, 1, 1, 3]),  # the owner in the middle has none
        query_class=np.array([0]),
        relevant=np.array([[True, True, False]]),
    )
    # -0.6 (not relevant), -1, then the empty owner
    assert found.metrics.average_precision[0] == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_owners_that_share_their_best_keyword_tie():
    g = np.random.default_rng(0)
    vectors = g.standard_normal((40, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = np.concatenate([[i, 39] for i in range(39)])  # everyone has keyword 39 ...
    found = rank(
        vectors[39:], vectors, rows, np.arange(0, 79, 2), np.array([0]), np.arange(39)[None] < 13
    )  # ... which is the query itself
    assert found.metrics.average_precision[0] == pytest.approx(13 / 39, abs=1e-12)
    assert found.metrics.optimistic[0] == 1.0


def test_one_owner_without_fragments_and_no_query():
    given = problem(3, owners=1)
    given |= {"rows": np.zeros(0, int), "offsets": np.array([0, 0]), "relevant": np.ones((5, 1), bool)}
    assert rank(**given).metrics.average_precision.tolist() == [1.0] * 37
    none = problem(4) | {"queries": np.zeros((0, 16), np.float32), "query_class": np.zeros(0, int)}
    assert rank(**none).summary()["map"] is None


def test_queries_without_relevant_owner_are_left_out_and_counted():
    given = problem(5)
    given["relevant"][2] = False
    found = rank(**given)
    without = given["query_class"] == 2
    assert without.any()
    assert np.isnan(found.metrics.average_precision[without]).all()
    summary = found.summary()
    assert summary["left_out"] == without.sum()
    assert summary["queries"] == (~without).sum()
    assert summary["map"] == pytest.approx(found.metrics.average_precision[~without].mean())
    assert summary["chance"]["map"] == pytest.approx(found.chance.average_precision[~without].mean())
    assert found.summary(given["query_class"] == 1)["queries"] == (given["query_class"] == 1).sum()


def test_read_only_input_and_torch_threads_are_left_alone():
    given = problem(6)
    given["fragments"].flags.writeable = False
    before = torch.get_num_threads()
    rank(**given)
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
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(BadInputError, match=message):
        rank(**(problem() | change))


def test_rows_out_of_range_and_falling_offsets_are_refused():
    given = problem()
    with pytest.raises(BadInputError, match="rows"):
        rank(**(given | {"rows": given["rows"] + 60}))
    falling = given["offsets"].copy()
    falling[3] = falling[-1]
    with pytest.raises(BadInputError, match="fall"):
        rank(**(given | {"offsets": falling}))
