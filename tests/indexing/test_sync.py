"""What a sync refuses, what it plans, and what it says when the disk or a part does not work."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from felga.errors import BadInputError, StorageError
from felga.indexing import apply_fenet
from felga.store.verify import verify
from tests.made import CHEAP, counts, files_of, nothing_may_be_encoded, rows, run, state, toy_module, write


@pytest.fixture
def made(tmp_path, toy):
    """A corpus of thirty images and its index."""
    folder, out = tmp_path / "corpus", tmp_path / "index"
    write(folder, [f"p{i:02d}" for i in range(30)])
    run(folder, out)
    return folder, out


def test_a_half_mounted_corpus_empties_nothing(made, tmp_path):
    folder, out = made
    before = files_of(out)
    half = tmp_path / "half"
    half.mkdir()
    shutil.copy2(folder / "p00.png", half)
    with pytest.raises(BadInputError, match="would remove 29 of the 30 images"):
        run(half, out)
    assert files_of(out) == before
    for text in list(folder.glob("*.txt")):
        text.unlink()
    with pytest.raises(BadInputError, match="would remove 30 of the 30 texts"):
        run(folder, out)
    assert files_of(out) == before
    report = run(half, out, prune=True)
    assert counts(report.images) == {"unchanged": 1, "removed": 29}


def test_all_images_moved_into_a_folder_are_renamed(made, monkeypatch):
    folder, out = made
    before = {key.removeprefix("text "): value for key, value in rows(out).items()}
    (folder / "sub").mkdir()
    for path in [*folder.glob("*.png"), *folder.glob("*.txt")]:
        path.rename(folder / "sub" / path.name)
    nothing_may_be_encoded(monkeypatch)
    report = run(folder, out)
    assert counts(report.images) == counts(report.texts) == {"renamed": 30}
    after = {key.removeprefix("text ").removeprefix("sub/"): value for key, value in rows(out).items()}
    assert after == before
    assert verify(out)[1] == []


def test_a_dry_run_says_what_a_run_would_do_and_writes_nothing(made):
    folder, out = made
    write(folder, ["new"])
    (folder / "p03.png").unlink()
    (folder / "p03.txt").unlink()
    (folder / "p04.png").rename(folder / "q04.png")
    before = files_of(out)
    planned = run(folder, out, dry_run=True)
    assert files_of(out) == before
    assert planned.examples["images"]["added"] == ["new.png"]
    assert planned.examples["images"]["removed"] == ["p03.png"]
    assert planned.examples["images"]["renamed"] == ["q04.png"]
    done = run(folder, out)
    assert counts(planned.images) == counts(done.images)
    assert counts(planned.texts) == counts(done.texts)


def test_a_dry_run_of_a_new_index_makes_no_folder(made, tmp_path):
    folder, _ = made
    planned = run(folder, tmp_path / "new", dry_run=True)
    assert (planned.images.added, planned.texts.added) == (30, 30)
    assert not (tmp_path / "new").exists()


LIMITED = """
import resource, signal, sys
sys.path.insert(0, {site!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from felga.errors import FelgaError
from tests.made import run
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
from pathlib import Path
try:
    run(Path({folder!r}), Path({out!r}))
except FelgaError as error:
    print(type(error).__name__, error)
"""


def test_files_that_cannot_grow_are_one_sentence_and_the_index_stays(made, toy_site):
    folder, out = made
    before = state(out)
    write(folder, [f"q{i:02d}" for i in range(30)])
    script = LIMITED.format(site=str(toy_site), folder=str(folder), out=str(out), limit=5_000)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.startswith("StorageError"), done.stdout + done.stderr[-2000:]
    assert state(out) == before
    assert verify(out)[1] == []
    run(folder, out)
    assert verify(out)[1] == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB; needs the right to mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "felga-test", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_one_sentence_and_the_index_stays(made, small_disk):
    folder, _ = made
    out = small_disk / "index"
    run(folder, out)
    before = state(out)
    free = os.statvfs(small_disk)
    (small_disk / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize - 8192))
    write(folder, [f"q{i:02d}" for i in range(60)])
    with pytest.raises(StorageError, match="the disk is full"):
        run(folder, out)
    assert state(out) == before
    assert verify(out)[1] == []
    (small_disk / "filler").unlink()
    run(folder, out)
    assert verify(out)[1] == []


def test_a_read_only_disk_is_one_sentence(made, small_disk):
    folder, _ = made
    run(folder, small_disk / "index")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    write(folder, ["new"])
    for do in (lambda: run(folder, small_disk / "index"), lambda: apply_fenet(small_disk / "index", None)):
        with pytest.raises(StorageError, match="read-only"):
            do()
    assert verify(small_disk / "index")[1] == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EIO])
def test_errors_of_the_disk_at_the_last_moment(made, monkeypatch, code):
    folder, out = made
    before = state(out)
    write(folder, ["new"])

    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(StorageError, match="cannot be written: "):
        run(folder, out)
    monkeypatch.undo()
    assert state(out) == before
    assert verify(out)[1] == []


def test_an_error_of_ours_is_not_taken_for_the_disk(made, monkeypatch):
    folder, out = made
    write(folder, ["new"])
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(RuntimeError("ours")))
    with pytest.raises(RuntimeError, match="ours"):
        run(folder, out)


@pytest.mark.parametrize(
    ("method", "result", "sentence"),
    [
        (
            "encode_regions",
            lambda n: [np.ones((10, 7), np.float32)] * n,
            r"shape \(10, 7\), expected",
        ),
        ("encode_regions", lambda n: [], "0 arrays"),
        ("encode_regions", lambda n: [np.zeros((10, 8), np.float32)] * n, "not of length 1"),
        ("encode_texts", lambda n: np.full((n, 8), np.nan, np.float32), "not of length 1, or NaN"),
        ("encode_texts", lambda n: np.ones(8, np.float32), r"shape \(8,\)"),
    ],
)
def test_a_part_that_returns_nonsense_is_named(tmp_path, toy, monkeypatch, method, result, sentence):
    write(tmp_path / "corpus", ["a"])
    monkeypatch.setattr(toy_module().Toy, method, lambda self, first, *_: result(len(first)))
    with pytest.raises(BadInputError, match=f"'toy' returned.*{sentence}"):
        run(tmp_path / "corpus", tmp_path / "out")


def test_a_proposer_that_leaves_the_image_or_the_text_is_named(tmp_path, toy, monkeypatch):
    from felga.proposals.unsupervised import Unsupervised
    from felga.types import Keyword, Region

    write(tmp_path / "corpus", ["a"])
    with monkeypatch.context() as patched:
        patched.setattr(
            toy_module().Words, "propose", lambda self, texts, top: [[Keyword("x", 1.0, (0, 999))]]
        )
        with pytest.raises(BadInputError, match="keyword proposer 'words' returned 'x'"):
            run(tmp_path / "corpus", tmp_path / "out")
    outside = [[Region((0.0, 0.0, 999.0, 9.0), 1.0)]]
    monkeypatch.setattr(Unsupervised, "propose", lambda self, images, top: outside)
    with pytest.raises(BadInputError, match="region proposer 'grid' returned the box"):
        run(tmp_path / "corpus", tmp_path / "out2")


def test_a_proposers_own_settings_are_never_overwritten(tmp_path, toy, monkeypatch):
    from felga.store.manifest import read_manifest

    write(tmp_path / "corpus", ["a"])
    monkeypatch.setattr(toy_module().Words, "settings", lambda self: {"name": "words", "top": "its own"})
    run(tmp_path / "corpus", tmp_path / "out", replace(CHEAP, top_keywords=3))
    keywords = read_manifest(tmp_path / "out").contract.keywords
    assert keywords == {"proposer": {"name": "words", "top": "its own"}, "top": 3, "whole": True}


def test_python_names_a_corpus_by_its_folder(tmp_path, toy):
    import felga

    write(tmp_path / "corpus", ["a"])
    for _ in range(2):
        report = felga.index(str(tmp_path / "corpus"), str(tmp_path / "out"), CHEAP)
        assert report.folder == tmp_path / "out"
    assert len(felga.Engine.open(tmp_path / "out").search("a")) == 1
    assert callable(felga.index), "the function is never shadowed by a module"
