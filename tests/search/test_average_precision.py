import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import average_precision_score, precision_recall_curve

from felga.errors import BadInputError
from felga.search.average_precision import average_precision, chance, metrics, precision_recall

from . import reference


def check_against_sklearn(scores, relevant):
    found = metrics(scores, relevant)
    for row in range(len(scores)):
        if relevant[row].any():
            # scikit-learn takes no infinity: any finite score below all others ranks alike
            finite = np.where(np.isneginf(scores[row]), np.float64(-1e39), scores[row].astype(np.float64))
            expected = average_precision_score(relevant[row], finite)
            assert found.average_precision[row] == pytest.approx(expected, abs=1e-12)
            assert found.pessimistic[row] <= found.average_precision[row] + 1e-12
            assert found.pessimistic[row] <= found.optimistic[row] + 1e-12
        else:
            assert np.isnan(found.average_precision[row])


@pytest.mark.parametrize("steps", [2, 7, 40, 10**6])
@pytest.mark.parametrize("owners", [1, 2, 9, 10, 11, 300])
def test_equals_sklearn_from_all_tied_to_all_distinct(steps, owners):
    g = np.random.default_rng(owners)
    scores = (np.round(g.uniform(-1, 1, (20, owners)) * steps) / steps).astype(np.float32)
    scores[:, ::5] = -np.inf
    check_against_sklearn(scores, g.random((20, owners)) < 0.3)


@pytest.mark.parametrize("scale", [1e-38, 1.0, 1.6, 50.0, 1e37])
def test_equals_sklearn_beyond_cosines(scale):
    g = np.random.default_rng(0)
    scores = (g.integers(-9, 9, (10, 50)) / 9 * scale).astype(np.float32)
    check_against_sklearn(scores, g.random((10, 50)) < 0.3)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_equals_sklearn_on_anything(data):
    owners = data.draw(st.integers(1, 40))
    scores = data.draw(arrays.arrays(np.float32, (3, owners), elements=st.floats(-2, 2, width=32)))
    check_against_sklearn(scores, data.draw(arrays.arrays(bool, (3, owners))))


def test_all_negative_cosines_rank_like_any():
    assert average_precision(np.float32([-0.1, -0.2, -0.3]), np.array([True, False, True])) == pytest.approx(
        (1 + 2 / 3) / 2
    )


def test_one_owner():
    assert average_precision(np.float32([-0.4]), np.array([True])) == 1.0
    assert average_precision(np.float32([-np.inf]), np.array([True])) == 1.0
    assert np.isnan(average_precision(np.float32([0.4]), np.array([False])))


def test_no_owner_is_nan():
    found = metrics(np.zeros((2, 0), np.float32), np.zeros((2, 0), bool))
    assert np.isnan(found.average_precision).all()
    assert found.relevant.tolist() == [0, 0]


def test_no_query():
    assert len(metrics(np.zeros((0, 3), np.float32), np.zeros((0, 3), bool)).ndcg) == 0


def test_zeros_of_both_signs_tie():
    relevant = np.array([True, False])
    assert average_precision(np.float32([0.0, -0.0]), relevant) == 0.5
    assert average_precision(np.float32([-0.0, 0.0]), relevant) == 0.5


def test_empty_owner_is_last_even_behind_minus_one():
    found = average_precision(np.float32([-np.inf, -1.0]), np.array([True, False]))
    assert found == 0.5


def test_infinite_scores():
    scores = np.float32([[np.inf, 1.0, np.inf, -np.inf]])
    found = metrics(scores, np.array([[True, False, False, True]]))
    assert found.average_precision[0] == pytest.approx((1 / 2 + 2 / 4) / 2)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_bounds_and_expectations_over_every_order_of_ties(steps):
    g = np.random.default_rng(steps)
    for _ in range(25):
        owners = int(g.integers(1, 8))
        scores = (g.integers(-steps, steps + 1, owners) / 8).astype(np.float32)
        scores[g.random(owners) < 0.2] = -np.inf
        relevant = g.random(owners) < 0.5
        relevant[g.integers(owners)] = True
        found = metrics(scores[None], relevant[None])
        every = list(reference.orders(scores, relevant))
        precision = [reference.precision_of_order(flags) for flags in every]
        assert found.optimistic[0] == pytest.approx(max(precision), abs=1e-12)
        assert found.pessimistic[0] == pytest.approx(min(precision), abs=1e-12)
        assert found.average_precision[0] == pytest.approx(
            reference.grouped_precision(scores, relevant), abs=1e-12
        )
        for column, k in enumerate((1, 5, 10)):
            expected = np.mean([reference.success_of_order(flags, k) for flags in every])
            assert found.recall[0, column] == pytest.approx(expected, abs=1e-12)
        expected = np.mean([reference.ndcg_of_order(flags) for flags in every])
        assert found.ndcg[0] == pytest.approx(expected, abs=1e-12)


