"""Copies, links and regions in a folder."""

from __future__ import annotations

import json
import os
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from felga.errors import BadInputError, StorageError
from felga.show.hit_files import put_hits
from felga.show.targets import check_file, check_folder
from felga.show.text import Answer
from felga.types import ImageHit, RegionHit


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[10:20, 5:25] = (255, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "photos" / "a.png")
    Image.fromarray(255 - pixels).save(tmp_path / "photos" / os.fsdecode(b"b\xe9\n.png"))
    return tmp_path / "photos"


def answer(folder, *names, query="boat", boxes=((5, 10, 25, 20),)):
    hits = [
        ImageHit(rank, name, os.path.join(folder, name), 0.5, tuple(RegionHit(box, 0.5) for box in boxes))
        for rank, name in enumerate(names, 1)
    ]
    return Answer(query, "index", hits, "images")


def listed(folder):
    return sorted(name for name in os.listdir(os.fsencode(folder)) if name != b"metadata.jsonl")


def described(folder):
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def test_copies_are_described_for_imagefolder_and_rows_are_added_to_those_that_are_there(photos, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "metadata.jsonl").write_text('{"file_name": "mine.png"}')
    odd = os.fsdecode(b"b\xe9\n.png")
    for _ in range(2):
        put_hits([answer(photos, "a.png", odd, boxes=((5, 10, 25, 20), (0, 0, 60, 40)))], out, "copied")
    mine, first, second = described(out)
    assert mine == {"file_name": "mine.png"}
    assert first == {
        "file_name": "01-a.png", "query": "boat", "rank": 1, "image_id": "a.png", "score": 0.5,
        "confidence": None,
        "objects": {
            "bbox": [[5, 10, 20, 10], [0, 0, 60, 40]], "category": ["boat", "boat"], "score": [0.5, 0.5],
            "similarity": [None, None], "quality": [None, None],
        },
    }  # fmt: skip
    assert second == {**first, "file_name": "01-a-2.png"}
    put_hits([answer(photos, "a.png")], tmp_path / "cut", "cut out")
    assert os.listdir(tmp_path / "cut") == ["01-a.png"]
    (tmp_path / "taken" / "metadata.jsonl").mkdir(parents=True)
    with pytest.raises(StorageError, match="metadata.jsonl is no file"):
        put_hits([answer(photos, "a.png")], tmp_path / "taken", "copied")


def test_copies_have_the_bytes_and_the_odd_name_behind_the_rank(photos, tmp_path):
    odd = os.fsdecode(b"b\xe9\n.png")
    said = put_hits([answer(photos, odd, "a.png")], tmp_path / "new" / "out", "copied")
    assert said == f"2 images copied into {tmp_path / 'new' / 'out'}"
    assert listed(tmp_path / "new" / "out") == [b"01-b\xe9\n.png", b"02-a.png"]
    assert (tmp_path / "new" / "out" / "02-a.png").read_bytes() == (photos / "a.png").read_bytes()


@pytest.mark.parametrize("way", ["copied", "linked", "cut out"])
def test_nothing_is_overwritten(photos, tmp_path, way):
    out = tmp_path / "out"
    out.mkdir()
    (out / "01-a.png").write_text("mine")
    os.symlink(tmp_path / "nowhere", out / "01-a-2.png")
    for _ in range(2):
        put_hits([answer(photos, "a.png")], out, way)
    assert (out / "01-a.png").read_text() == "mine"
    assert not (tmp_path / "nowhere").exists(), "a dangling link was followed"
    assert listed(out) == [b"01-a-2.png", b"01-a-3.png", b"01-a-4.png", b"01-a.png"]


def test_links_are_absolute_whatever_the_working_folder(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put_hits([answer("photos", "a.png")], tmp_path / "out", "linked")
    assert os.readlink(tmp_path / "out" / "01-a.png") == str(photos / "a.png")


def test_regions_are_cut_out_with_every_pixel_that_they_touch(photos, tmp_path):
    boxes = ((5, 10, 25, 20), (4.5, 9.5, 25.5, 20.5), (59.9, 39.9, 200, 200), (-5, -5, 0.2, 0.2))
    said = put_hits([answer(photos, "a.png", boxes=boxes)], tmp_path / "out", "cut out")
    assert said.startswith("4 regions cut out into")
    parts = [Image.open(tmp_path / "out" / f"01-{n}-a.png") for n in range(1, 5)]
    assert [part.size for part in parts] == [(20, 10), (22, 12), (1, 1), (1, 1)]
    assert (np.asarray(parts[0]) == (255, 0, 0)).all()


def test_several_queries_stand_before_the_rank_and_cannot_lead_out_of_the_folder(photos, tmp_path):
    queries = ("../../evil", "big boat", "🚀", "x" * 400)
    put_hits([answer(photos, "a.png", query=query) for query in queries], tmp_path / "out", "copied")
    names = [os.fsdecode(name) for name in listed(tmp_path / "out")]
    assert len(names) == 4
    assert {"evil-01-a.png", "big-boat-01-a.png", "query-01-a.png"} < set(names)
    assert sorted(os.listdir(tmp_path)) == ["out", "photos"]


def test_long_names_are_cut_and_stay_distinct(photos, tmp_path):
    long = "ü" * 120 + ".png"
    (photos / "a.png").rename(photos / long)
    for way in ("copied", "cut out"):
        put_hits([answer(photos, long, query="猫" * 90)] * 2, tmp_path / "out", way)
    assert len(listed(tmp_path / "out")) == 4
    assert all(name.endswith(b".png") for name in listed(tmp_path / "out"))


@pytest.mark.parametrize("way", ["copied", "linked", "cut out"])
def test_images_that_are_gone_are_left_out_and_said(photos, tmp_path, way):
    said = put_hits([answer(photos, "gone.png", "a.png")], tmp_path / "out", way)
    assert said.startswith("1 region cut" if way == "cut out" else f"1 image {way}")
    assert "; 1 left out: gone.png cannot be read: No such file or directory" in said
    assert listed(tmp_path / "out") == [b"02-a.png"]


def test_pipes_and_bombs_are_not_read(photos, tmp_path):
    os.mkfifo(photos / "pipe.png")
    said = put_hits([answer(photos, "pipe.png")], tmp_path / "out", "copied")
    assert "0 images copied" in said
    (photos / "text.png").write_text("no image")
    assert "1 left out: text.png is not an image" in put_hits(
        [answer(photos, "text.png")], tmp_path / "out", "cut out"
    )


def test_a_folder_that_cannot_be_written_is_one_sentence(photos, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInputError, match="is a file: name a folder"):
        check_folder(tmp_path / "file")
    with pytest.raises(BadInputError, match="is not a writable folder"):
        check_folder(tmp_path / "file" / "below")
    with pytest.raises(BadInputError, match="is a folder: name a file such as hits.html"):
        check_file(tmp_path, "hits.html")
    check_folder(tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("way", ["copied", "cut out"])
def test_a_full_disk_is_one_sentence_and_leaves_no_half_file(photos, tmp_path, way):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50, before[1]))
        with pytest.raises(StorageError, match="cannot be written: a file would exceed the size limit"):
            put_hits([answer(photos, "a.png")], tmp_path / "out", way)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert listed(tmp_path / "out") == []


def test_a_folder_that_cannot_be_made_is_one_sentence(photos):
    with pytest.raises(StorageError, match="/proc/nothing/here cannot be created"):
        put_hits([answer(photos, "a.png")], Path("/proc/nothing/here"), "copied")
