from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace

import pytest

from felga.corpus.decode import UnreadableImage
from felga.corpus.folder import FolderCorpus
from felga.errors import BadInputError, NotFoundError
from felga.registry import make_corpus
from felga.testing.corpus import CorpusContract

from .badpack import corners, write_bad_pack


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jpg", "b.JPG", "deep/er/c.png", ".hidden.jpg", ".git/d.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def texts(listing):
    return {text.text_id: (text.image_id, text.text) for text in listing.texts}


def test_images_are_listed_in_order_without_hidden_ones(folder):
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


def test_metadata_of_an_imagefolder(folder):
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


def test_metadata_csv_of_an_imagefolder(folder):
    (folder / "deep/er/metadata.csv").write_text(
        "\ufefffile_name,label,text\r\n"
        'c.png,3,"One, with ""quotes""\nand a second line."\r\n'
        "../../a.jpg,1,A boat.\r\n"
        "\r\n"
        ",2,Alone.\r\n"
        "c.png,2,\r\n"
        ",2,\r\n"
        "gone.png,2,Lost.\r\n"
        "c.png\r\n"
        "c.png,3,Two.,more\r\n",
        "utf-8",
    )
    listing = FolderCorpus(folder).scan()
    assert texts(listing) == {
        "deep/er/c.png": ("deep/er/c.png", 'One, with "quotes" and a second line. Two.'),
        "a.jpg": ("a.jpg", "A boat."),
        "deep/er/metadata.csv:6": (None, "Alone."),
    }
    assert {item.item_id: item.reason for item in listing.bad} == {
        "deep/er/metadata.csv:8": "neither file_name nor text",
        "deep/er/metadata.csv:9": "file_name 'gone.png' is not an image of this corpus",
    }


def test_a_hostile_metadata_csv_costs_its_rows(folder):
    rows = [b"file_name,caption", b"a.jpg,caf\xe9", b"b.JPG\0,x", b"b.JPG,Fine.", b'a.jpg,"' + b"x" * 200_000]
    (folder / "metadata.csv").write_bytes(b"\n".join(rows))
    listing = FolderCorpus(folder).scan()
    assert texts(listing) == {"b.JPG": ("b.JPG", "Fine.")}
    assert {item.item_id: item.reason for item in listing.bad} == {
        "metadata.csv:2": r"caption is not valid Unicode: \udce9 at character 4 stands alone",
        "metadata.csv:3": "file_name contains a NUL character",
        "metadata.csv:5": "not csv: field larger than field limit (131072)",
    }
    (folder / "metadata.csv").write_text("name,size\na,1\n")
    (bad,) = FolderCorpus(folder).scan().bad
    assert bad.reason == "its columns are 'name, size', expected file_name and text"
    (folder / "metadata.jsonl").write_text('{"file_name": "a.jpg", "text": "A boat."}')
    listing = FolderCorpus(folder).scan()
    assert texts(listing) == {"a.jpg": ("a.jpg", "A boat.")}, "where both are, the jsonl counts"
    assert not listing.bad


def test_captions_in_json_beside_an_image_that_has_no_others(folder):
    (folder / "a.caption").write_text("From caption.")
    (folder / "a.json").write_text('{"caption": "no"}')
    (folder / "b.json").write_text('{"caption": "From json.", "width": 3}')
    (folder / "other.json").write_text("nonsense beside no image")
    (folder / "deep/er/c.json").write_text('{"width": 3}')
    listing = FolderCorpus(folder).scan()
    assert texts(listing) == {"a.jpg": ("a.jpg", "From caption."), "b.JPG": ("b.JPG", "From json.")}
    assert not listing.bad
    for content, reason in (
        ("nonsense", "not json"),
        ('{"caption": 7}', "caption is a number"),
        ("[" * 100_000, "nested too deeply"),
        (" " * (2**24 + 1), "exceed the limit"),
    ):
        (folder / "deep/er/c.json").write_text(content)
        (bad,) = FolderCorpus(folder).scan().bad
        assert (bad.kind, bad.item_id) == ("text", "deep/er/c.json")
        assert reason in bad.reason
    (folder / "deep/er/c.json").write_text("[1]")
    assert not FolderCorpus(folder).scan().bad


def test_a_caption_that_is_not_utf8_costs_that_text_alone(folder):
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


def test_links_to_files_are_followed_and_links_to_folders_are_not(tmp_path):
    corners().save(tmp_path / "a.png")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "loop.png").symlink_to(tmp_path)
    (tmp_path / "chosen").mkdir()
    (tmp_path / "chosen" / "b.png").symlink_to(tmp_path / "a.png")
    listing = FolderCorpus(tmp_path).scan()
    assert [item.image_id for item in listing.images] == ["a.png", "chosen/b.png"]
    assert not listing.bad


def test_a_missing_folder_or_a_file(tmp_path):
    with pytest.raises(NotFoundError, match="does not exist"):
        FolderCorpus(tmp_path / "gone")
    (tmp_path / "file").touch()
    with pytest.raises(BadInputError, match="expected a folder"):
        FolderCorpus(tmp_path / "file")


