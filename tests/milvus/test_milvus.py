"""An index in the embedded Milvus against the same index here: equal hits, to the bit."""

from __future__ import annotations

import importlib.util
import os
import sys
import time

import numpy as np
import pytest

from felga.engine import Engine
from felga.errors import BadIndexError, BadInputError, MissingError, NotFoundError
from felga.milvus.connection import CHUNK, Connection, Place
from felga.store.stored import StoredIndex
from tests.cli.calls import call
from tests.made import CHEAP, run, write

HERE = all(importlib.util.find_spec(name) for name in ("pymilvus", "milvus_lite"))
INSTALL = "needs pymilvus and milvus-lite: pip install pymilvus; pip install --no-deps milvus-lite"
with_milvus = pytest.mark.skipif(not HERE, reason=INSTALL)
QUERIES = ["rocket", "cat", "coffee", "2:cat AND coffee", "cat NOT coffee", "cat + coffee", "zerba"]


def fill(folder, place):
    from felga.milvus.filling import fill as into

    with StoredIndex.open(folder) as index:
        return into(index, Place.parse(str(place)))


def connect(place, **more):
    from felga.milvus.searching import MilvusEngine

    return MilvusEngine.connect(str(place), device="cpu", **more)


@pytest.fixture(scope="module")
def pair(believed, tmp_path_factory):
    """The demo index with its FENet, here and in Milvus."""
    place = f"milvus:{tmp_path_factory.mktemp('milvus') / 'demo.db'}#demo"
    fill(believed, place)
    with Engine.open(believed, device="cpu") as here, connect(place) as there:
        yield here, there


@with_milvus
@pytest.mark.parametrize("query", QUERIES)
def test_hits_are_those_of_the_index_to_the_bit(pair, query):
    here, there = pair
    for options in ({}, {"owner": "max", "quality": False}, {"whole": False, "regions": 3}):
        assert there.search(query, 5, **options) == here.search(query, 5, **options)
    assert there.unknown_words(query) == here.unknown_words(query)
    assert there.measured == here.measured


@with_milvus
def test_a_question_of_several_terms_is_encoded_with_the_fenet_of_milvus(
    pair, believed, tmp_path, monkeypatch
):
    """Its sentence is in no cache, but its terms are, so that the FENet is not loaded for them."""
    _, there = pair
    place, answers = there.index.connection.place, []
    for name, opened in (
        ("here", lambda: Engine.open(believed, device="cpu")),
        ("there", lambda: connect(place)),
    ):
        monkeypatch.setenv("FELGA_CACHE", str(tmp_path / name))
        with opened() as first:  # terms encoded together: a vector's last bit depends on its company
            first.search_all(["rocket", "cup"], 1)
        with opened() as fresh:
            answers.append(fresh.search("rocket AND cup", 5))
    assert answers[0] == answers[1]


@with_milvus
def test_many_queries_at_once_are_each_as_alone(pair):
    here, there = pair
    queries = QUERIES * 5
    assert there.search_all(queries, 3) == here.search_all(queries, 3)
    assert there.search_all([], 3) == []


@with_milvus
def test_an_image_and_a_part_of_it_find_what_they_find_here(pair, demo):
    here, there = pair
    path = here.search("rocket", 1)[0].path
    for box in (None, (100, 100, 300, 300)):
        assert there.search_image(path, box, 4) == here.search_image(path, box, 4)


@with_milvus
def test_ids_choose_among_images(pair):
    here, there = pair
    ids = [hit.image_id for hit in here.search("cat", 9)][4:7]
    assert there.search("cat", 9, ids=ids) == here.search("cat", 9, ids=ids)
    assert there.search("cat", 9, ids=[]) == []
    assert there.search("cat", 9, ids=['no " such', "\\"]) == []
    small = there.search("cat AND coffee", 2, ids=ids)
    assert {hit.image_id for hit in small} <= set(ids)


