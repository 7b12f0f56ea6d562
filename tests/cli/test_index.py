"""`felga index`, and which index the other commands read."""

from __future__ import annotations

import json
import os
import shutil
import sys

import pytest
from PIL import Image

from tests.cli.calls import call

TOY = ["--encoder", "toy", "--keywords", "words", "--regions", "grid", "--no-quality", "--device", "cpu"]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty working folder, a state folder of its own and no $FELGA_INDEX."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("FELGA_INDEX", raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def photos(tmp_path):
    """Thirty images of different colours, with a caption each."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(30):
        Image.new("RGB", (40, 40), (8 * i, 100, 50)).save(folder / f"{i:02d}.png")
        (folder / f"{i:02d}.txt").write_text(f"number {i}\n")
    return folder


def answered_by(capsys, *words):
    """The index that a search without --index used, and what was said of it."""
    out, err = call(capsys, "search", "cat", "-k", 1, "--format", "json", *words)
    return json.loads(out)["index"], err


def test_index_then_search_the_last_one_built(capsys, demo, tmp_path, toy, elsewhere):
    _, err = call(capsys, "search", "cat", code=3)
    assert err == "felga: no index here: run `felga index CORPUS`, or name one with --index or $FELGA_INDEX\n"
    _, err = call(capsys, "index", demo[1].folder, "--out", tmp_path / "out", *TOY)
    assert "images: 16 added, 0 changed, 0 renamed, 0 removed, 0 unchanged, 0 quarantined" in err
    index, err = answered_by(capsys)
    assert index == str(tmp_path / "out")
    assert err == f"using {tmp_path / 'out'}, the last index built; --index picks another\n"
    _, err = call(capsys, "index", demo[1].folder, "--out", tmp_path / "out", *TOY)
    assert "0 added, 0 changed, 0 renamed, 0 removed, 16 unchanged" in err
    _, err = call(capsys, "index", demo[1].folder, "--out", tmp_path / "out", code=4)
    assert "was built with other options" in err
    shutil.rmtree(tmp_path / "out")
    _, err = call(capsys, "search", "cat", code=3)
    assert "the last one built" in err
    assert "is gone: run `felga index CORPUS`" in err


def test_an_index_of_this_folder_comes_before_the_last_one_built(
    capsys, photos, demo, tmp_path, toy, elsewhere
):
    call(capsys, "index", photos, *TOY)  # into ./indexes/photos
    call(capsys, "index", photos, "--out", tmp_path / "other-project", *TOY)
    assert answered_by(capsys) == ("indexes/photos", "")
    call(capsys, "index", photos, "--out", "indexes/later", *TOY)
    os.utime("indexes/photos/manifest.json", (1, 1))
    index, err = answered_by(capsys)
    assert index == "indexes/later"
    assert err == "using indexes/later, the newest of 2 indexes here; --index picks another\n"
    assert answered_by(capsys, "--index", "indexes/photos") == ("indexes/photos", "")


def test_the_environment_names_the_index(capsys, demo_copy, photos, toy, elsewhere, monkeypatch):
    call(capsys, "index", photos, *TOY)
    monkeypatch.setenv("FELGA_INDEX", str(demo_copy))
    assert answered_by(capsys) == (str(demo_copy), "")
    assert answered_by(capsys, "--index", "indexes/photos")[0] == "indexes/photos"


def test_most_of_an_index_is_removed_only_on_request(capsys, photos, tmp_path, toy, elsewhere):
    call(capsys, "index", photos, "--out", "out", *TOY)
    few = tmp_path / "few"
    few.mkdir()
    for name in ("00.png", "00.txt"):
        shutil.copy2(photos / name, few)
    _, err = call(capsys, "index", few, "--out", "out", *TOY, code=2)
    assert "would remove 29 of the 30 images" in err
    assert "--prune goes ahead" in err
    out, _ = call(capsys, "info", "--index", "out")
    assert "30, " in out
    _, err = call(capsys, "index", few, "--out", "out", *TOY, "--prune")
    assert "29 removed, 1 unchanged" in err


def test_a_dry_run_prints_the_plan_and_changes_nothing(capsys, photos, toy, elsewhere):
    out, _ = call(capsys, "index", photos, "--out", "out", *TOY, "--dry-run")
    assert "images: 30 added" in out
    assert "nothing was written to out" in out
    assert not (elsewhere / "out").exists()
    call(capsys, "search", "cat", code=3)  # nor is it noted as built
    call(capsys, "index", photos, "--out", "out", *TOY)
    before = (elsewhere / "out" / "manifest.json").read_bytes()
    (photos / "00.png").unlink()
    (photos / "01.png").rename(photos / "moved.png")
    Image.new("RGB", (50, 50)).save(photos / "new.png")
    out, _ = call(capsys, "index", photos, "--out", "out", *TOY, "--dry-run")
    assert "images: 1 added, 0 changed, 1 renamed, 1 removed, 28 unchanged, 0 quarantined" in out
    assert "  added: new.png\n" in out
    assert "  renamed: moved.png\n" in out
    assert "  removed: 00.png\n" in out
    assert (elsewhere / "out" / "manifest.json").read_bytes() == before


def test_a_folder_named_like_a_plugin_is_a_folder(capsys, photos, toy, elsewhere):
    photos.rename(elsewhere / "folder:b")
    _, err = call(capsys, "index", "folder:b", "--out", "out", *TOY)
    assert "images: 30 added" in err


def test_a_corpus_that_is_neither_folder_nor_plugin(capsys, elsewhere):
    _, err = call(capsys, "index", "nowhere:b", code=3)
    assert "nowhere:b" in err


def test_defaults_are_those_of_options(capsys):
    from felga.indexing.options import Options

    out = " ".join(call(capsys, "index", "--help")[0].split())
    for name in ("encoder", "regions", "keywords", "top_regions", "batch_size", "max_megapixels"):
        assert f"[default: {getattr(Options(), name)}]" in out


def test_two_hundred_captions_are_worth_a_fenet_and_fewer_are_not(toy, elsewhere, photos, capsys):
    line = "`felga train indexes/photos` and `felga fenet apply` adapt the search to these captions"
    assert line not in call(capsys, "index", photos, *TOY)[1]
    for i in range(30, 200):
        Image.new("RGB", (10, 10), (i, 200 - i, 50)).save(photos / f"{i:03d}.png")
        (photos / f"{i:03d}.txt").write_text(f"number {i}\n")
    assert line in call(capsys, "index", photos, *TOY)[1]
    assert line not in call(capsys, "index", photos, *TOY)[1], "nothing new: nothing to say"


def test_ray_that_is_not_installed_is_said(capsys, photos, elsewhere, toy, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not
    _, err = call(capsys, "index", photos, *TOY, "--engine", "ray", code=5)
    assert err.count("\n") == 1
    assert "'ray', which is not installed: pip install 'felga[ray]'" in err
    assert list(elsewhere.iterdir()) == []


def test_an_address_without_ray_is_refused(capsys, photos, toy):
    _, err = call(capsys, "index", photos, *TOY, "--address", "auto", code=2)
    assert "--address needs --engine ray" in err


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:9", "127.0.0.1:99999", "127.0.0.1:", "http://a:1"])
def test_a_cluster_that_does_not_answer_is_said(capsys, photos, elsewhere, toy, address):
    pytest.importorskip("ray", reason="needs Ray: pip install 'felga[ray]'")
    _, err = call(capsys, "index", photos, *TOY, "--engine", "ray", "--address", address, code=5)
    assert f"Ray cannot be reached at {address}: " in err
    assert list(elsewhere.iterdir()) == []
