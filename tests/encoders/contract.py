"""The public contract, with a fresh encoder per test: felga's own load their weights on first use."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from felga.testing import EncoderContract
from felga.types import Encoder


class LazyContract(EncoderContract):
    """Override the fixture ``make``: called with 0 or 1, it makes an encoder with those weights."""

    @pytest.fixture(scope="class")
    @classmethod
    def make(cls) -> Callable[[int], Encoder]:
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls, make):
        return make(0)

    @pytest.fixture(scope="class")
    @classmethod
    def other(cls, make):
        return make(1)

    @pytest.fixture
    def fresh(self, make):
        return make(0)
