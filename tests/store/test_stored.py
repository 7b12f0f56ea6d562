"""Nothing is written in place, readers keep their state, damage is never adopted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest

from felga.engine import Engine
from felga.errors import BadIndexError, BadInputError, FelgaError
from felga.files import sha256_file
from felga.indexing import apply_fenet
from felga.store import commit, pieces
from felga.store.manifest import FileEntry, read_manifest
from felga.store.pairs import features_of
from felga.store.stored import StoredIndex
from felga.store.verify import verify
from tests.made import files_of, rows, run, train_fenet, write


@pytest.fixture
def made(tmp_path, toy):
    """A corpus of ten images and its index."""
    folder, out = tmp_path / "corpus", tmp_path / "index"
    write(folder, [f"p{i}" for i in range(10)])
    run(folder, out)
    return folder, out


def answers(out: Path) -> list:
    """What a search and an assignment return, whatever the order of insertion."""
    engine = Engine.open(out, device="cpu")
    hits = sorted((hit.image_id, hit.score) for hit in engine.search("p1", k=99))
    return [hits, rows(out)]


def test_a_sync_without_changes_writes_nothing(made):
    folder, out = made
    before = files_of(out)
    run(folder, out)
    assert files_of(out) == before


def test_putting_the_same_fenet_on_twice_writes_nothing(made, tmp_path):
    _, out = made
    fenet = train_fenet(out, tmp_path / "a.safetensors")
    apply_fenet(out, fenet)
    before = files_of(out)
    apply_fenet(out, fenet)
    assert files_of(out) == before


def test_one_more_image_rewrites_one_piece(tmp_path, toy, monkeypatch):
    monkeypatch.setattr(pieces, "EVERY", 4)
    folder, out = tmp_path / "corpus", tmp_path / "index"
    write(folder, [f"p{i:02d}" for i in range(60)])
    run(folder, out)
    before = read_manifest(out)
    assert len(before.images.pieces) > 6
    inodes = {name: (out / name).stat().st_ino for name in before.images.pieces}
    write(folder, ["q"])
    (folder / "p30.png").unlink()
    (folder / "p30.txt").unlink()
    run(folder, out)
    after = read_manifest(out)
    new = [name for name in after.images.pieces if name not in inodes]
    assert 1 <= len(new) <= 3, "the piece of the image that went, and the last one"
    assert all((out / name).stat().st_ino == inodes[name] for name in after.images.pieces if name in inodes)
    assert verify(out)[1] == []


def test_full_pieces_are_cut_and_searched_as_one(tmp_path, toy, monkeypatch):
    folder = tmp_path / "corpus"
    write(folder, [f"p{i}" for i in range(9)])
    run(folder, tmp_path / "one")
    monkeypatch.setattr(pieces, "FULL", 25)  # two images of eleven regions
    run(folder, tmp_path / "many")
    assert len(read_manifest(tmp_path / "many").images.pieces) == 5
    assert answers(tmp_path / "many") == answers(tmp_path / "one")
    assert verify(tmp_path / "many")[1] == []


def test_no_file_of_a_manifest_is_ever_replaced_or_changed(made, tmp_path):
    """Under syncs and FENets, each file that some manifest named keeps its inode and its bytes."""
    folder, out = made
    fenet = train_fenet(out, tmp_path / "a.safetensors")
    seen: dict[str, tuple] = {}
    for step in range(6):
        {
            0: lambda: run(folder, out),
            1: lambda: apply_fenet(out, fenet),
            2: lambda: (write(folder, ["q1"]), run(folder, out)),
            3: lambda: apply_fenet(out, None),
            4: lambda: ((folder / "p3.png").rename(folder / "r3.png"), run(folder, out)),
            5: lambda: apply_fenet(out, fenet),
        }[step]()
        now = files_of(out)
        for name in read_manifest(out).files:
            assert seen.setdefault(name, now[name]) == now[name], f"{name} was written again in step {step}"
    assert verify(out)[1] == []


def test_an_open_engine_answers_however_many_syncs_follow(made, monkeypatch):
    folder, out = made
    monkeypatch.setattr(commit, "KEEP_RETIRED", 0.0)
    engine = Engine.open(out, device="cpu")
    before = engine.search("p1", k=99)
    for i in range(25):  # beyond the point where a table is compacted
        write(folder, [f"q{i}"])
        run(folder, out)
    assert engine.search("p1", k=99) == before
    held = len(list((out / "retired").glob("*.json")))
    assert held == 1, "only the state that is open is kept"
    engine.close()
    run(folder, out)
    assert not (out / "retired").exists()
    assert verify(out)[1] == []
    named = {name for name in read_manifest(out).files if name.endswith(".faiss")}
    assert {path.name for path in out.glob("*.faiss")} == named


def test_a_replaced_state_is_kept_for_readers_that_are_just_opening(made):
    folder, out = made
    old = set(read_manifest(out).images.pieces)
    write(folder, ["q"])
    run(folder, out)
    assert all((out / name).exists() for name in old), "replaced less than an hour ago"


def test_readers_under_syncs_and_fenets_see_one_state_and_no_error(made, tmp_path, toy_site):
    folder, out = made
    fenet = train_fenet(out, tmp_path / "a.safetensors")
    script = Path(__file__).with_name("readers.py")
    done = subprocess.run(
        [sys.executable, script, toy_site, folder, out, fenet], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[-1]) >= 20, "too few searches to mean anything"


@pytest.mark.parametrize("when", ["before the file is synced", "before the file has its name"])
@pytest.mark.parametrize("what", ["sync", "no-op", "fenet"])
def test_a_kill_inside_a_write_leaves_the_old_index(made, tmp_path, toy_site, what, when):
    folder, out = made
    fenet = train_fenet(out, tmp_path / "a.safetensors")
    if what == "sync":
        write(folder, ["q1"])
    before = answers(out)
    script = Path(__file__).with_name("killed_inside.py")
    done = subprocess.run(
        [sys.executable, script, toy_site, folder, out, fenet, what, when], capture_output=True, text=True
    )
    if what == "no-op":
        assert done.returncode == 0, "nothing is written, so nothing can be killed inside a write"
    else:
        assert done.returncode == -9, done.stderr[-2000:]
    assert verify(out)[1] == []
    assert answers(out) == before
    if what == "fenet":
        apply_fenet(out, fenet)
    run(folder, out)
    assert verify(out)[1] == []


def flip(path: Path, share: float) -> None:
    data = bytearray(path.read_bytes())
    data[min(int(len(data) * share), len(data) - 1)] ^= 0x10
    path.write_bytes(data)


def test_a_flipped_bit_is_never_adopted(made, tmp_path):
    """Each file of an index, each command that writes one: exit code 4, or an index as it should be."""
    folder, out = made
    fenet = train_fenet(out, tmp_path / "a.safetensors")
    apply_fenet(out, fenet)
    wanted = rows(out)
    work = {
        "index": lambda copy: run(folder, copy),
        "fenet apply": lambda copy: apply_fenet(copy, fenet),
        "train": lambda copy: features_of(copy),
    }
    refused = 0
    for name in read_manifest(out).files:
        for command, do in work.items():
            copy = tmp_path / "copy"
            shutil.copytree(out, copy)
            flip(copy / name, 0.6)
            try:
                do(copy)
            except BadIndexError:
                refused += 1
            else:
                assert command == "train" or verify(copy)[1] == [], f"{command} adopted damage in {name}"
                assert command != "train" or name.endswith(".safetensors"), f"trained on a damaged {name}"
                assert rows(copy) == wanted
            shutil.rmtree(copy)
    assert refused > 10


def test_damaged_work_of_an_unfinished_run_is_done_again(tmp_path, toy, monkeypatch):
    from tests.made import toy_module

    folder, out = tmp_path / "corpus", tmp_path / "index"
    write(folder, [f"p{i}" for i in range(10)])
    run(folder, tmp_path / "undisturbed")

    def stop(what):
        if what == "keywords":
            raise KeyboardInterrupt

    for pick in (min, max):
        with monkeypatch.context() as patched:
            patched.setattr(toy_module(), "hook", stop)
            with pytest.raises(KeyboardInterrupt):
                run(folder, out)
        data = sorted((out / "images.lance" / "data").iterdir(), key=os.path.getmtime)
        flip(pick(data, key=os.path.getsize), 0.3)
        try:
            run(folder, out)
        except BadIndexError:
            shutil.rmtree(out)
            continue
        assert rows(out) == rows(tmp_path / "undisturbed")
        assert verify(out)[1] == []
        shutil.rmtree(out)


def forge(out: Path, change) -> None:
    """Rewrite the manifest, signed, as a stranger could."""
    change(read_manifest(out)).write(out)


def with_file(manifest, out: Path, name: str):
    """The manifest with the size and sha256 that a file has by now."""
    from dataclasses import replace

    entry = FileEntry((out / name).stat().st_size, sha256_file(out / name))
    return replace(manifest, files={**manifest.files, name: entry})


@pytest.mark.parametrize(
    ("build", "what"),
    [
        (lambda dim: faiss.IndexFlatL2(dim), "inner product"),
        (lambda dim: faiss.IndexHNSWFlat(dim, 4), "IndexFlat"),
    ],
)
def test_another_type_of_faiss_file_is_refused(made, build, what):
    _, out = made
    (name,) = read_manifest(out).images.pieces
    old = faiss.read_index(str(out / name))
    other = build(old.d)
    other.add(old.reconstruct_n(0, old.ntotal))
    faiss.write_index(other, str(out / name))
    forge(out, lambda manifest: with_file(manifest, out, name))
    assert verify(out)[1]
    with pytest.raises(BadIndexError):
        Engine.open(out)


def test_verify_finds_vectors_that_are_not_numbers(made):
    _, out = made
    (name,) = read_manifest(out).images.pieces
    data = bytearray((out / name).read_bytes())
    data[-8:-4] = np.float32("nan").tobytes()
    (out / name).write_bytes(data)
    forge(out, lambda manifest: with_file(manifest, out, name))
    assert verify(out)[1], "NaN must not pass as close enough"


def test_a_manifest_cannot_lead_outside_of_the_index(made, tmp_path):
    from dataclasses import replace

    _, out = made
    shutil.copy(out / read_manifest(out).images.pieces[0], tmp_path / "regions-00.faiss")

    def outside(manifest):
        entry = manifest.files[manifest.images.pieces[0]]
        images = replace(manifest.images, pieces=("../regions-00.faiss",))
        return replace(manifest, images=images, files={**manifest.files, "../regions-00.faiss": entry})

    forge(out, outside)
    with pytest.raises(BadIndexError, match="not a file of an index"):
        Engine.open(out)


def test_a_file_behind_a_link_is_refused(made, tmp_path):
    _, out = made
    name = read_manifest(out).images.pieces[0]
    shutil.move(out / name, tmp_path / "elsewhere")
    (out / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadIndexError, match="behind a link"):
        Engine.open(out)


def test_a_planted_part_file_is_not_written_through(made, tmp_path):
    folder, out = made
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in ("manifest.json.part", "errors.jsonl.part"):
        (out / name).symlink_to(victim)
    write(folder, ["q"])
    (folder / "bad.png").write_bytes(b"nothing")
    run(folder, out)
    assert victim.read_text() == "precious"
    assert verify(out)[1] == []


def test_sizes_are_compared_before_anything_is_read(made):
    _, out = made
    (name,) = read_manifest(out).images.pieces
    data = bytearray((out / name).read_bytes())
    data[4:8] = (2**30).to_bytes(4, "little")  # the dimension in the header of a FAISS file
    (out / name).write_bytes(data)
    forge(out, lambda manifest: with_file(manifest, out, name))
    with pytest.raises(BadIndexError):
        Engine.open(out)


def test_the_parts_of_an_index_are_opened_in_one_place():
    """Nobody else joins the paths of an index."""
    import felga

    for path in Path(felga.__file__).parent.rglob("*.py"):
        room = path.relative_to(Path(felga.__file__).parent).parts[0]
        if room not in ("store", "indexing"):
            text = path.read_text()
            assert ".lance" not in text, f"{path} names a table"


def test_close_lets_a_writer_clean_up(made, monkeypatch):
    folder, out = made
    monkeypatch.setattr(commit, "KEEP_RETIRED", 0.0)
    with StoredIndex.open(out) as opened:
        assert len(opened.images) == 10
        write(folder, ["q"])
        run(folder, out)
        assert list((out / "retired").iterdir())
    run(folder, out)
    assert not (out / "retired").exists()


@pytest.mark.parametrize("name", ["with\nnewline", "a:b", "x y %20 #?*", os.fsdecode(b"caf\xe9")])
def test_any_folder_name_can_hold_a_corpus_and_an_index(tmp_path, toy, name, monkeypatch):
    try:
        (tmp_path / name).mkdir()
    except OSError as error:
        pytest.skip(f"this file system has no such names: {error}")
    monkeypatch.chdir(tmp_path)
    corpus, out = Path(name, "corpus"), Path(name, "index")
    write(corpus, ["a", "b"])
    run(corpus, out)
    run(corpus, out)
    engine = Engine.open(out, device="cpu")
    assert {Path(hit.path).exists() for hit in engine.search("a")} == {True}
    assert verify(out)[1] == []
    (Path(name) / "index").rename("moved")
    assert len(Engine.open("moved", device="cpu").search("a")) == 2


def test_an_index_of_format_1_is_refused_with_what_to_do(made):
    import json

    _, out = made
    data = json.loads((out / "manifest.json").read_bytes())
    (out / "manifest.json").write_text(json.dumps({**data, "format_version": 1}))
    for do in (lambda: Engine.open(out), lambda: verify(out), lambda: run(made[0], out)):
        with pytest.raises(BadIndexError, match="format version 1, this felga reads 6: index"):
            do()


def test_a_lock_that_is_a_link_is_one_sentence(made, tmp_path):
    folder, out = made
    (out / ".lock").unlink(missing_ok=True)
    (out / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadInputError, match="is a link"):
        run(folder, out)


def test_a_typo_makes_no_folder(made, tmp_path):
    folder, _ = made
    from tests.made import CHEAP

    with pytest.raises(FelgaError):
        apply_fenet(tmp_path / "typo", tmp_path / "a.safetensors")
    from dataclasses import replace

    with pytest.raises(FelgaError):
        run(folder, tmp_path / "zz", replace(CHEAP, regions="gird"))
    assert not (tmp_path / "typo").exists()
    assert not (tmp_path / "zz").exists()


def test_verify_finds_a_box_outside_its_image_and_a_row_without_its_checksum(made):
    from felga.store.commit import commit as commit_state
    from felga.store.schema import ImageRow, image_table
    from felga.types import Region

    _, out = made
    before = read_manifest(out)
    index = StoredIndex.open(out)
    vector = np.full((1, 8), 8**-0.5, np.float32)
    row = ImageRow(
        "z", b"z", 1, 1, "0" * 64, 10, 10, regions=[Region((0.0, 0.0, 50.0, 5.0), 1.0)], vectors=vector
    )
    table = image_table([row], 8)
    spoiled = table.set_column(0, "image_id", [["y"]])  # its checksum is that of "z"
    for addition, sentence in (
        (table, "1 boxes outside their image"),
        (spoiled, "do not match their checksum"),
    ):
        index.images.append(addition)
        commit_state(
            out, before.contract, before.corpus, index.images, index.texts, before.errors, None,
            encoder=before.encoder, before=read_manifest(out), broken={},
        )  # fmt: skip
        assert any(sentence in line for line in verify(out)[1])
