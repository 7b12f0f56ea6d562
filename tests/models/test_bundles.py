"""Bundles: what the hub's own client cached, written, checked, refused, and put into another cache."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from filelock import FileLock
from huggingface_hub import constants, snapshot_download

from felga.errors import BadInputError, BusyError, NotFoundError, StorageError
from felga.models.bundles import export_bundle, import_bundle
from felga.models.caches import located, reading
from felga.models.weights import hub_file, hub_folder, model_folder

from .homes import move_in, state
from .hub import commit_of, serving

FILES = {
    "config.json": b'{"model_type": "none"}',
    "vocab.txt": b"a\nb\n",
    "model.safetensors": b"weights" * 500,
    "README.md": b"# nothing that felga needs",
}
REPOSITORY = "tiny/model"
FETCHED = ("config.json", "vocab.txt", "model.safetensors")


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("repositories") / REPOSITORY
    folder.mkdir(parents=True)
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def online(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def source(repository, tmp_path, monkeypatch, online) -> Path:
    """A home with the model in the hub's cache, as the hub's client writes it, and a file in torch's."""
    home = tmp_path / "source"
    move_in(home, monkeypatch)
    with serving(repository.parents[1]) as url:
        snapshot_download(REPOSITORY, endpoint=url, allow_patterns=["*.json", "*.txt", "*.safetensors"])
    checkpoints = home / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "net-1234.pth").write_bytes(b"net")
    return home


@pytest.fixture
def bundle(source, tmp_path) -> Path:
    with reading() as read:
        model_folder(REPOSITORY, "the test")
    paths = [*read, source / "torch" / "hub" / "checkpoints" / "net-1234.pth"]
    export_bundle(["none:tiny/model"], paths, tmp_path / "new" / "tiny.tar")
    return tmp_path / "new" / "tiny.tar"


@pytest.fixture
def there(bundle, tmp_path, monkeypatch) -> Path:
    """Another machine."""
    move_in(tmp_path / "home", monkeypatch)
    return tmp_path / "home"


