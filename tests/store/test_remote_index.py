"""An index on object storage (moto's S3, and files): what is read is what was pushed, or an error."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial

import fsspec
import pytest

from felga.engine import Engine
from felga.errors import BadIndexError, BadInputError, NotFoundError, StorageError
from felga.server.following import Following
from felga.store import remote_index
from felga.store.manifest import read_manifest
from felga.store.remote_index import FILES, Place, mirror, pull, push
from felga.store.verify import verify
from tests.cli.calls import call
from tests.made import WORDS, counts, rows, run, write
from tests.s3 import s3_server

DIES = """
import sys
from pathlib import Path
from felga.store import remote_index
method, after, (folder, url) = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
real, calls = getattr(remote_index.Place, method), []
def dying(*arguments):
    calls.append(1)
    if len(calls) > after:
        import os
        os._exit(9)
    return real(*arguments)
setattr(remote_index.Place, method, dying)
remote_index.push(Path(folder), url) if method != "fetch" else remote_index.mirror(url)
"""


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    with s3_server(tmp_path_factory.mktemp("moto")) as fs:
        yield fs


@pytest.fixture
def made(tmp_path, toy, monkeypatch):
    """A corpus of six images and its index; an empty cache."""
    monkeypatch.setenv("FELGA_CACHE", str(tmp_path / "cache"))
    folder, out = tmp_path / "corpus", tmp_path / "index"
    write(folder, [f"p{i}" for i in range(6)])
    run(folder, out)
    return folder, out


@pytest.fixture(params=["file", "s3"])
def url(request, tmp_path):
    if request.param == "file":
        return f"file://{tmp_path}/far"
    request.getfixturevalue("s3")
    return f"s3://bucket/{tmp_path.name}"


def dies(method, after, folder, url):
    done = subprocess.run([sys.executable, "-c", DIES, method, str(after), str(folder), url], check=False)
    assert done.returncode == 9


def sent(monkeypatch, method):
    """The files that a method of a place is called with from here on."""
    real, calls = getattr(Place, method), []
    monkeypatch.setattr(Place, method, lambda *arguments: calls.append(arguments[1:]) or real(*arguments))
    return calls


def test_what_is_read_is_what_was_pushed(made, url):
    _, out = made
    files, size = push(out, url)
    manifest = read_manifest(out)
    assert files == len({entry.sha256 for entry in manifest.files.values()})
    assert size > 0
    folder = mirror(url)
    assert read_manifest(folder) == manifest
    assert verify(folder)[1] == []
    assert rows(folder) == rows(out)
    with Engine.open(url, device="cpu") as far, Engine.open(out, device="cpu") as here:
        assert far.search("p1", 9) == here.search("p1", 9)


def test_only_what_is_new_travels(made, url, monkeypatch):
    folder, out = made
    push(out, url)
    mirror(url)
    assert push(out, url) == (0, 0)
    before = read_manifest(out).files
    write(folder, ["new"])
    run(folder, out)
    known = {entry.sha256 for entry in before.values()}
    new = {entry.sha256 for entry in read_manifest(out).files.values()} - known
    assert push(out, url)[0] == len(new)
    fetched = sent(monkeypatch, "fetch")
    assert len(rows(mirror(url))) == 14
    assert {entry.sha256 for entry, _ in fetched} == new
    fetched.clear()
    mirror(url)
    assert fetched == []


def test_a_killed_push_leaves_the_old_state_and_the_next_one_goes_on(made, url, monkeypatch):
    folder, out = made
    push(out, url)
    before = rows(out)
    write(folder, ["new"])
    run(folder, out)
    for method, after in (("send", 2), ("replace", 0)):
        dies(method, after, out, url)
        assert rows(mirror(url)) == before
    assert sent(monkeypatch, "send") == []
    push(out, url)
    assert len(rows(mirror(url))) == 14


def test_a_killed_fetch_is_gone_on_with(made, url, monkeypatch):
    _, out = made
    files, _ = push(out, url)
    dies("fetch", 3, out, url)
    fetched = sent(monkeypatch, "fetch")
    assert rows(mirror(url)) == rows(out)
    assert len(fetched) == files - 3


def test_a_state_of_somebody_else_is_not_overwritten(made, url, tmp_path, toy):
    folder, out = made
    push(out, url)
    other = tmp_path / "other"
    pull(url, other)
    write(folder, ["new"])
    assert counts(run(folder, other).images) == {"added": 1, "unchanged": 6}
    push(other, url)
    write(folder, ["newer"])
    run(folder, out)
    with pytest.raises(BadInputError, match=r"a state \(7 images, 7 texts\) that this index did not push"):
        push(out, url)
    assert len(rows(mirror(url))) == 14
    push(out, url, replace=True)
    assert len(rows(mirror(url))) == 16
    with pytest.raises(BadInputError, match="is not empty"):
        pull(url, out)


def test_a_push_in_between_is_noticed(made, url, tmp_path, monkeypatch):
    folder, out = made
    push(out, url)
    other = tmp_path / "other"
    pull(url, other)
    for index, name in ((out, "one"), (other, "two")):
        write(folder, [name])
        run(folder, index)
    real = remote_index._send
    monkeypatch.setattr(remote_index, "_send", lambda *arguments: monkeypatch.undo() or push(other, url))
    with pytest.raises(BadInputError, match="somebody else meanwhile"):
        push(out, url)
    assert remote_index._send is real
    assert read_manifest(mirror(url)) == read_manifest(other)


def test_outdated_files_go_later_and_a_reader_in_between_gets_the_new_state(made, url, monkeypatch):
    folder, out = made
    push(out, url)
    old = Place(url).existing()
    for names in (["new"], ["newer"]):
        write(folder, names)
        run(folder, out)
        push(out, url)
    needed = set(old.entries())
    assert needed < set(Place(url).listed())
    monkeypatch.setattr(remote_index, "KEEP", -60.0)
    push(out, url, replace=True)
    write(folder, ["newest"])
    run(folder, out)
    push(out, url)
    assert not needed <= set(Place(url).listed())
    real, states = Place.existing, [old]
    monkeypatch.setattr(Place, "existing", lambda self: states.pop() if states else real(self))
    assert len(rows(mirror(url))) == 18


def test_outdated_mirrors_go_unless_somebody_has_them_open(made, url, monkeypatch):
    folder, out = made
    push(out, url)
    first = mirror(url)
    monkeypatch.setattr(remote_index, "KEEP_MIRRORED", -1.0)
    with Engine.open(first, device="cpu") as engine:
        write(folder, ["new"])
        run(folder, out)
        push(out, url)
        second = mirror(url)
        assert len(engine.search("p1", 99)) == 6
        assert first.is_dir()
    write(folder, ["newer"])
    run(folder, out)
    push(out, url)
    third = mirror(url)
    assert [first.is_dir(), second.is_dir(), third.is_dir()] == [False, False, True]
    kept = {path.name for path in (third.parent / FILES).iterdir()}
    assert kept == {entry.sha256 for entry in read_manifest(third).files.values()}


def test_damage_at_the_url_is_an_error_and_never_read(made, url):
    _, out = made
    push(out, url)
    fs, base = fsspec.core.url_to_fs(url)
    entry = next(iter(read_manifest(out).files.values()))
    fs.pipe_file(f"{base}/{FILES}/{entry.sha256}", bytes(entry.size))
    with pytest.raises(BadIndexError, match=f"{entry.sha256} of .* is damaged"):
        mirror(url)
    fs.rm_file(f"{base}/{FILES}/{entry.sha256}")
    with pytest.raises(BadIndexError, match="lacks files"):
        mirror(url)
    push(out, url)
    assert rows(mirror(url)) == rows(out)


def test_a_server_follows_what_is_pushed(made, url):
    folder, out = made
    push(out, url)
    with Following(mirror(url), device="cpu", every=3600.0, find=partial(mirror, url)) as following:
        following.refresh()
        assert following.current.number == 1
        write(folder, ["new"])
        run(folder, out)
        push(out, url)
        following.refresh()
        assert following.current.number == 2
        fs, base = fsspec.core.url_to_fs(url)
        fs.mv(f"{base}/manifest.json", f"{base}/gone")
        following.refresh()
        assert "cannot be fetched: there is no index" in following.problem
        with following.state() as state:
            assert len(state.engine.search("p1", 99)) == 7


def test_on_the_command_line(capsys, made, url, tmp_path, monkeypatch):
    folder, out = made
    monkeypatch.chdir(tmp_path)
    _, err = call(capsys, "push", out, url)
    assert f"--index {url}" in err
    hits, _ = call(capsys, "search", "p1", "--index", url, "--min-confidence", 0, "-l", "-k", 99)
    assert len(hits.splitlines()) == 6
    assert call(capsys, "verify", "--index", url)[0].count("is sound") == 1
    monkeypatch.setenv("FELGA_INDEX", url)
    assert "6, " in call(capsys, "info")[0]
    _, err = call(capsys, "fenet", "apply", "--remove", code=2)
    assert "`felga pull` it" in err
    call(capsys, "pull", url, "pulled")
    call(capsys, "index", folder, "--out", "pulled", *WORDS)
    call(capsys, "pull", url, "pulled", code=2)


def test_a_bucket_or_an_index_that_is_not_there(capsys, made, s3):
    _, out = made
    for words in (
        ("push", out, "s3://no-such-bucket/index"),
        ("search", "p1", "--index", "s3://no-such-bucket/index"),
        ("search", "p1", "--index", "s3://bucket/nothing"),
        ("pull", "s3://bucket/nothing", "new"),
    ):
        _, err = call(capsys, *words, code=3)
        assert err.count("\n") == 1
    assert not s3.exists("no-such-bucket")
    with pytest.raises(NotFoundError):
        push(out.parent / "nothing", "s3://bucket/index")


def test_credentials_that_are_missing_or_refused(capsys, made, s3, monkeypatch, tmp_path):
    _, out = made
    asked = ("push", out, "s3://bucket/refused"), ("info", "--index", "s3://bucket/refused")
    with monkeypatch.context() as without:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            without.delenv(name)
        without.setenv("AWS_EC2_METADATA_DISABLED", "true")
        without.setenv("AWS_SHARED_CREDENTIALS_FILE", os.fspath(tmp_path / "none"))
        type(s3).clear_instance_cache()
        for words in asked:
            assert "credentials and the network" in one_line(capsys, words)
    with s3_server(tmp_path, refuses=True):
        for words in asked:
            assert "PermissionError" in one_line(capsys, words)
    type(s3).clear_instance_cache()


def one_line(capsys, words):
    _, err = call(capsys, *words, code=2)
    assert err.count("\n") == 1
    return err


def test_a_service_that_stops_in_between(made, s3, monkeypatch):
    _, out = made
    url = "s3://bucket/stops"

    def refuses(*arguments, **more):
        raise OSError("Please reduce your request rate")

    with monkeypatch.context() as slow:
        slow.setattr(Place(url)._fs, "put_file", refuses)
        with pytest.raises(StorageError, match="cannot be written .*request rate.*nothing was lost"):
            push(out, url)
    assert Place(url).state() is None
    push(out, url)
