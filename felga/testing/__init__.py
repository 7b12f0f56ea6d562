"""Contract tests for the parts that third parties add; they need pytest.

A part that passes its contract works with every command of felga. Subclass the contract in your own tests and
give it a fixture that makes your part::

    import pytest
    from felga.testing import ProposerContract

    from my_package import sliding_windows

    class TestSlidingWindows(ProposerContract):
        @pytest.fixture(scope="class")
        @classmethod
        def proposer(cls):
            return sliding_windows("", device="cpu")

pytest collects the inherited tests. Each contract's docstring names its fixtures and options.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from felga.testing.corpus import CorpusContract as CorpusContract
    from felga.testing.encoder import EncoderContract as EncoderContract
    from felga.testing.proposer import KeywordContract as KeywordContract
    from felga.testing.proposer import ProposerContract as ProposerContract

_MODULES = {
    "CorpusContract": "felga.testing.corpus",
    "EncoderContract": "felga.testing.encoder",
    "KeywordContract": "felga.testing.proposer",
    "ProposerContract": "felga.testing.proposer",
}

__all__ = ["CorpusContract", "EncoderContract", "KeywordContract", "ProposerContract"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import pytest

    if _MODULES[name] in sys.modules:
        return getattr(sys.modules[_MODULES[name]], name)
    pytest.register_assert_rewrite(_MODULES[name])  # before the import: failures then show their values
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
