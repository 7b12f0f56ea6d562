"""The endpoints answer as the engine does."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import felga
from felga.corpus.decode import read_image
from felga.files import canonical
from felga.server.messages import SURE
from felga.server.web import make_app
from tests.server.ports import BASE

IMAGE = "scene-03.png"


@pytest.fixture(scope="module")
def engine(demo):
    with felga.Engine.open(demo[0], device="cpu") as engine:
        yield engine


def plain(hits, engine):
    """Hits of the engine as json has them; a path without the folder of this machine."""
    rows = [canonical(asdict(hit)) for hit in hits]
    for row in rows:
        if "path" in row:
            assert row["path"].startswith(f"{engine.root}/")
            row["path"] = row["path"].removeprefix(f"{engine.root}/")
    return rows


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k": 3, "regions": 3, "explain": True},
        {"k": 99, "whole": False, "quality": False, "owner": "max"},
        {"k": 16, "min_confidence": 0.5},
    ],
    ids=str,
)
def test_words_get_the_hits_of_the_engine(web, engine, options):
    queries = ["cat", "a rocket", "zerba"]
    wanted = [plain(engine.search(query, **options), engine) for query in queries]
    asked = {name: str(value).lower() for name, value in options.items()}
    got = web.get("/api/search", params={"q": queries, **asked}).json()
    posted = web.post("/api/search", json={"queries": queries, **options}).json()
    assert got == posted
    assert [answer["query"] for answer in got["answers"]] == queries
    assert [answer["hits"] for answer in got["answers"]] == wanted
    assert [answer["unknown"] for answer in got["answers"]] == [engine.unknown_words(q) for q in queries]
    assert got["answers"][2]["unknown"] == {"zerba": ["zebra"]}


def test_a_part_of_an_indexed_image_gets_images_and_texts(web, engine, demo):
    box = demo[1].boxes[IMAGE]["rocket"]
    asked = {"id": IMAGE, "box": ",".join(map(repr, box)), "k": 4}
    path = demo[1].folder / IMAGE
    found = web.get("/api/search/image", params={**asked, "regions": 2}).json()["hits"]
    assert found == plain(engine.search_image(path, box, 4, regions=2), engine)
    assert web.get("/api/assign", params=asked).json()["hits"] == plain(engine.assign(path, box, 4), engine)


def test_an_uploaded_image_gets_what_its_file_gets(web, engine, demo, tmp_path):
    Image.open(demo[1].folder / IMAGE).resize((2600, 1950)).save(tmp_path / "large.jpg")
    data = (tmp_path / "large.jpg").read_bytes()
    for box in (None, (900.0, 300.0, 1900.0, 1400.0)):
        asked = {"k": 3, **({"box": ",".join(map(str, box))} if box else {})}
        posted = {"content": data, "headers": {"content-type": "image/jpeg"}, "params": asked}
        found = web.post("/api/search/image", **posted).json()["hits"]
        assert found == plain(engine.search_image(tmp_path / "large.jpg", box, 3), engine)
        found = web.post("/api/assign", **posted).json()["hits"]
        assert found == plain(engine.assign(tmp_path / "large.jpg", box, 3), engine)


def test_images_and_crops_are_those_of_the_file(web, demo):
    whole = read_image(demo[1].folder / IMAGE, "").pixels
    shown = web.get(f"/api/images/{IMAGE}", params={"max_side": 2048, "format": "png"})
    assert shown.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(shown.content))), whole)
    crop = web.get(f"/api/crops/{IMAGE}", params={"box": "10,20,110.4,99", "max_side": 2048, "format": "png"})
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(crop.content))), whole[20:99, 10:110])
    small = web.get(f"/api/images/{IMAGE}", params={"max_side": 64})
    image = Image.open(io.BytesIO(small.content))
    assert (image.format, image.size) == ("JPEG", (64, 48))


@pytest.fixture(scope="module")
def fenet(after):
    """A client of the application that serves the index with a FENet."""
    with TestClient(make_app(after), base_url=BASE) as client:
        yield client


def test_before_the_fenet_the_answers_are_those_of_an_index_without_one(fenet, web):
    part = {"id": IMAGE, "box": "10,20,200,180", "k": 4}
    for path, asked in (
        ("/api/search", {"q": ["cat", "rocket AND cat", "zerba"], "k": 5, "explain": True}),
        ("/api/search/image", part),
        ("/api/assign", part),
    ):
        wanted, got = web.get(path, params=asked), fenet.get(path, params={**asked, "fenet": "false"})
        assert got.json() == wanted.json()
        assert fenet.get(path, params=asked).json() != wanted.json()
    queries = {"queries": ["cat"], "k": 3}
    posted = fenet.post("/api/search", json={**queries, "fenet": False}).json()
    assert posted == web.post("/api/search", json=queries).json()
    info = fenet.get("/api/info").json()
    assert (info["fenet"], info["measured"]) == (True, True)


def test_both_can_be_asked_at_once(fenet):
    asked = [{"q": [word], "fenet": str(on).lower()} for word in ("cat", "coffee") for on in (True, False)]
    wanted = [fenet.get("/api/search", params=params).json() for params in asked]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda params: fenet.get("/api/search", params=params).json(), asked * 4))
    assert found == wanted * 4


def test_what_no_image_surely_shows_is_named(fenet, web):
    asked = {"q": ["cat AND submarine", "cat", "cat AND rocket", "submarine"], "explain": True}
    doubts = [answer["doubt"] for answer in fenet.get("/api/search", params=asked).json()["answers"]]
    assert [doubt and doubt["term"] for doubt in doubts] == ["submarine", None, None, "submarine"]
    assert 0 <= doubts[0]["confidence"] < SURE
    unmeasured = web.get("/api/search", params=asked).json()["answers"]
    assert [answer["doubt"] for answer in unmeasured] == [None] * 4


def test_info_health_and_the_description(web, engine):
    info = web.get("/api/info").json()
    assert (info["images"], info["texts"]) == (16, 16)
    assert (info["state"], info["encoder"], info["fenet"], info["sure"]) == (1, "conse", False, SURE)
    assert info["measured"] is False
    assert web.get("/healthz").json() == {"status": "ok", "state": 1, "error": None}
    described = web.get("/api/openapi.json").json()
    fields = described["components"]["schemas"]
    assert set(fields["ImageHit"]["properties"]) == set(felga.types.ImageHit.__dataclass_fields__)
    assert set(fields["RegionHit"]["properties"]) == set(felga.types.RegionHit.__dataclass_fields__)
    assert set(fields["TextHit"]["properties"]) == set(felga.types.TextHit.__dataclass_fields__)
    assert fields["WordSearchBody"]["properties"]["queries"]["examples"] == [["boat", "zebra"]]


def test_metrics_count_requests_batches_and_the_state(web):
    web.get("/api/search", params={"q": ["cat", "dog", "cow"]})
    web.get("/api/images/nobody.png")
    lines = dict(line.rsplit(" ", 1) for line in web.get("/metrics").text.splitlines() if line[0] != "#")
    assert float(lines['felga_requests_total{path="/api/search",status="200"}']) >= 1
    assert float(lines['felga_requests_total{path="/api/images/{image_id:path}",status="404"}']) >= 1
    assert float(lines['felga_request_seconds_count{path="/api/search"}']) >= 1
    assert float(lines["felga_batch_queries_sum"]) >= 3
    assert (float(lines["felga_index_state"]), float(lines["felga_index_images"])) == (1, 16)


@pytest.mark.parametrize(
    ("asked", "status", "sentence"),
    [
        ("/api/search", 400, "q: field required"),
        ("/api/search?q=%20", 400, "q.0: string should have at least 1 character"),
        ("/api/search?q=cat&k=0", 400, "k: input should be greater than or equal to 1, got '0'"),
        ("/api/search?q=cat&k=201", 400, "k: input should be less than or equal to 200, got '201'"),
        ("/api/search?q=cat&regions=21", 400, "regions: input should be less"),
        ("/api/search?q=cat&min_confidence=nan", 400, "min_confidence: "),
        ("/api/search?q=cat&owner=mean", 400, "owner: input should be 'soft' or 'max'"),
        ("/api/search?q=cat&kk=3", 400, "kk: extra inputs are not permitted"),
        ("/api/search?q=" + "x" * 501, 400, "q.0: string should have at most 500"),
        ("/api/search?" + "q=x&" * 65, 400, "q: list should have at most 64 items"),
        ("/api/search?q=cat&fenet=false", 400, "the index has no FENet: it answers by its encoder alone"),
        ("/api/assign?id=scene-03.png&fenet=false", 400, "the index has no FENet"),
        ("/api/search/image?id=scene-03.png&fenet=false", 400, "the index has no FENet"),
        ("/api/search?q=cat&fenet=before", 400, "fenet: input should be a valid boolean"),
        ("/api/assign?id=scene-03.png&box=1,2,3", 400, "box '1,2,3' is not a box"),
        ("/api/assign?id=scene-03.png&box=1,2,nan,4", 400, "is not a box: expected x1,y1,x2,y2"),
        ("/api/assign?id=scene-03.png&box=900,0,999,9", 400, "covers no pixel of scene-03.png"),
        ("/api/crops/scene-03.png?box=5,5,5,9", 400, "covers no pixel of scene-03.png"),
        ("/api/images/scene-03.png?max_side=9999", 400, "max_side: input should be less"),
        ("/api/images/nobody.png", 404, "the index has no image 'nobody.png'"),
        ("/api/search/image?id=nobody.png", 404, "the index has no image 'nobody.png'"),
        ("/api/nothing", 404, "there is nothing at /api/nothing"),
    ],
)
def test_what_is_misasked_is_said_in_one_sentence(web, asked, status, sentence):
    answer = web.get(asked)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert sentence in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_bodies_that_are_none(web):
    bad = web.post("/api/search", content=b"{", headers={"content-type": "application/json"})
    assert (bad.status_code, list(bad.json())) == (400, ["error"])
    bad = web.post("/api/assign", content=b"x", headers={"content-type": "text/plain"})
    assert bad.status_code == 415
    assert "got 'text/plain'" in bad.json()["error"]
    assert web.get("/api/search/?q=x").status_code == 404
    refused = web.post("/api/info")
    assert (refused.status_code, refused.json()["error"]) == (405, "/api/info does not take POST")
