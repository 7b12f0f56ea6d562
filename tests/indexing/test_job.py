from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from felga.corpus.folder import FolderCorpus
from felga.engine import Engine
from felga.errors import BadIndexError, BadInputError, BusyError
from felga.indexing import Options
from felga.store.manifest import Errors, read_manifest
from felga.store.verify import verify
from tests.corpus.badpack import write_bad_pack
from tests.made import CHEAP, counts, nothing_may_be_encoded, rows, run, state, toy_module, write


@pytest.fixture
def made(tmp_path, toy):
    """A corpus of ten images and its index."""
    folder, out = tmp_path / "corpus", tmp_path / "index"
    write(folder, [f"p{i}" for i in range(10)])
    report = run(folder, out)
    assert counts(report.images) == {"added": 10}
    assert counts(report.texts) == {"added": 10}
    assert report.images.fragments > 20
    return folder, out


def test_a_second_run_has_nothing_to_do(made, toy, monkeypatch):
    folder, out = made
    before = state(out)
    nothing_may_be_encoded(monkeypatch)
    report = run(folder, out)
    assert counts(report.images) == counts(report.texts) == {"unchanged": 10}
    assert state(out) == before


def test_added_changed_and_removed(made):
    folder, out = made
    (folder / "p3.png").unlink()
    (folder / "p3.txt").unlink()
    write(folder, ["p4"], seed=1)
    (folder / "p5.txt").write_text("Another caption altogether.")
    write(folder, ["q1", "q2"])
    report = run(folder, out)
    assert counts(report.images) == {"added": 2, "changed": 1, "removed": 1, "unchanged": 8}
    assert counts(report.texts) == {"added": 2, "changed": 1, "removed": 1, "unchanged": 8}
    assert verify(out)[1] == []
    fresh = out.parent / "fresh"
    run(folder, fresh)
    assert rows(out) == rows(fresh)


def test_renaming_costs_no_encoding(made, monkeypatch):
    folder, out = made
    (folder / "sub").mkdir()
    for ending in ("png", "txt"):
        (folder / f"p7.{ending}").rename(folder / "sub" / f"moved é.{ending}")
    nothing_may_be_encoded(monkeypatch)
    report = run(folder, out)
    assert counts(report.images) == counts(report.texts) == {"renamed": 1, "unchanged": 9}
    monkeypatch.undo()
    assert verify(out)[1] == []


def test_a_touched_file_is_hashed_and_not_encoded(made, monkeypatch):
    folder, out = made
    os.utime(folder / "p2.png", ns=(1, 1))
    nothing_may_be_encoded(monkeypatch)
    assert counts(run(folder, out).images) == {"unchanged": 10}
    monkeypatch.setattr(FolderCorpus, "read", lambda *_: pytest.fail("read again"))
    assert counts(run(folder, out).images) == {"unchanged": 10}


def test_an_unmounted_corpus_loses_nothing(made):
    folder, out = made
    before = state(out)
    write(folder.parent / "other", ["z1"])
    with pytest.raises(BadInputError, match="this would remove 10 of the 10 images"):
        run(folder.parent / "other", out)
    (folder.parent / "empty").mkdir()
    with pytest.raises(BadInputError, match="holds no image and no text"):
        run(folder.parent / "empty", out)
    assert state(out) == before


def test_different_options_are_refused_and_named(made):
    folder, out = made
    for other, what in (
        (
            Options(encoder="toy:blue", keywords="words", regions="grid", quality=False),
            "encoder.name is 'toy', expected 'toy:blue'",
        ),
        (
            Options(encoder="toy", keywords="words", regions="grid", quality=False, top_regions=5),
            "regions.top is 10, expected 5",
        ),
        (
            Options(encoder="toy", keywords="words", regions="grid", quality=False, whole=False),
            "regions.whole is True",
        ),
    ):
        with pytest.raises(BadIndexError, match=what):
            run(folder, out, other)


def test_an_unfinished_first_run_refuses_different_options(tmp_path, toy, monkeypatch):
    folder, out = tmp_path / "corpus", tmp_path / "index"
    write(folder, ["a"])
    with monkeypatch.context() as patched:
        patched.setattr(toy_module(), "hook", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(folder, out)
    with pytest.raises(BadIndexError, match="unfinished index built with other options"):
        run(
            folder,
            out,
            Options(encoder="toy", keywords="words", regions="grid", quality=False, top_keywords=3),
        )


def interrupt(what):
    raise KeyboardInterrupt


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path, toy):
    write(tmp_path / "corpus", ["a"])
    with pytest.raises(BadInputError, match="holds 'a.png' and is not an index"):
        run(tmp_path / "corpus", tmp_path / "corpus")
    assert sorted(path.name for path in (tmp_path / "corpus").iterdir()) == ["a.png", "a.txt"]


