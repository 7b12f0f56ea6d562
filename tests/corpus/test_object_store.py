"""Images on object storage: fsspec's memory, folders and http; S3 by moto's server."""

from __future__ import annotations

import importlib.util
import json
import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest

from felga.corpus.decode import UnreadableImage
from felga.corpus.folder import FolderCorpus
from felga.corpus.object_store import ObjectCorpus
from felga.engine import Engine
from felga.errors import BadInputError, MissingError, NotFoundError, StorageError
from felga.indexing import index
from felga.registry import make_corpus
from felga.testing.corpus import CorpusContract
from tests.cli.calls import call
from tests.made import CHEAP, WORDS, counts
from tests.s3 import needs, s3_server

from .test_third_party import png

FILES = {
    "a.png": png(1),
    "a.txt": b"A red wall.\nA wall.",
    "deep/b.png": png(2),
    "deep/metadata.jsonl": b'{"file_name": "b.png", "text": "A boat."}\n{"file_name": "no.png", "text": "x"}',
    "c.png": png(3),
    "c.json": json.dumps({"caption": "From json."}).encode(),
    "d.png": b"no image",
    "alone.txt": b"A text on its own.",
    ".hidden/e.png": png(4),
    "odd \xe9'\".png": png(5),
}


@pytest.fixture
def memory():
    """A prefix of fsspec's memory with these files."""
    fs = fsspec.filesystem("memory")
    fs.pipe({f"/bucket/photos/{name}": data for name, data in FILES.items()})
    yield "memory://bucket/photos"
    fs.rm("/bucket", recursive=True)


@pytest.fixture
def on_disk(tmp_path):
    for name, data in FILES.items():
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(data)
    return tmp_path / "photos"


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """A bucket on an S3 server of this machine."""
    with s3_server(tmp_path_factory.mktemp("moto")) as fs:
        fs.pipe({f"bucket/photos/{name}": data for name, data in FILES.items()})
        yield "s3://bucket/photos"


class TestMemory(CorpusContract):
    @pytest.fixture
    def corpus(self, memory):
        return make_corpus(f"objects:{memory}")


class TestS3(CorpusContract):
    @pytest.fixture
    def corpus(self, s3):
        return make_corpus(f"objects:{s3}")


@pytest.mark.parametrize("where", ["memory", "s3"])
def test_the_listing_is_that_of_a_folder(where, on_disk, request):
    found, folder = ObjectCorpus(request.getfixturevalue(where)).scan(), FolderCorpus(on_disk).scan()
    assert [(i.image_id, i.path, i.size) for i in found.images] == [
        (i.image_id, i.path, i.size) for i in folder.images
    ]
    assert found.texts == folder.texts
    assert {text.text for text in found.texts} >= {"A red wall. A wall.", "A boat.", "From json."}
    assert found.bad == folder.bad
    assert len(found.bad) == 1


@pytest.mark.parametrize("where", ["memory", "s3"])
def test_listing_reads_captions_alone_and_an_image_is_one_read(where, request, monkeypatch):
    corpus, read = ObjectCorpus(request.getfixturevalue(where)), []
    cat = corpus._fs.cat_file
    monkeypatch.setattr(corpus._fs, "cat_file", lambda path, **more: read.append(path) or cat(path, **more))
    images = corpus.scan().images
    assert [path for path in read if path.endswith(".png")] == []
    read.clear()
    for image in images:
        corpus.read(image)
    assert len(read) == len(images) == len(set(read))


@pytest.mark.parametrize("where", ["memory", "s3"])
def test_an_index_of_it_follows_changes(where, tmp_path, toy, request):
    url, out = request.getfixturevalue(where), tmp_path / "out"
    fs, base = fsspec.core.url_to_fs(url)
    report = index(ObjectCorpus(url), out, CHEAP)
    assert counts(report.images) == {"added": 5, "quarantined": 1}
    assert counts(index(ObjectCorpus(url), out, CHEAP).images) == {"unchanged": 5, "quarantined": 1}
    fs.pipe_file(f"{base}/a.png", png(9))
    fs.mv(f"{base}/c.png", f"{base}/moved.png")
    fs.rm(f"{base}/d.png")
    changed = counts(index(ObjectCorpus(url), out, CHEAP).images)
    assert changed == {"changed": 1, "renamed": 1, "removed": 1, "unchanged": 2}
    with Engine.open(out, device="cpu") as engine:
        paths = {hit.path for hit in engine.search("boat", 9)}
    assert f"{url}/deep/b.png" in paths
    for name in ("a.png", "d.png", "c.png"):
        fs.pipe_file(f"{base}/{name}", FILES[name])
    fs.rm(f"{base}/moved.png")


