"""A third-party corpus on the command line, installed as pip would."""

from __future__ import annotations

import sys

import pytest
from PIL import Image

from tests.cli.calls import call

CODE = """
from felga.corpus.folder import FolderCorpus

def shelf(argument, *, texts):
    return FolderCorpus("shelves/" + argument, texts=texts)
"""
TOY = ["--encoder", "toy", "--keywords", "words", "--regions", "grid", "--no-quality", "--device", "cpu"]


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A plug-in that reads below shelves/, which holds one shelf."""
    info = tmp_path / "site" / "felga_shelf-0.1.dist-info"
    info.mkdir(parents=True)
    (tmp_path / "site" / "felga_shelf.py").write_text(CODE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: felga-shelf\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[felga.corpora]\nshelf = felga_shelf:shelf\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shelves" / "top").mkdir(parents=True)
    Image.new("RGB", (50, 50)).save(tmp_path / "shelves" / "top" / "a.png")
    (tmp_path / "shelves" / "top" / "a.txt").write_text("one\ntwo\n")
    yield
    sys.modules.pop("felga_shelf", None)


def test_a_registered_corpus_is_named_with_its_argument(capsys, shelf, toy, tmp_path):
    _, err = call(capsys, "index", "shelf:top", *TOY, "--texts", "each")
    assert "images: 1 added" in err
    assert "texts: 2 added" in err
    assert (tmp_path / "indexes" / "shelf-top" / "manifest.json").exists()


def test_an_existing_folder_of_that_name_wins(capsys, shelf, toy, tmp_path):
    (tmp_path / "shelf:top").mkdir()
    for name in ("x", "y"):
        Image.new("RGB", (50, 50)).save(tmp_path / "shelf:top" / f"{name}.png")
    _, err = call(capsys, "index", "shelf:top", *TOY, "--out", "out")
    assert "images: 2 added" in err