def test_what_felga_fetched_is_found_without_a_network(source, monkeypatch):
    """The hub's client calls a snapshot incomplete if it lacks any file, such as a README."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (trees,) = source.rglob("trees/*.json")
    assert "README.md" in trees.read_text()
    with reading() as read:
        folder = model_folder(REPOSITORY, "the test")
    assert sorted(path.name for path in set(read)) == sorted(FETCHED)
    assert folder.name == located(read[0]).commit


def test_a_part_of_a_repository_is_read_as_that_part(source):
    with reading() as read:
        hub_file(REPOSITORY, ["no.json", "config.json"], "the test")
        hub_folder(REPOSITORY, ["*.txt", "*.model"], "the test")
    assert [path.name for path in read] == ["config.json", "vocab.txt"]


def test_a_bundle_is_a_plain_tar_that_says_what_it_holds(bundle, repository):
    with tarfile.open(bundle) as tar:
        about = json.load(tar.extractfile("manifest.json"))
        assert about["names"] == ["none:tiny/model"]
        for entry in about["files"]:
            data = tar.extractfile(f"files/{entry['sha256']}").read()
            assert hashlib.sha256(data).hexdigest() == entry["sha256"]
            assert len(data) == entry["size"]
            if entry["cache"] == "hub":
                assert data == FILES[entry["path"]]
                assert entry["commit"] == commit_of(repository)
    assert [entry["path"] for entry in about["files"]] == [*sorted(FETCHED), "net-1234.pth"]


def test_an_import_is_what_the_hubs_client_would_have_written(bundle, source, there):
    done = import_bundle(bundle)
    assert len(done.written) == 4
    assert done.moved == ()
    assert state(there) == state(source)


def test_the_loaders_and_the_hubs_client_find_it_offline(bundle, there, repository, monkeypatch):
    import_bundle(bundle)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = model_folder(REPOSITORY, "the test")
    assert folder == hub_folder(REPOSITORY, ["*.json"], "the test")
    for revision in (None, "main", commit_of(repository)):
        assert Path(snapshot_download(REPOSITORY, revision=revision)) == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {n: FILES[n] for n in FETCHED}


def test_the_hubs_client_goes_on_from_an_import(bundle, there, repository, online):
    import_bundle(bundle)
    (blobs,) = there.rglob("blobs")
    before = {path.name: path.stat().st_mtime_ns for path in blobs.iterdir()}
    with serving(repository.parents[1]) as url:
        folder = Path(snapshot_download(REPOSITORY, endpoint=url))
    assert {path.name for path in folder.iterdir()} == set(FILES)
    after = {path.name: path.stat().st_mtime_ns for path in blobs.iterdir()}
    assert before.items() < after.items()
    assert len(after) == len(before) + 1  # the README alone was fetched


def test_importing_twice_writes_nothing(bundle, there):
    import_bundle(bundle)
    times = {path: path.lstat().st_mtime_ns for path in there.rglob("*") if ".locks" not in path.parts}
    assert import_bundle(bundle).written == ()
    assert {
        path: path.lstat().st_mtime_ns for path in there.rglob("*") if ".locks" not in path.parts
    } == times


def test_an_import_mends_a_damaged_file_and_moves_the_name(bundle, source, there):
    import_bundle(bundle)
    (weights,) = there.rglob("snapshots/*/model.safetensors")
    weights.resolve().write_bytes(b"Weights" * 500)
    (main,) = there.rglob("refs/main")
    main.write_text("0" * 40)
    done = import_bundle(bundle)
    assert [file.path for file in done.written] == ["model.safetensors"]
    assert done.moved == (REPOSITORY,)
    assert state(there) == state(source)


def test_plain_files_of_a_cache_without_links_are_left_alone(bundle, there):
    import_bundle(bundle)
    (weights,) = there.rglob("snapshots/*/model.safetensors")
    weights.unlink()
    weights.write_bytes(FILES["model.safetensors"])
    assert import_bundle(bundle).written == ()
    assert not weights.is_symlink()
    again = export_bundle(["x"], [weights], there / "again.tar")
    assert again.files[0].blob == again.files[0].sha256


def killed_at(step: int, bundle: Path) -> bool:
    """Import in a forked child that dies before its rename number ``step``; whether it came to that."""
    child = os.fork()
    if child == 0:
        really, left = os.replace, iter(range(step))

        def replace(*arguments: object) -> None:
            if next(left, None) is None:
                os._exit(9)
            really(*arguments)

        os.replace = replace
        try:
            import_bundle(bundle)
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 9


def test_a_killed_import_changes_nothing_that_a_name_means(bundle, source, there, monkeypatch):
    whole, kills = state(source), 0
    while killed_at(kills, bundle):
        kills += 1
        left = state(there)
        finished = {name: content for name, content in left.items() if not name.endswith(".part")}
        assert finished.items() <= whole.items()
        assert not any(name.endswith("refs/main") for name in finished)
        for path in there.rglob("*.part"):  # as on a machine where nothing had been tried
            path.unlink()
        for name in finished:
            (there / name).unlink()
    assert kills == 8  # 4 contents, 3 links, the name
    assert state(there) == whole


def test_an_import_goes_on_where_one_was_killed(bundle, source, there):
    for step in (2, 5, 0, 1):
        killed_at(step, bundle)
    import_bundle(bundle)
    assert state(there) == state(source)


def test_two_imports_do_not_meet(bundle, there):
    locks = there / "hf" / "hub" / ".locks"
    locks.mkdir(parents=True)
    with FileLock(locks / "felga-import.lock"), pytest.raises(BusyError, match="another import is writing"):
        import_bundle(bundle)


def test_a_disk_that_cannot_be_written_is_one_sentence(bundle, there):
    there.mkdir()
    (there / "hf").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written: Not a directory"):
        import_bundle(bundle)


def test_a_damaged_cache_is_not_exported(source, tmp_path):
    for name in ("model.safetensors", "config.json"):
        (path,) = source.rglob(f"snapshots/*/{name}")
        path.resolve().write_bytes(b"?" * len(FILES[name]))
        with pytest.raises(BadInputError, match=f"{name} is damaged: the hub calls it .* fetch it again"):
            export_bundle(["x"], [path], tmp_path / "x.tar")
    assert not (tmp_path / "x.tar").exists()


def test_code_is_not_exported(source, tmp_path):
    (folder,) = source.rglob("snapshots/*")
    (folder / "modeling.py").write_text("print()")
    with pytest.raises(BadInputError, match=r"holds 'modeling.py': expected one of \.safetensors"):
        export_bundle(["x"], [folder / "modeling.py"], tmp_path / "x.tar")


# What a bundle must not be.


def forged(path: Path, change, members=()) -> Path:
    """A bundle of one file, with a changed manifest, and members of ``tarfile`` after it."""
    data = b"{}"
    entry = {
        "cache": "hub",
        "repository": REPOSITORY,
        "commit": "1" * 40,
        "path": "config.json",
        "blob": hashlib.sha1(b"blob 2\0{}").hexdigest(),
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    about = {"bundle": 1, "felga": "0", "names": ["x"], "files": [entry]}
    about = change(about, entry) or about
    encoded = about if isinstance(about, bytes) else json.dumps(about).encode()
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in (("manifest.json", encoded), (f"files/{entry['sha256']}", data)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in members:
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    return path


def entry_with(**fields):
    return lambda _, entry: entry.update(fields)


def member(name: str, kind: bytes = tarfile.REGTYPE, **more: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in more.items():
        setattr(info, key, value)
    return info


BAD = {
    "a path upwards": (entry_with(path="../config.json"), "expected a plain path"),
    "an absolute path": (entry_with(path="/etc/x.json"), "expected a plain path"),
    "a path through the middle": (entry_with(path="a/../../x.json"), "expected a plain path"),
    "a backslash": (entry_with(path="..\\x.json"), "expected a plain path"),
    "a hidden file": (entry_with(path=".x.json"), "expected a plain path"),
    "a NUL": (entry_with(path="x\0.json"), "expected a plain path"),
    "a line end": (entry_with(path="x\n.json"), "expected a plain path"),
    "a program": (entry_with(path="x.py"), r"expected one of \.safetensors"),
    "a repository upwards": (entry_with(repository="../x"), "expected OWNER/NAME"),
    "a repository with a separator": (entry_with(repository="a--b/c"), "expected OWNER/NAME"),
    "no commit": (entry_with(commit="main"), "expected 40 hex digits"),
    "a commit upwards": (entry_with(commit="../../../../x"), "expected 40 hex digits"),
    "another blob": (entry_with(blob="2" * 40), "is not what the hub calls 222222222222"),
    "a blob upwards": (entry_with(blob="../x"), "its sha256 or git's hash"),
    "no sha256": (entry_with(sha256="x"), "expected 64 hex digits"),
    "an unknown cache": (entry_with(cache="/etc"), "expected hub, torch or open_clip"),
    "a folder in torch's": (
        entry_with(cache="torch", repository="", commit="", blob="", path="a/b.pth"),
        "expected a plain path",
    ),
    "another size": (entry_with(size=3), "instead of"),
    "a size below 0": (entry_with(size=-1), "wrong type"),
    "a size that is true": (entry_with(size=True), "wrong type"),
    "a number as path": (entry_with(path=3), "wrong type"),
    "a field too many": (entry_with(mode=0o777), "has other fields"),
    "a file twice": (lambda about, entry: about["files"].append(entry), "lists a file twice"),
    "two sizes": (
        lambda about, entry: about["files"].append({**entry, "path": "b.json", "size": 9}),
        "gives one content two sizes",
    ),
    "no files": (lambda about, _: about.update(files=[]), "no names or no files"),
    "names with escapes": (lambda about, _: about.update(names=["\x1b[2J"]), "no names or no files"),
    "another format": (lambda about, _: about.update(bundle=2), "of a newer felga"),
    "no json": (lambda *_: b"{", "is not json"),
    "deep json": (lambda *_: b"[" * 100_000, "is not json"),
    "a list": (lambda *_: b"[]", "of a newer felga"),
    "a huge manifest": (lambda *_: b" " * (2**20 + 1), "1048577 bytes, expected 1048576 at most"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_manifest_that_is_wrong_is_refused(what, tmp_path, monkeypatch):
    move_in(tmp_path / "home", monkeypatch)
    change, reason = BAD[what]
    with pytest.raises(BadInputError, match=reason) as caught:
        import_bundle(forged(tmp_path / "bad.tar", change))
    assert str(caught.value).startswith(str(tmp_path / "bad.tar"))
    assert not (tmp_path / "home").exists()


MEMBERS = {
    "one file more": member("x.json", size=3),
    "a symbolic link": member("x", tarfile.SYMTYPE, linkname="/etc/passwd"),
    "a hard link": member("x", tarfile.LNKTYPE, linkname="manifest.json"),
    "a folder": member("x", tarfile.DIRTYPE),
    "a device": member("x", tarfile.CHRTYPE),
    "a long name": member("x" * 300),
    "a pax header": member("x", tarfile.XHDTYPE, size=2**20),
    "a sparse file": member("x", tarfile.GNUTYPE_SPARSE),
}


@pytest.mark.parametrize("what", MEMBERS)
def test_a_member_that_the_manifest_does_not_list_is_refused(what, tmp_path, monkeypatch):
    move_in(tmp_path / "home", monkeypatch)
    with pytest.raises(BadInputError, match=r"does not list|is no regular file"):
        import_bundle(forged(tmp_path / "bad.tar", lambda *_: None, [MEMBERS[what]]))
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("path", ["config.json", "onnx/cpu/config.json"])
def test_the_forged_bundle_is_sound_without_harm_in_it(path, tmp_path, monkeypatch):
    hub = move_in(tmp_path / "home", monkeypatch)
    assert len(import_bundle(forged(tmp_path / "good.tar", entry_with(path=path))).written) == 1
    place = hub / "models--tiny--model" / "snapshots" / ("1" * 40) / path
    assert place.is_symlink()
    assert place.read_bytes() == b"{}"


def test_every_damage_is_noticed_before_anything_is_written(bundle, there):
    whole, cut = bundle.read_bytes(), bundle.with_name("cut.tar")
    for size in (0, 100, 512, 700, 1024, len(whole) // 2, len(whole) - 1500, len(whole) - 1024):
        cut.write_bytes(whole[:size])
        with pytest.raises(BadInputError, match=r"cut\.tar is (no bundle|damaged|cut off)"):
            import_bundle(cut)
    with tarfile.open(bundle) as tar:
        offsets = [one.offset_data for one in tar if one.size] + [one.offset for one in tar]
    for offset in offsets:
        changed = bytearray(whole)
        changed[offset] ^= 1
        cut.write_bytes(changed)
        with pytest.raises(BadInputError, match=r"cut\.tar is (no bundle|damaged)"):
            import_bundle(cut)
    assert not there.exists()


def test_what_is_no_file_is_one_sentence(tmp_path, monkeypatch):
    move_in(tmp_path / "home", monkeypatch)
    with pytest.raises(NotFoundError, match=r"x\.tar does not exist: expected a bundle"):
        import_bundle(tmp_path / "x.tar")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(BadInputError, match="cannot be read"):
            import_bundle(path)