@pytest.mark.parametrize("where", ["memory", "s3"])
def test_an_object_that_vanishes_after_the_listing_is_quarantined(where, tmp_path, toy, request):
    url = request.getfixturevalue(where)
    fs, base = fsspec.core.url_to_fs(url)

    class Vanishing(ObjectCorpus):
        def scan(self):
            found = super().scan()
            fs.rm(f"{base}/c.png")
            return found

    try:
        report = index(Vanishing(url), tmp_path / "out", CHEAP)
        assert report.images.quarantined == 2
        errors = (tmp_path / "out" / "errors.jsonl").read_text()
        assert "c.png cannot be read: it does not exist" in errors
    finally:
        fs.pipe_file(f"{base}/c.png", FILES["c.png"])


def test_names_that_lead_nowhere(memory, monkeypatch):
    with pytest.raises(NotFoundError, match="there is nothing at memory://bucket/no"):
        ObjectCorpus("memory://bucket/no").scan()
    with pytest.raises(BadInputError, match="is one object"):
        ObjectCorpus(f"{memory}/a.png").scan()
    with pytest.raises(BadInputError, match="cannot be opened"):
        ObjectCorpus("nosuch://bucket/photos")
    with pytest.raises(BadInputError, match="no URL"):
        make_corpus("objects:photos")
    if importlib.util.find_spec("gcsfs") is None:
        with pytest.raises(MissingError, match="gcsfs"):
            ObjectCorpus("gs://bucket/photos")


def test_a_bucket_that_is_gone(s3):
    with pytest.raises(NotFoundError, match="there is nothing at s3://no-such-bucket/photos"):
        ObjectCorpus("s3://no-such-bucket/photos").scan()


def test_missing_credentials(s3, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.fspath(tmp_path / "none"))
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(BadInputError, match="cannot be listed .*credentials"):
        ObjectCorpus(s3).scan()
    fsspec.filesystem("s3").clear_instance_cache()


def test_a_service_that_stops_answering_stops_the_job_and_blames_no_image(tmp_path):
    needs("aiohttp")
    (tmp_path / "a.png").write_bytes(png(1))
    with serve(tmp_path) as url:
        corpus = ObjectCorpus(url)
        (image,) = corpus.scan().images
        assert corpus.read(image) == png(1)
        gone = type(image)("b", "b.png", 0, 0)
        with pytest.raises(UnreadableImage, match="does not exist"):
            corpus.read(gone)
    with pytest.raises(StorageError, match="run again once the service answers"):
        corpus.read(image)
    with pytest.raises(BadInputError, match="cannot be listed"):
        corpus.scan()


class serve:
    """A folder over http, on a port of this machine; one path below it may be broken."""

    def __init__(self, folder, broken=None):
        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self):
                if self.path == broken:
                    self.send_error(503)
                else:
                    super().do_GET()

        handler = partial(Handler, directory=os.fspath(folder))
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()


def test_a_folder_that_cannot_be_listed_is_no_empty_one(on_disk):
    """Or its images would be removed from the index."""
    needs("aiohttp")
    with serve(on_disk, broken="/deep/") as url, pytest.raises(BadInputError, match="cannot be listed"):
        ObjectCorpus(url).scan()


def test_on_the_command_line(capsys, on_disk, tmp_path, monkeypatch, toy):
    monkeypatch.chdir(tmp_path)
    call(capsys, "index", f"file://{on_disk}", *WORDS)
    out, _ = call(capsys, "search", "boat", "--min-confidence", 0, "-l")
    assert sorted(out.splitlines())[0] == f"file://{on_disk}/a.png"
    _, err = call(capsys, "index", "memory://nothing/here", *WORDS, code=3)
    assert err.count("\n") == 1