def test_a_tie_across_the_tenth_rank():
    scores = np.repeat(np.float32([0.9, 0.5, 0.1]), [7, 6, 7])
    relevant = np.zeros(20, bool)
    relevant[[8, 15]] = True  # one in the tie of ranks 8 to 13, three of which are among the first ten
    found = metrics(scores[None], relevant[None])
    assert found.recall[0].tolist() == pytest.approx([0.0, 0.0, 3 / 6])
    discount = [1 / np.log2(rank + 1) for rank in range(1, 11)]
    assert found.ndcg[0] == pytest.approx(sum(discount[7:]) / 6 / sum(discount[:2]))


def test_long_rows_equal_the_strict_orders():
    g = np.random.default_rng(3)
    scores = g.permutation(400).astype(np.float32).reshape(2, 200) / 500
    relevant = g.random((2, 200)) < 0.1
    found = metrics(scores, relevant)
    for row in range(2):
        flags = relevant[row][np.argsort(-scores[row])].tolist()
        precision = reference.precision_of_order(flags)
        for values in (found.average_precision, found.optimistic, found.pessimistic):
            assert values[row] == pytest.approx(precision, abs=1e-12)
        assert found.ndcg[row] == pytest.approx(reference.ndcg_of_order(flags))
        assert found.recall[row].tolist() == [reference.success_of_order(flags, k) for k in (1, 5, 10)]


def test_does_not_depend_on_the_order_of_owners():
    g = np.random.default_rng(0)
    scores = (g.integers(0, 6, (5, 80)) / 8).astype(np.float32)
    relevant = g.random((5, 80)) < 0.2
    turn = g.permutation(80)
    one, other = metrics(scores, relevant), metrics(scores[:, turn], relevant[:, turn])
    for name in ("average_precision", "optimistic", "pessimistic", "recall", "ndcg"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-14)


def test_nan_is_refused():
    with pytest.raises(BadInputError, match="NaN"):
        metrics(np.float32([[0.1, np.nan]]), np.array([[True, False]]))


def test_other_shapes_are_refused():
    with pytest.raises(BadInputError, match="shape"):
        metrics(np.zeros((2, 3), np.float32), np.zeros((2, 4), bool))


@pytest.mark.parametrize(("owners", "relevant"), [(1, 1), (2, 1), (5, 2), (12, 1), (30, 4), (30, 30)])
def test_chance_is_the_mean_of_random_orders(owners, relevant):
    g = np.random.default_rng(owners)
    flags = np.arange(owners) < relevant
    runs = [g.permutation(flags).tolist() for _ in range(6000)]
    found = chance(np.array([relevant]), owners)

    def close(value, samples):
        assert value == pytest.approx(np.mean(samples), abs=4 * np.std(samples) / len(samples) ** 0.5 + 1e-12)

    close(found.average_precision[0], [reference.precision_of_order(run) for run in runs])
    close(found.ndcg[0], [reference.ndcg_of_order(run) for run in runs])
    for column, k in enumerate((1, 5, 10)):
        close(found.recall[0, column], [reference.success_of_order(run, k) for run in runs])


def test_chance_of_few_owners_is_exact():
    for owners in range(1, 7):
        for relevant in range(1, owners + 1):
            scores, flags = np.zeros(owners), np.arange(owners) < relevant
            every = [reference.precision_of_order(order) for order in reference.orders(scores, flags)]
            found = chance(np.array([relevant]), owners)
            assert found.average_precision[0] == pytest.approx(np.mean(every), abs=1e-12)
    assert np.isnan(chance(np.array([0]), 5).average_precision[0])


def test_precision_recall_equals_sklearn():
    g = np.random.default_rng(0)
    scores = (g.integers(-6, 6, 60) / 8).astype(np.float32)
    relevant = g.random(60) < 0.3
    precision, recall = precision_recall(scores, relevant)
    expected_precision, expected_recall, _ = precision_recall_curve(relevant, scores)
    np.testing.assert_allclose(precision[::-1], expected_precision[:-1], atol=1e-12)
    np.testing.assert_allclose(recall[::-1], expected_recall[:-1], atol=1e-12)
    scores[:4] = -np.inf  # tie with each other
    assert len(precision_recall(scores, relevant)[0]) == len(set(scores))
    with pytest.raises(BadInputError, match="true"):
        precision_recall(scores, np.zeros(60, bool))
