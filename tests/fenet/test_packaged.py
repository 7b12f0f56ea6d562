"""Checkpoints inside the package are found by the identity of their encoder."""

from __future__ import annotations

from dataclasses import replace

from felga.fenet import packaged
from felga.fenet.checkpoint import load_fenet
from felga.fenet.recipes import make_recipe
from felga.fenet.train import train

from .pairs import make_pairs


def test_the_identity_must_be_equal(tmp_path, monkeypatch):
    features = make_pairs(20, seen=5)
    done = train(features, make_recipe("locked", epochs=1, hidden=4))
    replace(done, provenance={"licence": "CC0"}).save(tmp_path / "made.safetensors")
    monkeypatch.setattr(packaged, "WEIGHTS", tmp_path)
    found = packaged.packaged(features.identity)
    assert found == tmp_path / "made.safetensors"
    assert load_fenet(found).provenance == {"licence": "CC0"}
    assert packaged.packaged({**features.identity, "version": 2}) is None
    assert packaged.packaged({}) is None


def test_without_shipped_files_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(packaged, "WEIGHTS", tmp_path / "none")
    assert packaged.packaged({}) is None
