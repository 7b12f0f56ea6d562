from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from felga.errors import BadInputError
from felga.search.segments import segment_max, top_owners

FEW = st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0])  # many ties


@given(st.lists(st.lists(FEW, max_size=4), max_size=12))
def test_best_fragment_of_each_owner_against_a_loop(owners):
    scores = np.array([score for owner in owners for score in owner], np.float32)
    offsets = np.cumsum([0, *map(len, owners)])
    best, rows = segment_max(scores, offsets)
    for i, owner in enumerate(owners):
        if not owner:
            assert best[i] == -np.inf
            assert rows[i] == -1
        else:
            assert best[i] == max(owner)
            assert rows[i] == offsets[i] + owner.index(max(owner))


@given(st.lists(st.one_of(FEW, st.just(-np.inf)), max_size=20), st.integers(0, 25))
def test_top_owners_against_a_sort(best, k):
    expected = [i for _, i in sorted((-score, i) for i, score in enumerate(best) if score > -np.inf)][:k]
    assert top_owners(np.array(best, np.float32), k).tolist() == expected


def test_nan_is_refused():
    with pytest.raises(BadInputError, match="NaN"):
        segment_max(np.array([0.1, np.nan], np.float32), np.array([0, 2]))


@pytest.mark.parametrize("offsets", [[0, 3], [1, 2], [0, 2, 1, 2], []])
def test_offsets_that_do_not_fit_are_refused(offsets):
    with pytest.raises(BadInputError, match="offsets"):
        segment_max(np.zeros(2, np.float32), np.array(offsets))