class TestContract(CorpusContract):
    @pytest.fixture
    def corpus(self, tmp_path):
        write_bad_pack(tmp_path)
        (tmp_path / "good.txt").write_text("A flag.")
        return make_corpus(f"folder:{tmp_path}")


def test_names_that_read_alike_have_one_owner_in_every_scan(tmp_path):
    """A byte that is not UTF-8, and a name that spells its escape."""
    odd = os.fsdecode(b"latin-\xe9")
    for name in (odd, r"latin-\xe9"):
        (tmp_path / f"{name}.jpg").write_bytes(name.encode("utf-8", "surrogateescape"))
        (tmp_path / f"{name}.txt").write_text(f"Caption of {len(name)} characters.")
        (tmp_path / f"alone-{name}.txt").write_text(f"Alone, {len(name)}.")
    listing = FolderCorpus(tmp_path).scan()
    assert [image.path for image in listing.images] == [r"latin-\xe9.jpg"]
    assert texts(listing)[r"latin-\xe9.jpg"] == (r"latin-\xe9.jpg", "Caption of 10 characters.")
    assert len({text.text_id for text in listing.texts}) == len(listing.texts)
    assert {(item.kind, item.item_id, item.reason) for item in listing.bad} == {
        ("image", r"latin-\xe9.jpg", "another image has the same id"),
        ("text", r"alone-latin-\xe9.txt", "another text has the same id"),
    }
    for _ in range(3):
        assert FolderCorpus(tmp_path).scan() == listing


def test_half_a_surrogate_pair_costs_that_caption(folder):
    rows = [
        '{"file_name": "a.jpg", "text": "bad \\ud800"}',
        '{"file_name": "b.JPG", "text": "A boat."}',
        '{"file_name": "\\ud800.jpg", "text": "x"}',
        '{"file_name": "a.jpg\\u0000", "text": "x"}',
        '{"text": ["fine", "\\udfff"]}',
    ]
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    listing = FolderCorpus(folder).scan()
    assert texts(listing) == {"b.JPG": ("b.JPG", "A boat.")}
    assert {item.item_id: item.reason for item in listing.bad} == {
        "metadata.jsonl:1": r"text is not valid Unicode: \ud800 at character 5 stands alone",
        "metadata.jsonl:3": r"file_name is not valid Unicode: \ud800 stands alone",
        "metadata.jsonl:4": "file_name contains a NUL character",
        "metadata.jsonl:5": r"text is not valid Unicode: \udfff at character 1 stands alone",
    }


def test_line_separators_inside_a_caption_do_not_cut_it(folder):
    row = json.dumps({"file_name": "a.jpg", "text": "one\u2028two\u0085three"}, ensure_ascii=False)
    (folder / "metadata.jsonl").write_text(f"\ufeff{row}\r\n", "utf-8")
    (folder / "b.txt").write_text("four\u2028five\rsix", "utf-8")
    listing = FolderCorpus(folder, "each").scan()
    assert texts(listing) == {
        "a.jpg#0": ("a.jpg", "one two three"),
        "b.JPG#0": ("b.JPG", "four five"),
        "b.JPG#1": ("b.JPG", "six"),
    }
    assert not listing.bad


def test_a_line_that_is_not_utf8_costs_that_line(folder):
    (folder / "metadata.jsonl").write_bytes(b'{"text": "caf\xe9"}\n{"text": "tea"}\n')
    listing = FolderCorpus(folder).scan()
    assert texts(listing) == {"metadata.jsonl:2": (None, "tea")}
    assert [(item.item_id, item.reason) for item in listing.bad] == [
        ("metadata.jsonl:1", "not UTF-8: byte 13 is 0xe9")
    ]


def test_an_image_dated_beyond_int64_is_listed(folder):
    os.utime(folder / "a.jpg", (430 * 31_556_952,) * 2)  # the year 2400
    (first, *_) = FolderCorpus(folder).scan().images
    assert first.mtime_ns == min(os.stat(folder / "a.jpg").st_mtime_ns, 2**63 - 1)


def test_folders_deeper_than_the_recursion_limit(tmp_path):
    handle = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=handle)
        deeper = os.open("d", os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = deeper
    os.close(os.open("a.png", os.O_CREAT | os.O_WRONLY, dir_fd=handle))
    os.close(handle)
    listing = FolderCorpus(tmp_path).scan()
    subprocess.run(["rm", "-r", str(tmp_path / "d")], check=True)  # shutil.rmtree recurses
    assert [item.image_id for item in listing.images] == ["d/" * 1500 + "a.png"]


def test_an_image_that_vanished_after_the_scan_is_unreadable(folder):
    corpus = FolderCorpus(folder)
    (first, *_) = corpus.scan().images
    assert corpus.read(first) == b"a.jpg"
    (folder / "a.jpg").unlink()
    with pytest.raises(UnreadableImage, match="a.jpg cannot be read: No such file"):
        corpus.read(first)
    os.mkfifo(folder / "a.jpg")
    with pytest.raises(UnreadableImage, match="not a regular file"):
        corpus.read(first)
    with pytest.raises(UnreadableImage, match="embedded null"):
        corpus.read(replace(first, path="a\0.jpg"))
