from __future__ import annotations

import json
import os

import pytest

from felga.corpus.folder import FolderCorpus
from felga.errors import BadInputError, NotFoundError

from .badpack import corners, write_bad_pack


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jpg", "b.JPG", "deep/er/c.png", ".hidden.jpg", ".git/d.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def texts(listing):
    return {text.text_id: (text.image_id, text.text) for text in listing.texts}


def test_images_are_found_in_order_hidden_ones_passed_over(folder):
    listing = FolderCorpus(folder).scan()
    assert [item.image_id for item in listing.images] == ["a.jpg", "b.JPG", "deep/er/c.png"]
    assert listing.images[2].size == len("deep/er/c.png")
    assert listing.images[0].mtime_ns == (folder / "a.jpg").stat().st_mtime_ns
    assert not listing.texts
    assert not listing.bad


def test_sidecars(folder):
    (folder / "a.txt").write_text("\ufeffA boat.\n\n  Two   men. \n", "utf-8")
    (folder / "notes.txt").write_text("No image here.\n")
    assert texts(FolderCorpus(folder).scan()) == {
        "a.jpg": ("a.jpg", "A boat. Two men."),
        "notes.txt": (None, "No image here."),
    }
    assert texts(FolderCorpus(folder, "each").scan()) == {
        "a.jpg#0": ("a.jpg", "A boat."),
        "a.jpg#1": ("a.jpg", "Two men."),
        "notes.txt#0": (None, "No image here."),
    }


def test_metadata_as_imagefolder_has_it(folder):
    rows = [
        {"file_name": "c.png", "text": ["One.", "Two."]},
        {"file_name": "../../a.jpg", "caption": "A boat."},
        {"text": "Alone."},
        {"file_name": "c.png"},
        {"file_name": "gone.png", "text": "Lost."},
        {"file_name": "c.png", "text": 7},
    ]
    lines = [json.dumps(row) for row in rows] + ["{nonsense", "[]", "{}"]
    (folder / "deep/er/metadata.jsonl").write_text("\n".join(lines))
    listing = FolderCorpus(folder).scan()
    found = texts(listing)
    assert found["deep/er/c.png"] == ("deep/er/c.png", "One. Two.")
    assert found["a.jpg"] == ("a.jpg", "A boat.")
    assert sorted(value for value in found.values() if value[0] is None) == [(None, "Alone.")]
    reasons = {item.item_id.rpartition(":")[2]: item.reason for item in listing.bad}
    assert set(reasons) == {"5", "6", "7", "8", "9"}
    assert "'gone.png' is not an image" in reasons["5"]
    assert "expected a string" in reasons["6"]
    assert "not json" in reasons["7"]


def test_a_caption_that_is_no_utf8_costs_the_text_alone(folder):
    (folder / "a.txt").write_bytes(b"caf\xe9")
    listing = FolderCorpus(folder).scan()
    assert len(listing.images) == 3
    assert [(item.kind, item.reason) for item in listing.bad] == [("text", "not UTF-8: byte 3 is 0xe9")]


def test_the_pack_is_listed_and_never_opened(tmp_path):
    expected = write_bad_pack(tmp_path)
    listing = FolderCorpus(tmp_path).scan()
    bad = {item.item_id for item in listing.bad}
    assert bad == {"pipe.jpg", "dangling.jpg"}
    assert {item.image_id for item in listing.images} | bad == set(expected)
    for item in listing.images:
        item.image_id.encode()  # valid UTF-8, whatever the file's name is
        assert os.path.getsize(tmp_path / item.path) == item.size


def test_links_to_folders_are_not_followed(tmp_path):
    corners().save(tmp_path / "a.png")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert [item.image_id for item in FolderCorpus(tmp_path).scan().images] == ["a.png"]


def test_no_folder(tmp_path):
    with pytest.raises(NotFoundError, match="does not exist"):
        FolderCorpus(tmp_path / "gone")
    (tmp_path / "file").touch()
    with pytest.raises(BadInputError, match="expected a folder"):
        FolderCorpus(tmp_path / "file")
