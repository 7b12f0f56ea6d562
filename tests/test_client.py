"""A client answers as the engine behind its server does, and fails as it does."""

from __future__ import annotations

import math
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from inspect import signature

import numpy as np
import pytest
from PIL import Image

import felga
from felga.asking import Asking, ImageOptions, WordOptions
from felga.client import Client, Indexed, _made
from felga.errors import BadInputError, NotFoundError
from felga.server.messages import AboutWords, PartSearch
from felga.server.service import Service
from felga.server.web import make_app
from felga.types import ImageHit
from tests.server.ports import running

IMAGE = "scene-03.png"
SECRET = "correct horse"


@pytest.fixture(scope="module")
def served(demo):
    """(engine, URL of a server of the same index, which wants a token)."""
    with (
        felga.Engine.open(demo[0], device="cpu") as engine,
        Service(demo[0], device="cpu") as service,
        running(make_app(service, token=SECRET)) as url,
    ):
        yield engine, url


@pytest.fixture(scope="module")
def client(served):
    with felga.connect(served[1], SECRET) as client:
        yield client


def local(hits, engine):
    """Hits of a client with the paths of this machine, as the engine says them."""
    return [replace(hit, path=f"{engine.root}/{hit.path}") for hit in hits]


def test_words(served, client):
    engine, _ = served
    for options in (
        {},
        {"k": 3, "regions": 4, "explain": True},
        {"whole": False, "quality": False, "owner": "max"},
    ):
        assert local(client.search("cat", **options), engine) == engine.search("cat", **options)
    queries = ["rocket", "zerba & co?", "café AND dog"]
    found = [local(hits, engine) for hits in client.search_all(queries, 5)]
    assert found == engine.search_all(queries, 5)
    assert client.search_all([]) == []
    assert client.unknown_words("a zerba") == engine.unknown_words("a zerba") == {"zerba": ["zebra"]}


def test_images(served, client, demo, tmp_path):
    engine, _ = served
    path, box = demo[1].folder / IMAGE, demo[1].boxes[IMAGE]["rocket"]
    turned = Image.open(path).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    pixels = np.asarray(Image.open(path).convert("RGB"))
    images = [
        path, str(path), pixels, Image.open(path), Image.open(path).convert("L"), tmp_path / "turned.jpg",
        Image.open(tmp_path / "turned.jpg"),
    ]  # fmt: skip
    for image in images:
        for part in (None, box):
            assert local(client.search_image(image, part, 3), engine) == engine.search_image(image, part, 3)
            assert client.assign(image, part, 3) == engine.assign(image, part, 3)
    assert client.assign(Indexed(IMAGE), box, 3) == engine.assign(path, box, 3)
    assert local(client.search_image(Indexed(IMAGE), k=2), engine) == engine.search_image(path, k=2)


def test_before_the_fenet(served, client, believed, demo):
    engine, _ = served
    path = demo[1].folder / IMAGE
    with Service(believed, device="cpu") as service, running(make_app(service)) as url:
        after = felga.connect(url)
        before = after.frozen
        assert local(before.search("cat AND rocket", 5), engine) == engine.search("cat AND rocket", 5)
        assert local(before.search_image(path, k=2), engine) == engine.search_image(path, k=2)
        assert before.assign(path, k=3) == engine.assign(path, k=3)
        assert local(after.search("cat", 5), engine) != engine.search("cat", 5)
        assert (after.measured, client.measured) == (True, False)
    with pytest.raises(BadInputError, match="the index has no FENet"):
        client.frozen.search("cat")


@pytest.mark.parametrize("name", ["search", "search_all", "search_image", "assign", "unknown_words"])
def test_the_face_is_that_of_the_engine(name):
    """Names, order and defaults of arguments; a new one of the engine has to come here, too."""
    asked = [signature(getattr(kind, name)).parameters.values() for kind in (Client, felga.Engine)]
    assert [(one.name, one.kind, one.default) for one in asked[0]] == [
        (one.name, one.kind, one.default) for one in asked[1]
    ]


