from __future__ import annotations

import sys

import numpy as np
import pytest

from felga import registry
from felga.corpus.items import Corpus
from felga.errors import BadInputError, MissingError, did_you_mean
from felga.types import Encoder, KeywordProposer, RegionProposer


def test_a_near_name_is_suggested():
    with pytest.raises(BadInputError, match="no encoder named 'cnse': did you mean 'conse'"):
        registry.make_encoder("cnse")
    with pytest.raises(BadInputError, match="no region proposer named .*did you mean 'selective-search'"):
        registry.make_regions("selectivesearch")
    with pytest.raises(BadInputError, match="no keyword proposer named 'KEYBER': did you mean 'keybert'"):
        registry.make_keywords("KEYBER")
    with pytest.raises(BadInputError, match="no corpus named 'foldr': did you mean 'folder'"):
        registry.make_corpus("foldr:photos")


def test_a_name_unlike_any_other_lists_the_choices():
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


def test_a_missing_module_of_felga_is_a_bug_and_not_hidden(monkeypatch):
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


def test_a_third_party_name_is_unknown_without_its_package():
    assert "felga_toy" not in sys.modules
    with pytest.raises(BadInputError, match="no encoder named 'toy'"):
        registry.make_encoder("toy")


def test_the_argument_is_split_at_the_first_colon(toy):
    assert registry.make_encoder("toy:a:b").name == "toy:a:b"
    assert np.isfinite(registry.make_encoder("toy").encode_texts(["x"])).all()


LAZY = """
class Lazy:
    name = "lazy"
    loaded = False
    @property
    def dim(self):
        Lazy.loaded = True
        return 8
    def identity(self): ...
    def encode_regions(self, images, boxes): ...
    def encode_texts(self, texts): ...

class Nothing:
    name = "nothing"

def lazy(weights, **options):
    return Lazy()

def nothing(weights, **options):
    return Nothing()
"""


def test_a_part_is_checked_without_loading_its_weights(monkeypatch, tmp_path):
    (tmp_path / "lazy_encoder.py").write_text(LAZY)
    monkeypatch.syspath_prepend(str(tmp_path))
    entry(monkeypatch, "lazy_encoder:lazy")
    assert not registry.make_encoder("x").loaded
    entry(monkeypatch, "lazy_encoder:nothing")
    with pytest.raises(
        BadInputError, match="'x' is no encoder: .* a Nothing without dim, identity, encode_regions, enc"
    ):
        registry.make_encoder("x")


def test_the_members_checked_are_those_of_the_protocols():
    protocols = {
        "encoders": Encoder, "regions": RegionProposer, "keywords": KeywordProposer, "corpora": Corpus
    }  # fmt: skip
    assert {kind: set(members) for kind, members in registry.MEMBERS.items()} == {
        kind: {name for name in vars(protocol) if not name.startswith("_")}
        for kind, protocol in protocols.items()
    }


def test_a_hint_names_at_most_twenty_choices():
    assert did_you_mean("zzz", map(str, range(25))) == f"known: {', '.join(map(str, range(20)))} and 5 more"
    assert did_you_mean("vit-b-23", ["ViT-L-14", "ViT-B-32"]) == "did you mean 'ViT-B-32'?"
    assert did_you_mean("zzz", []) == "none is known"