def test_a_second_writer_is_refused_while_readers_continue(made, monkeypatch):
    folder, out = made
    write(folder, ["q1"])
    inside, go = threading.Event(), threading.Event()

    def wait(what):
        if what == "keywords":  # the new image is in the store by now
            inside.set()
            assert go.wait(20)

    monkeypatch.setattr(toy_module(), "hook", wait)
    first = threading.Thread(target=run, args=(folder, out))
    first.start()
    assert inside.wait(20)
    try:
        with pytest.raises(BusyError, match="another process is writing"):
            run(folder, out)
        engine = Engine.open(out)
        assert len(engine.search("p1", k=99)) == 10  # as it was: without q1
    finally:
        go.set()
        first.join()
    assert len(engine.search("p1", k=99)) == 10
    assert len(Engine.open(out).search("p1", k=99)) == 11


def test_bad_images_are_read_or_quarantined_with_a_reason(tmp_path, toy):
    folder, out = tmp_path / "pack", tmp_path / "index"
    expected = write_bad_pack(folder)
    report = run(folder, out)
    lines = [json.loads(line) for line in (out / "errors.jsonl").read_text().splitlines()]
    bad = {image_id: reason for image_id, reason in expected.items() if reason}
    assert {line["item_id"] for line in lines} == set(bad)
    for line in lines:
        assert bad[line["item_id"]] in line["reason"]
        assert line["kind"] == "image"
    assert report.images.quarantined == len(bad)
    assert read_manifest(out).errors == Errors(images=len(bad), texts=0)
    found = {hit.image_id: hit for hit in Engine.open(out).search("anything", k=999)}
    assert set(found) == {image_id for image_id, reason in expected.items() if reason is None}
    for hit in found.values():
        assert Path(hit.path).exists(), "a name with odd bytes leads to its file"
    assert verify(out)[1] == []
    # Nothing has shifted: each image has the vectors that it has alone.
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(folder / "whole.png", alone)
    run(alone, tmp_path / "alone-index")
    assert rows(out)["whole.png"] == rows(tmp_path / "alone-index")["whole.png"]


def test_a_repaired_image_leaves_quarantine(tmp_path, toy):
    folder, out = tmp_path / "corpus", tmp_path / "index"
    write(folder, ["a", "b"])
    good = (folder / "a.png").read_bytes()
    (folder / "a.png").write_bytes(good[:100])
    assert counts(run(folder, out).images) == {"added": 2, "quarantined": 1}
    assert counts(run(folder, out).images) == {"unchanged": 2, "quarantined": 1}
    (folder / "a.png").write_bytes(good)
    assert counts(run(folder, out).images) == {"changed": 1, "unchanged": 1}
    assert (out / "errors.jsonl").read_text() == ""


def test_texts_without_images_and_images_without_texts(tmp_path, toy):
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "poem.txt").write_text("Only words here.")
    report = run(folder, tmp_path / "words")
    assert (report.images.added, report.texts.added) == (0, 1)
    assert Engine.open(tmp_path / "words").search("words") == []
    write(folder, ["a"])
    (folder / "a.txt").unlink()
    (folder / "poem.txt").unlink()
    run(folder, tmp_path / "images")
    with pytest.raises(BadInputError, match="holds no captions"):
        Engine.open(tmp_path / "images").assign(folder / "a.png")


def killed(site: Path, corpus: Path, out: Path, kills: int, seed: int) -> int:
    script = Path(__file__).with_name("killed.py")
    done = subprocess.run(
        [sys.executable, script, site, corpus, out, str(kills), str(seed)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return int(done.stdout.split()[-1])


def test_thirty_kills_of_a_first_run_end_in_the_same_index(tmp_path, toy, toy_site):
    folder = tmp_path / "corpus"
    write_bad_pack(folder)
    write(folder, [f"p{i:03d}" for i in range(400)])
    run(folder, tmp_path / "undisturbed")
    landed = killed(toy_site, folder, tmp_path / "killed", 30, seed=1)
    assert landed >= 20, f"the job was done after {landed} kills: make it longer"
    assert state(tmp_path / "killed") == state(tmp_path / "undisturbed")


def test_kills_of_a_sync_leave_the_old_index_readable(tmp_path, toy, toy_site):
    folder = tmp_path / "corpus"
    write(folder, [f"p{i:03d}" for i in range(0, 240, 2)])
    run(folder, tmp_path / "killed")
    write(folder, [f"p{i:03d}" for i in range(1, 240, 2)])
    write(folder, ["p000", "p002"], seed=1)
    (folder / "p004.png").unlink()
    (folder / "p006.png").rename(folder / "renamed.png")
    assert killed(toy_site, folder, tmp_path / "killed", 12, seed=2) >= 6
    run(folder, tmp_path / "fresh")
    assert rows(tmp_path / "killed") == rows(tmp_path / "fresh")


def test_chunks_do_not_depend_on_how_images_are_grouped(tmp_path, toy):
    folder = tmp_path / "corpus"
    write(folder, [f"p{i}" for i in range(11)])
    from dataclasses import replace

    for n, every in enumerate((1, 3, 64)):
        run(folder, tmp_path / str(n), replace(CHEAP, commit_every=every))
    assert state(tmp_path / "0")[:3] == state(tmp_path / "1")[:3] == state(tmp_path / "2")[:3]


def test_options_are_checked():
    with pytest.raises(BadInputError, match="top_keywords must be at least 1, got 0"):
        Options(top_keywords=0)
    with pytest.raises(BadInputError, match="needs a region"):
        Options(top_regions=0, whole=False)
