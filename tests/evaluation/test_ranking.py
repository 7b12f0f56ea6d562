import numpy as np
import pytest

from felga.evaluation.ranking import rank
from tests.search.test_matrix import problem


def test_queries_without_a_relevant_owner_are_left_out_and_counted():
    given = problem(5)
    given["relevant"][2] = False
    found = rank(**given)
    without = given["query_class"] == 2
    assert without.any()
    assert np.isnan(found.metrics.average_precision[without]).all()
    result = found.result()
    assert result.left_out == without.sum()
    assert result.queries == (~without).sum()
    assert result.map == pytest.approx(found.metrics.average_precision[~without].mean())
    assert result.r5 == pytest.approx(found.metrics.recall[~without, 1].mean())
    assert result.chance.map == pytest.approx(found.chance.average_precision[~without].mean())


def test_without_a_query_there_is_no_mean():
    none = problem(4) | {"queries": np.zeros((0, 16), np.float32), "query_class": np.zeros(0, int)}
    result = rank(**none).result()
    assert (result.map, result.ndcg10, result.chance.map, result.queries) == (None, None, None, 0)
