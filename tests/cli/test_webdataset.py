"""Tar shards on the command line: indexed, and their hits shown, listed, copied and asked with."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from PIL import Image

from felga.engine import Engine
from felga.server.images import ImageFiles
from tests.cli.calls import call
from tests.corpus.test_third_party import png, write_shard
from tests.made import WORDS


@pytest.fixture
def shards(tmp_path, toy, monkeypatch):
    """An index of two shards, built in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "laion").mkdir()
    for shard in (0, 1):
        files = {f"{shard}{at}.png": png(10 * shard + at) for at in range(2)}
        write_shard(tmp_path / "laion" / f"{shard}.tar", {**files, f"{shard}0.txt": b"A boat."})
    return tmp_path


@pytest.fixture
def search(capsys, shards):
    call(capsys, "index", "webdataset:laion", *WORDS)
    return ["search", "boat", "--index", "indexes/webdataset-laion", "--min-confidence", 0]


def test_a_folder_of_shards_is_indexed_once_it_is_named_as_one(capsys, shards):
    _, err = call(capsys, "index", "laion", *WORDS, code=2)
    assert "index them as webdataset:" in err
    _, err = call(capsys, "index", "webdataset:laion/{0..1}.tar", *WORDS, "--out", "out")
    assert "images: 4 added" in err
    assert "texts: 2 added" in err


def test_hits_are_shown_like_files(capsys, shards, search):
    out, err = call(capsys, *search, "--save-viz", "hits.png", "--html", "hits.html", "--format", "json")
    hits = json.loads(out)["hits"]
    assert {hit["image_id"] for hit in hits} == {"0/00", "0/01", "1/10", "1/11"}
    assert hits[0]["path"].endswith(
        f"/laion/{hits[0]['image_id']}.png".replace("/0/", "/0.tar/").replace("/1/", "/1.tar/")
    )
    assert "not found" not in err
    assert not any("missing" in hit for hit in hits)
    html = (shards / "hits.html").read_text()
    assert html.count("data:image/jpeg;base64") == 4
    assert "cannot be read" not in html
    with Image.open("hits.png") as sheet:
        assert len(sheet.convert("RGB").getcolors(2**24)) > 200, "the tiles are the images, and not grey"


def test_hits_become_files_or_say_why_not(capsys, shards, search):
    _, err = call(capsys, *search, "--copy-to", "copies")
    assert "4 images copied" in err
    first, *_ = sorted(os.listdir("copies"))
    member = first.partition("-")[2]
    assert (shards / "copies" / first).read_bytes() == png(int(member[:2]))
    _, err = call(capsys, *search, "--crops-to", "crops")
    assert "4 regions cut out" in err
    _, err = call(capsys, *search, "--link-to", "links")
    assert "0 images linked" in err
    assert "lies inside a shard, where no link can lead: copy it" in err


def test_a_member_can_be_asked_with(capsys, shards, search):
    path = shards / "laion" / "1.tar" / "10.png"
    for name in (path, "1.tar/10.png"):
        out, _ = call(capsys, "search", "--image", name, *search[2:4], "-k", 1, "--format", "json")
        assert json.loads(out)["hits"][0]["image_id"] == "1/10"
    out, _ = call(capsys, "assign", path, *search[2:4], "-k", 1, "--format", "json")
    assert json.loads(out)["hits"][0]["text"] == "A boat."
    call(capsys, "search", "--image", path.parent / "none.png", *search[2:4], code=3)


def test_moved_shards_are_missed_and_found_again_by_their_new_folder(capsys, shards, search):
    shutil.move(shards / "laion", shards / "moved")
    out, err = call(capsys, *search, "--format", "json", "--html", "hits.html")
    assert "4 of 4 images not found" in err
    assert all(hit["missing"] for hit in json.loads(out)["hits"])
    assert (shards / "hits.html").read_text().count("not found") >= 4
    _, err = call(capsys, *search, "--root", "moved", "--html", "hits.html")
    assert "not found" not in err
    assert (shards / "hits.html").read_text().count("data:image/jpeg;base64") == 4


def test_a_server_shows_members(capsys, shards, search):
    with Engine.open("indexes/webdataset-laion") as engine:
        assert ImageFiles(engine).read("1/11").width == 64