@with_milvus
def test_depth_grows_until_nothing_unseen_can_be_better(pair, monkeypatch):
    """Asked for one region at first, it must go on to find the same hits."""
    from felga.milvus import searching

    here, there = pair
    monkeypatch.setattr(searching, "FETCH", 1)
    monkeypatch.setattr(searching, "LEAST", 1)
    asked = []
    original = there.index.connection.call
    monkeypatch.setattr(
        there.index.connection,
        "call",
        lambda method, *a, **o: asked.append(o.get("limit")) or original(method, *a, **o),
    )
    for query in ("rocket", "cat", "camera", "grass"):
        assert there.search(query, 1) == here.search(query, 1)
    assert max(limit for limit in asked if limit) > 1


@with_milvus
@pytest.mark.parametrize(
    "options", [{"dedupe": True}, {"exact": True}, {"explain": True}, {"path": "*"}, {"caption": "a"}]
)
def test_what_milvus_lacks_is_refused(pair, options):
    with pytest.raises(BadInputError, match="in Milvus"):
        pair[1].search("cat", 3, **options)


@with_milvus
def test_captions_and_raw_vectors_are_refused(pair):
    with pytest.raises(BadInputError, match="captions are not exported"):
        pair[1].assign("x.png")
    with pytest.raises(BadInputError, match="after its FENet"):
        _ = pair[1].frozen
    with pytest.raises(BadInputError, match="k must be at least 1"):
        pair[1].search("cat", 0)


@with_milvus
def test_fields_are_those_of_the_table(pair):
    here, there = pair
    stored = {
        row["image_id"]: row
        for row in here.index.images.read(["image_id", "boxes", "whole", "quality", "width"]).to_pylist()
    }
    rows = there.index.connection.rows(
        "demo", "region >= 0", ["region", "image_id", "box", "whole", "quality", "width", "vector"]
    )
    rows.sort(key=lambda row: row["region"])
    vectors = np.array([row["vector"] for row in rows], np.float32)
    assert np.array_equal(vectors, here.index.regions.vectors(0, len(here.index.regions)))
    seen: dict[str, list] = {}
    for row in rows:
        seen.setdefault(row["image_id"], []).append((list(row["box"]), row["whole"], row["quality"]))
        assert row["width"] == stored[row["image_id"]]["width"]
    for image_id, own in seen.items():
        row = stored[image_id]
        assert own == list(zip(row["boxes"], row["whole"], row["quality"], strict=True))


@with_milvus
def test_an_interrupted_export_is_no_index_and_the_next_one_starts_over(capsys, tmp_path, toy, toy_site):
    write(tmp_path / "in", [f"i{at}" for at in range(40)])
    run(tmp_path / "in", tmp_path / "out", CHEAP)
    place = f"{tmp_path / 'm.db'}#photos"
    script = (
        "import os, sys\nfrom felga.milvus import filling\nfrom felga.milvus.connection import Place\n"
        "from felga.store.stored import StoredIndex\nfilling.IMAGES = 4\n"
        f"filling.fill(StoredIndex.open({str(tmp_path / 'out')!r}), Place.parse({place!r}),"
        " lambda stage, done, total: os._exit(9) if done > total // 2 else None)\n"
    )
    env = {**os.environ, "PYTHONPATH": f"{toy_site}:{os.getcwd()}"}
    assert os.spawnve(os.P_WAIT, sys.executable, [sys.executable, "-c", script], env) == 9
    wait_for_the_server(tmp_path)
    with pytest.raises(NotFoundError, match="holds no finished index"):
        connect(place)
    count = fill(tmp_path / "out", place)
    with connect(place) as there, Engine.open(tmp_path / "out", device="cpu") as here:
        assert there.index.connection.count() == count == len(here.index.regions)
        assert there.search("boat", 5) == here.search("boat", 5)
    with pytest.raises(BadInputError, match="holds an index already"):
        fill(tmp_path / "out", place)


def wait_for_the_server(folder):
    """An embedded server outlives for a moment the process that started it."""
    time.sleep(1)


