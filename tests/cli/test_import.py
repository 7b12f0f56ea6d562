"""``felga import`` as a person meets it."""

from __future__ import annotations

import json
import os

import pytest

from tests.cli.calls import call
from tests.made import CHEAP, run, write

FROM = ["--from", "clip-retrieval", "--encoder", "toy", "--device", "cpu"]


@pytest.fixture
def vectors(capsys, tmp_path, toy, monkeypatch):
    """An export of felga, of images in the folder photos."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "photos", ["a", "b", "c"])
    run(tmp_path / "photos", tmp_path / "index", CHEAP)
    call(capsys, "export", "index", "--to", "clip-retrieval", "vectors")
    return tmp_path / "vectors"


def test_an_export_is_imported_searched_shown_and_exported_again(capsys, vectors):
    _, err = call(capsys, "import", vectors, *FROM)
    assert "3 images, 3 texts in indexes/vectors" in err
    assert "taken to be of toy: 6 of them encoded here agree" in err
    assert "rows of parts of images left out" in err
    words = ["search", "boat", "--index", "indexes/vectors", "--html", "hits.html", "--format", "json"]
    out, err = call(capsys, *words, "--copy-to", "copies")
    assert "not found" not in err
    hits = json.loads(out)["hits"]
    assert {hit["image_id"] for hit in hits} == {"a.png", "b.png", "c.png"}
    assert all(hit["regions"][0]["box"] == [0, 0, 64, 48] for hit in hits)
    assert len(os.listdir("copies")) == 4
    with open("hits.html", encoding="utf-8") as page:
        assert page.read().count("data:image/jpeg;base64") == 3
    for command in (["info"], ["verify"], ["dups"], ["concepts"], ["audit"]):
        call(capsys, *command, "--index", "indexes/vectors")
    call(capsys, "export", "indexes/vectors", "--to", "clip-retrieval", "again")
    _, err = call(capsys, "import", "again", *FROM)
    assert "3 images, 3 texts" in err
    assert "left out" not in err


def test_images_that_are_gone_are_listed_and_said(capsys, vectors):
    for path in vectors.parent.glob("photos/*.png"):
        path.unlink()
    _, err = call(capsys, "import", vectors, *FROM, "--out", "out")
    assert "3 images not here: paths or URLs alone are known of them" in err
    out, err = call(capsys, "search", "boat", "--index", "out", "--format", "jsonl", "--save-viz", "hits.png")
    assert "3 of 3 images not found" in err
    assert len(json.loads(out)["hits"]) == 3
    out, _ = call(capsys, "dups", "--index", "out")
    assert "no copies" in out, "files that nobody has read are not equal"
    call(capsys, "search", "boat", "--index", "out", "--dedupe", "--html", "hits.html", "--copy-to", "copies")


def test_mistakes_are_sentences(capsys, vectors):
    _, err = call(capsys, "import", "nowhere", *FROM, code=3)
    assert "nowhere does not exist: name a folder with img_emb/ and metadata/" in err
    _, err = call(capsys, "import", "photos", *FROM, code=2)
    assert "photos holds no img_emb/img_emb_0.npy" in err
    _, err = call(capsys, "import", vectors, *FROM, "--out", "photos", code=2)
    assert "is not an index" in err
    _, err = call(capsys, "import", vectors, "--from", "clip-retrieval", code=2)
    assert "--encoder" in err
