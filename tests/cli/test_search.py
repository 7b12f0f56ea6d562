"""`felga search` and `felga assign` where something is unusual: missing images, encodings, labels, sheets."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal

import numpy as np
import pytest
from PIL import Image

from felga.errors import NotFoundError
from felga.show.sheets import GREY
from tests.cli.calls import call, start

TOY = ["--encoder", "toy", "--keywords", "words", "--regions", "grid", "--no-quality", "--device", "cpu"]


@pytest.fixture
def moved(demo, demo_copy, tmp_path):
    """An index of a corpus that was moved, and where the images are now."""
    now = tmp_path / "now"
    shutil.copytree(demo[1].folder, now)
    manifest = demo_copy / "manifest.json"
    from felga.store.manifest import signed

    content = json.loads(manifest.read_text())
    content["corpus"]["root"] = str(tmp_path / "before")
    manifest.write_text(json.dumps(signed(content)))
    return demo_copy, now


def test_missing_images_are_grey_tiles_and_reported_once(capsys, moved, tmp_path):
    index, now = moved
    sheet = tmp_path / "cats.png"
    out, err = call(capsys, "search", "cat", "--index", index, "-k", 3, "--save-viz", sheet)
    assert out.count("(not found)") == 3
    assert err.count("3 of 3 images not found") == 1
    assert "give their new folder with --root, or run `felga index` again" in err
    assert (np.asarray(Image.open(sheet).convert("RGB")) == GREY).all(-1).sum() > 100_000
    out, _ = call(capsys, "search", "cat", "--index", index, "-k", 3, "--format", "json")
    assert [hit["missing"] for hit in json.loads(out)["hits"]] == [True] * 3
    out, err = call(capsys, "search", "cat", "--index", index, "-k", 3, "--format", "json", "--root", now)
    assert err == ""
    assert all("missing" not in hit for hit in json.loads(out)["hits"])


def test_one_missing_image_leaves_the_others_on_the_sheet(capsys, moved, tmp_path):
    index, now = moved
    words = ["search", "cat", "--index", index, "-k", 3, "--root", now]
    out, _ = call(capsys, *words, "--format", "json")
    os.unlink(json.loads(out)["hits"][1]["path"])
    _, err = call(capsys, *words, "--save-viz", tmp_path / "cats.png")
    assert "1 of 3 images not found" in err
    sheet = np.asarray(Image.open(tmp_path / "cats.png").convert("RGB"))
    grey = [(sheet[:, left : left + 320] == GREY).all(-1).sum() for left in (10, 340, 670)]
    assert grey[1] > 50_000
    assert grey[0] < 1000
    assert grey[2] < 1000


def test_the_target_of_a_sheet_is_checked_before_the_search(capsys, demo, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    for target, reason in (
        ("cats.xyz", "name an image file such as hits.png"),
        ("cats", "name an image file such as hits.png"),
        ("file/cats.png", "is not a writable folder"),
        ("folder.png", "is a folder"),
    ):
        out, err = call(capsys, "search", "cat", "--index", demo[0], "--save-viz", tmp_path / target, code=2)
        assert out == ""
        assert reason in err
        image = demo[1].folder / "scene-04.png"
        out, _ = call(capsys, "assign", image, "--index", demo[0], "--save-viz", tmp_path / target, code=2)
        assert out == ""


def test_assign_takes_an_image_of_the_index_by_its_id(capsys, moved):
    index, now = moved
    _, err = call(capsys, "assign", "scene-04.png", "--index", index, code=3)
    assert "scene-04.png" in err
    out, _ = call(capsys, "assign", "scene-04.png", "--index", index, "--root", now, "--format", "json")
    by_path, _ = call(capsys, "assign", now / "scene-04.png", "--index", index, "--format", "json")
    assert json.loads(out)["hits"] == json.loads(by_path)["hits"]


def test_assign_without_captions_is_one_sentence(capsys, tmp_path, toy):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (50, 50)).save(tmp_path / "in" / "a.png")
    call(capsys, "index", tmp_path / "in", "--out", tmp_path / "out", *TOY)
    out, err = call(capsys, "assign", tmp_path / "in" / "a.png", "--index", tmp_path / "out", code=2)
    assert out == ""
    assert err.count("\n") == 1
    assert "holds no captions: put them in NAME.txt" in err


def test_queries_from_a_file_with_a_byte_order_mark_and_a_line_separator(capsys, demo, tmp_path):
    path = tmp_path / "words.txt"
    path.write_bytes("cat\r\na\u2028dog\n".encode("utf-8-sig"))
    out, _ = call(capsys, "search", "--queries", path, "--index", demo[0], "-k", 1, "--format", "json")
    assert [answer["query"] for answer in json.loads(out)] == ["cat", "a\u2028dog"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"caf\xe9\n", "is not UTF-8"),
        (b"\n \n", "is empty: expected queries"),
        (b"c\x00\xff", "is not UTF-8"),
    ],
)
def test_unusable_files_of_queries(capsys, demo, tmp_path, content, reason):
    (tmp_path / "words.txt").write_bytes(content)
    _, err = call(capsys, "search", "--queries", tmp_path / "words.txt", "--index", demo[0], code=2)
    assert err.count("\n") == 1
    assert reason in err


def test_undecodable_words_exit_with_two(demo):
    done = start("search", b"\xff\xe9", "--index", str(demo[0]))
    out, err = done.communicate()
    assert (done.returncode, out) == (2, b"")
    assert err == b"felga: the query '\\xff\\xe9' is not valid UTF-8: check the terminal\n"


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_a_terminal_without_unicode_gets_escapes(demo, form):
    done = start(
        "search", "猫 é", "--index", str(demo[0]), "-k", "1", "--format", form,
        env={**os.environ, "PYTHONIOENCODING": "ascii:strict"},
    )  # fmt: skip
    out, err = done.communicate()
    assert done.returncode == 0, err
    assert b"\\u732b" in out
    if form == "json":
        assert json.loads(out)["query"] == "猫 é"


def test_a_closed_pipe_ends_the_command_quietly(demo):
    done = start("search", "cat", "--index", str(demo[0]))
    done.stdout.close()  # as `| head` does once it has its lines
    assert done.stderr.read() == b""
    assert done.wait() == 141


def test_labels_and_rounded_scores(capsys, tmp_path, toy, monkeypatch):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (60, 60), "red").save(tmp_path / "in" / "a.png")
    proposals = {"a.png": [{"box": [5, 5, 40, 40], "score": 0.9, "label": "boat"}]}
    (tmp_path / "boxes.json").write_text(json.dumps(proposals))
    options = [*TOY[:4], "--regions", f"boxes:{tmp_path / 'boxes.json'}", "--device", "cpu"]
    call(capsys, "index", tmp_path / "in", "--out", tmp_path / "out", *options)
    words = ["search", "cat", "--index", tmp_path / "out", "--regions", 2]
    out, _ = call(capsys, *words, "--format", "json")
    regions = json.loads(out)["hits"][0]["regions"]
    assert [region.get("label") for region in regions if not region["whole"]] == ["boat"]
    assert all("label" not in region for region in regions if region["whole"])
    out, _ = call(capsys, *words, "--format", "csv")
    assert {row["label"] for row in csv.DictReader(io.StringIO(out))} == {"boat", ""}
    out, _ = call(capsys, *words)
    assert "boat" in out
    score = json.loads(call(capsys, *words, "--format", "json")[0])["hits"][0]["score"]
    assert f" {score:.3f} " in out
    assert f"{score:.4f}" not in out


def test_an_interrupt_exits_with_130(tmp_path):
    os.mkfifo(tmp_path / "queries")
    done = start("search", "--queries", str(tmp_path / "queries"), "--index", "x")
    with open(tmp_path / "queries", "wb"):  # returns once the command reads from it
        done.send_signal(signal.SIGINT)
        out, err = done.communicate()
    assert (done.returncode, out, err) == (130, b"", b"")


def test_the_encoder_may_be_named_and_must_be_that_of_the_index(capsys, demo):
    out, _ = call(
        capsys, "search", "cat", "-k", 1, "--index", demo[0], "--encoder", "conse", "--format", "json"
    )
    assert json.loads(out)["hits"]
    _, err = call(capsys, "search", "cat", "--index", demo[0], "--encoder", "conse:lite1", code=4)
    assert "was built with a different conse" in err


@pytest.mark.parametrize("chosen", [None, "ACTIVE"])
def test_idle_threads_sleep_during_a_query_unless_the_user_decides(tmp_path, monkeypatch, chosen):
    """Spinning threads would cost a search for one word more than the search itself."""
    from felga.cli.search import assign, search

    for command, argument in ((search, ["boat"]), (assign, tmp_path / "boat.jpg")):
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
        if chosen:
            monkeypatch.setenv("OMP_WAIT_POLICY", chosen)
        with pytest.raises(NotFoundError):
            command(argument, index=str(tmp_path / "none"))
        assert os.environ["OMP_WAIT_POLICY"] == (chosen or "PASSIVE")