@with_milvus
def test_on_the_command_line(capsys, believed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = "milvus:new.db#photos"
    _, err = call(capsys, "export", believed, "new.db#photos", "--to", "milvus")
    assert place in err
    words = ["search", "rocket", "-k", 3, "--format", "json"]
    there, _ = call(capsys, *words, "--index", place)
    here, _ = call(capsys, *words, "--index", believed)
    assert there.replace(place, "X") == here.replace(str(believed), "X")
    monkeypatch.setenv("FELGA_INDEX", place)
    assert call(capsys, *words)[0] == there
    _, err = call(capsys, "search", "submarine", "--index", place)
    assert "no match" in err
    _, err = call(capsys, "search", "cat", "--index", "milvus:new.db#other", code=3)
    assert "holds no finished index" in err
    assert err.count("\n") == 1
    _, err = call(capsys, "search", "cat", "--index", "milvus:http://127.0.0.1:1", code=3)
    assert "no Milvus answers" in err
    _, err = call(capsys, "export", believed, "x.db", "--to", "milvus", "--root", ".", code=2)
    assert "--root" in err


@with_milvus
def test_a_collection_that_felga_has_not_made_is_left_alone(believed, tmp_path):
    connection = Connection(Place(str(tmp_path / "m.db"), "mine"), new=True)
    connection.call("create_collection", "mine", dimension=4)
    with pytest.raises(BadInputError, match="has not made"):
        fill(believed, f"{tmp_path / 'm.db'}#mine")
    assert connection.call("has_collection", "mine")
    connection.close()


@with_milvus
def test_what_was_changed_in_milvus_is_noticed(believed, tmp_path):
    place = f"{tmp_path / 'm.db'}#demo"
    fill(believed, place)
    connection = Connection(Place.parse(place))
    about = connection.rows("demo_about", 'part in ["fenet/1"]', ["part", "chunks", "data", "unused"])
    assert about[0]["chunks"] > 1, f"the FENet has more than {CHUNK} bytes"
    connection.call("upsert", "demo_about", [{**about[0], "data": "AAAA"}])
    with connect(place) as there, pytest.raises(BadIndexError, match="FENet .* was changed"):
        there.index.fenet  # noqa: B018
    connection.call("delete", "demo", filter="owner == 3")
    with connect(place) as there, pytest.raises(BadIndexError, match="lacks regions"):
        there._fetch([2, 3])
    connection.call("delete", "demo_about", filter='part == "manifest/0"')
    with pytest.raises(NotFoundError, match="no finished index"):
        connect(place)
    connection.close()


@pytest.mark.parametrize(
    ("text", "uri", "name"),
    [
        ("milvus:http://h:19530", "http://h:19530", "felga"),
        ("https://h/db#a_1", "https://h/db", "a_1"),
        ("milvus:/tmp/odd name.db#x", "/tmp/odd name.db", "x"),
    ],
)
def test_places(text, uri, name):
    assert Place.parse(text) == Place(uri, name)
    assert Place.parse(str(Place.parse(text))) == Place.parse(text)


@pytest.mark.parametrize(
    "text",
    ["milvus:", "milvus:#a", "m.sqlite", "ftp://h", "a.db#", "a.db#é", "a.db#1", "http://u:secret@h:1/#x-y"],
)
def test_what_is_no_place(text):
    with pytest.raises(BadInputError, match="expected milvus:http") as error:
        Place.parse(text)
    assert "secret" not in str(error.value)


@with_milvus
def test_a_missing_file_is_not_made(tmp_path):
    with pytest.raises(NotFoundError, match="does not exist"):
        connect(tmp_path / "no.db")
    assert not (tmp_path / "no.db").exists()


def test_without_a_package_the_command_that_installs_it_is_named(believed, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(MissingError, match=r"pip install 'felga\[milvus\]'"):
        fill(believed, tmp_path / "m.db")


@with_milvus
def test_without_the_embedded_server_its_command_is_named(believed, tmp_path, monkeypatch):
    """The one that pymilvus names would overwrite faiss-gpu."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "milvus_lite" else find(name)
    )
    with pytest.raises(MissingError, match="pip install --no-deps milvus-lite"):
        fill(believed, tmp_path / "m.db")
