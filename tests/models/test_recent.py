from __future__ import annotations

import numpy as np

from felga.models.recent import Recent


class Numbers:
    """Gives the number that a text is, as a vector, and notes which it was asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, texts):
        self.asked += texts
        return np.array([[float(text)] for text in texts], np.float32)


def test_each_text_is_asked_for_once():
    recent, numbers = Recent(10, 1), Numbers()
    assert recent.vectors(["1", "2", "1"], numbers).tolist() == [[1.0], [2.0], [1.0]]
    assert recent.vectors(["2", "3"], numbers).tolist() == [[2.0], [3.0]]
    assert numbers.asked == ["1", "2", "3"]


def test_the_text_used_least_recently_is_forgotten():
    recent, numbers = Recent(2, 1), Numbers()
    recent.vectors(["1", "2"], numbers)
    recent.vectors(["1"], numbers)
    recent.vectors(["3"], numbers)  # 2 goes
    numbers.asked.clear()
    recent.vectors(["1", "3", "2"], numbers)
    assert numbers.asked == ["2"]


def test_more_texts_than_are_kept_still_have_their_vectors():
    recent, numbers = Recent(3, 1), Numbers()
    texts = [str(n) for n in range(10)]
    assert recent.vectors(texts, numbers).ravel().tolist() == list(range(10))
    assert len(recent) == 3


def test_no_texts_are_an_empty_array():
    assert Recent(3, 5).vectors([], Numbers()).shape == (0, 5)


def test_a_vector_that_is_changed_by_its_owner_does_not_change_what_is_kept():
    recent, numbers = Recent(3, 1), Numbers()
    recent.vectors(["1"], numbers)[:] = 9
    assert recent.vectors(["1"], numbers).tolist() == [[1.0]]
