"""Parquet shards on the command line: indexed, and their hits listed, shown, copied and served."""

from __future__ import annotations

import json
import os

import pytest
from PIL import Image

from felga.engine import Engine
from felga.server.images import ImageFiles
from tests.cli.calls import call
from tests.corpus.test_parquet import shards
from tests.made import WORDS


@pytest.fixture
def search(capsys, tmp_path, toy, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shards(tmp_path / "laion")
    _, err = call(capsys, "index", "parquet:laion", *WORDS)
    assert "images: 6 added" in err
    assert "2 quarantined" in err
    return ["search", "boat", "--index", "indexes/parquet-laion", "--min-confidence", 0]


def test_hits_are_shown_listed_and_copied_like_files(capsys, search):
    out, err = call(capsys, *search, "--html", "hits.html", "--format", "json", "--copy-to", "copies")
    hits = json.loads(out)["hits"]
    assert len(hits) == 6
    assert hits[0]["path"].endswith(f"{hits[0]['image_id'].replace('/', '.parquet/')}.jpg")
    assert "not found" not in err
    with open("hits.html", encoding="utf-8") as page:
        assert page.read().count("data:image/jpeg;base64") == 6
    for name in os.listdir("copies"):
        if name.endswith(".jpg"):
            with Image.open(f"copies/{name}") as image:
                assert image.size == (64, 48)
    out, _ = call(capsys, *search, "-l")
    assert out.splitlines() == [hit["path"] for hit in hits]


def test_an_image_of_a_shard_can_be_asked_with_and_is_served(capsys, search):
    out, _ = call(
        capsys, "search", "--image", "laion/00001.parquet/000010003.jpg", *search[2:4], "--format", "json"
    )
    assert json.loads(out)["hits"][0]["image_id"] == "00001/000010003"
    with Engine.open("indexes/parquet-laion", device="cpu") as engine:
        assert ImageFiles(engine).read("00000/000000001").width == 64