def test_options_are_the_same_everywhere():
    """Those of the engine, those that are checked, and those of the server, with the same defaults."""
    assert WordOptions.__annotations__.keys() == Asking().values().keys()
    for model, by in ((AboutWords, Asking()), (PartSearch, Asking.by_image({}))):
        fields = {field: about.default for field, about in model.model_fields.items()}
        assert fields.pop("fenet") is True, "Engine.frozen answers without"
        assert (fields.pop("k"), fields.pop("box", None)) == (10, None)
        assert fields == {name: value for name, value in by.values().items() if name in fields}
    assert ImageOptions.__annotations__.keys() <= PartSearch.model_fields.keys()
    assert WordOptions.__annotations__.keys() <= AboutWords.model_fields.keys()
    with pytest.raises(TypeError, match="no option 'explain'"):
        Asking.by_image({"explain": True})


@pytest.mark.parametrize(
    "ask",
    [
        lambda e: e.search_all("boat"),
        lambda e: e.search(["boat"]),
        lambda e: e.search_all([3]),
        lambda e: e.search("  "),
        lambda e: e.search("boat", k=0),
        lambda e: e.search("boat", owner="mean"),
        lambda e: e.search("boat", min_confidence=2),
        lambda e: e.search_image("gone.png"),
        lambda e: e.search_image(17),
        lambda e: e.search_image(np.zeros((4, 4, 3))),
        lambda e: e.assign(np.zeros((9, 9, 3), np.uint8), (1, 2)),
        lambda e: e.assign(np.zeros((9, 9, 3), np.uint8), (5, 5, 5, 5)),
        lambda e: e.assign(__file__),
    ],
)
def test_errors_are_of_the_same_class(served, client, ask):
    with pytest.raises(felga.FelgaError) as wanted:
        ask(served[0])
    with pytest.raises(felga.FelgaError) as got:
        ask(client)
    assert got.value.exit_code == wanted.value.exit_code
    assert "\n" not in str(got.value)


def test_who_may_not_ask(served):
    with pytest.raises(BadInputError, match="the token is missing or wrong"):
        felga.connect(served[1])
    with pytest.raises(BadInputError, match="the token is missing or wrong"):
        felga.connect(served[1], "wrong")


def test_urls_that_are_none():
    for url in ("127.0.0.1:8000", "ftp://x", "http://", "http://x:y", "http://[x"):
        with pytest.raises(BadInputError, match=r"expected e\.g\. http://127\.0\.0\.1:8000"):
            felga.connect(url)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(NotFoundError, match="does not answer .*: is `felga serve` running there"):
        felga.connect(f"http://127.0.0.1:{port}")


def test_a_server_of_something_else():
    class Other(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello")

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        with pytest.raises(BadInputError, match="is not a felga server: it answered 200 without json"):
            felga.connect(f"http://127.0.0.1:{server.server_port}")


def test_what_is_too_large_is_not_sent(served, client, tmp_path):
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(33 * 2**20)
    with pytest.raises(BadInputError, match="large.png cannot be sent: .* exceed the limit"):
        client.assign(tmp_path / "large.png")


def test_hits_of_an_older_and_of_a_newer_server():
    hit = {"rank": 1, "image_id": "a", "path": "a", "score": 0.5, "later": {"x": 1},
           "regions": [{"box": [1, 2, 3, 4], "score": 0.1, "similarity": None}]}  # fmt: skip
    made = _made(ImageHit, hit)
    assert made.regions[0].box == (1, 2, 3, 4)
    assert math.isnan(made.regions[0].similarity)
    assert made.confidence is None


def test_connecting_is_light():
    heavy = "torch", "faiss", "lance", "PIL", "fastapi"
    check = f"import felga; felga.connect; import sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
