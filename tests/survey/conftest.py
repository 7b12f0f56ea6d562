"""A real small index: the demo with the packaged FENet, the captions of two scenes exchanged."""

from __future__ import annotations

import shutil

import pytest

from felga.corpus.folder import FolderCorpus
from felga.engine import Engine
from felga.fenet.packaged import packaged
from felga.indexing import Options, index
from felga.store.manifest import read_manifest

SWAPPED = ("scene-02", "scene-08")  # a cup and an astronaut; a cat and a motorcycle


@pytest.fixture(scope="session")
def exchanged(demo, tmp_path_factory):
    """(index folder, folder of images)."""
    base = tmp_path_factory.mktemp("exchanged")
    folder, out = base / "photos", base / "index"
    shutil.copytree(demo[1].folder, folder)
    shutil.copytree(demo[0], out)
    one, other = (folder / f"{name}.txt" for name in SWAPPED)
    texts = one.read_text(), other.read_text()
    one.write_text(texts[1])
    other.write_text(texts[0])
    fenet = packaged(read_manifest(out).contract.encoder)
    report = index(FolderCorpus(folder), out, Options(device="cpu"), fenet=fenet)
    assert not report.images.added
    return out, folder


@pytest.fixture(scope="session")
def engine(exchanged):
    with Engine.open(exchanged[0], device="cpu") as opened:
        yield opened
