from __future__ import annotations

import sys

import numpy as np
import pytest

from felga import registry
from felga.errors import BadInputError, MissingError
from felga.types import Encoder, KeywordProposer


def test_a_near_name_is_suggested():
    with pytest.raises(BadInputError, match="no encoder named 'cnse': did you mean 'conse'"):
        registry.make_encoder("cnse")
    with pytest.raises(BadInputError, match="did you mean 'selective-search'"):
        registry.make_regions("selectivesearch")


def test_a_far_name_lists_what_there_is():
    with pytest.raises(BadInputError, match="known: conse, clip"):
        registry.make_encoder("zzzz")


def entry(monkeypatch, target):
    monkeypatch.setitem(
        registry.BUILTIN["encoders"], "x", registry.Entry(target, "", "pip install not-there")
    )


def test_a_missing_package_gives_the_line_that_installs_it(monkeypatch, tmp_path):
    (tmp_path / "needs_more.py").write_text("import not_there_at_all\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    entry(monkeypatch, "needs_more:make")
    with pytest.raises(MissingError, match="'not_there_at_all'.*pip install not-there"):
        registry.make_encoder("x")


def test_a_missing_module_of_our_own_is_a_bug_and_not_hidden(monkeypatch):
    entry(monkeypatch, "felga.encoders.gone:make")
    with pytest.raises(ModuleNotFoundError, match=r"felga\.encoders\.gone"):
        registry.make_encoder("x")


def test_a_third_party_package_adds_an_encoder(toy):
    assert "toy" not in registry.BUILTIN["encoders"]
    encoder = registry.make_encoder("toy:blue")
    assert isinstance(encoder, Encoder)
    assert encoder.name == "toy:blue"
    assert encoder.encode_texts(["a", "b"]).shape == (2, 8)
    assert isinstance(registry.make_keywords("words"), KeywordProposer)
    assert registry.names("encoders")["toy"].about == "from felga-toy"


def test_without_the_package_the_name_is_unknown():
    assert "felga_toy" not in sys.modules
    with pytest.raises(BadInputError, match="no encoder named 'toy'"):
        registry.make_encoder("toy")


def test_the_argument_is_split_at_the_first_colon(toy):
    assert registry.make_encoder("toy:a:b").name == "toy:a:b"
    assert np.isfinite(registry.make_encoder("toy").encode_texts(["x"])).all()
