"""Images are found through the index alone, below the folder of the images alone."""

from __future__ import annotations

import os
import shutil
import tarfile

import pytest
from PIL import Image
from starlette.testclient import TestClient

from felga.indexing import index
from felga.registry import make_corpus
from felga.server.service import Service
from felga.server.web import make_app
from tests.made import CHEAP, run, write
from tests.server.ports import BASE


@pytest.fixture
def corpus(tmp_path, toy):
    """(folder, client) of images with odd names, one in a folder, and a secret beside them."""
    folder = tmp_path / "corpus"
    write(folder, ["a", "b", "c"])
    (folder / "in ner").mkdir()
    shutil.copy(folder / "a.png", folder / "in ner" / "ä?#%.png")
    shutil.copy(folder / "a.png", os.fsencode(folder) + b"/caf\xe9.png")
    Image.new("RGB", (9, 9), "red").save(tmp_path / "secret.png")
    run(folder, tmp_path / "index")
    with Service(tmp_path / "index", device="cpu") as service:
        yield folder, TestClient(make_app(service), base_url=BASE)


def test_odd_names_are_found(corpus):
    _, web = corpus
    assert web.get("/api/images/in%20ner/%C3%A4%3F%23%25.png").status_code == 200
    assert web.get("/api/images/caf%5Cxe9.png").status_code == 200
    hits = web.get("/api/search", params={"q": "x", "k": 9}).json()["answers"][0]["hits"]
    assert {hit["path"] for hit in hits} >= {"a.png", "in ner/ä?#%.png", r"caf\xe9.png"}


@pytest.mark.parametrize(
    "name",
    ["../secret.png", "..%2Fsecret.png", "%2e%2e/secret.png", "a.png/../../secret.png", "/etc/passwd", "%00",
     "a.png%00", "%5Cud800", "..", "."],
)  # fmt: skip
def test_no_path_is_a_name(corpus, name):
    _, web = corpus
    for kind in ("images", "crops"):
        answer = web.get(f"/api/{kind}/{name}", params={"box": "0,0,5,5"} if kind == "crops" else {})
        assert answer.status_code == 404


def test_links_that_lead_out_are_refused(corpus, tmp_path):
    folder, web = corpus
    (folder / "b.png").unlink()
    (folder / "b.png").symlink_to(tmp_path / "secret.png")
    shutil.rmtree(folder / "in ner")
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(tmp_path / "secret.png", tmp_path / "elsewhere" / "ä?#%.png")
    (folder / "in ner").symlink_to(tmp_path / "elsewhere")
    for name in ("b.png", "in%20ner/%C3%A4%3F%23%25.png"):
        for asked in (f"/api/images/{name}", f"/api/crops/{name}?box=0,0,5,5", f"/api/assign?id={name}",
                      f"/api/search/image?id={name}"):  # fmt: skip
            answer = web.get(asked)
            assert answer.status_code == 404, asked
            assert "lies outside the folder of the images" in answer.json()["error"]
            assert str(tmp_path) not in answer.text
    (folder / "c.png").unlink()
    (folder / "c.png").symlink_to("a.png")
    assert web.get("/api/images/c.png").status_code == 200, "a link inside is as good as a file"


def test_what_is_gone_or_no_image_any_more(corpus):
    folder, web = corpus
    (folder / "a.png").unlink()
    gone = web.get("/api/images/a.png")
    assert (gone.status_code, gone.json()["error"]) == (
        404, "the file of 'a.png' is gone: run `felga index` again"
    )  # fmt: skip
    (folder / "b.png").write_bytes(b"junk")
    assert web.get("/api/images/b.png").status_code == 400
    (folder / "c.png").unlink()
    os.mkfifo(folder / "c.png")
    pipe = web.get("/api/images/c.png")
    assert pipe.status_code == 400
    (folder / "b.png").unlink()
    (folder / "b.png").symlink_to("b.png")
    assert web.get("/api/images/b.png").status_code == 404, "a loop"


def test_images_inside_tar_shards(tmp_path, toy):
    write(tmp_path / "loose", ["a", "b"])
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "0.tar", "w") as shard:
        for path in sorted((tmp_path / "loose").iterdir()):
            shard.add(path, path.name)
    index(make_corpus(f"webdataset:{tmp_path / 'shards'}"), tmp_path / "index", CHEAP)
    with Service(tmp_path / "index", device="cpu") as service:
        web = TestClient(make_app(service), base_url=BASE)
        hits = web.get("/api/search", params={"q": "x"}).json()["answers"][0]["hits"]
        assert {hit["path"] for hit in hits} == {"0.tar/a.png", "0.tar/b.png"}
        for hit in hits:
            assert web.get(f"/api/images/{hit['image_id']}").status_code == 200
            assert web.get(f"/api/assign?id={hit['image_id']}").status_code == 200
        (tmp_path / "shards" / "0.tar").rename(tmp_path / "0.tar")
        (tmp_path / "shards" / "0.tar").symlink_to(tmp_path / "0.tar")
        outside = web.get(f"/api/images/{hits[0]['image_id']}")
        assert "lies outside the folder of the images" in outside.json()["error"]
