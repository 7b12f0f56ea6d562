"""An index before its FENet is the index that has none."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

from felga import Engine
from felga.errors import BadInputError, StorageError
from felga.store import frozen
from felga.store.frozen import FrozenIndex
from felga.store.stored import StoredIndex


@pytest.fixture(scope="module")
def pair(believed, demo):
    """Engines: of the index before its FENet, and of the same corpus indexed without one."""
    with (
        Engine.open(believed, device="cpu") as after,
        Engine.open(demo[0], device="cpu") as plain,
    ):
        yield after.frozen, plain


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"regions": 3, "quality": False, "owner": "max"},
        {"whole": False},
        {"explain": True, "dedupe": True},
        {"min_confidence": 0.3},
    ],
    ids=str,
)
def test_words_get_the_hits_and_scores_of_an_index_without_a_fenet(pair, how):
    queries = ["cat", "a rocket", "zerba", "cat AND 2:rocket", "cat NOT motorcycle", "coffee + cat"]
    before, plain = pair
    assert before.search_all(queries, 9, **how) == plain.search_all(queries, 9, **how)


def test_images_get_them_too(pair, demo):
    path, box = demo[1].folder / "scene-03.png", demo[1].boxes["scene-03.png"]["rocket"]
    before, plain = pair
    assert before.search_image(path, box, 5) == plain.search_image(path, box, 5)
    assert before.assign(path, box, 5) == plain.assign(path, box, 5)


def test_the_fenet_makes_a_difference(believed):
    with Engine.open(believed, device="cpu") as engine:
        after, before = engine.search("rocket", 9), engine.frozen.search("rocket", 9)
        assert [hit.score for hit in after] != [hit.score for hit in before]
        assert after[0].confidence is not None
        assert before[0].confidence is None
        assert (engine.measured, engine.frozen.measured) == (True, False)
        assert engine.frozen is engine.frozen


def test_vectors_are_those_of_the_tables_and_the_files_have_no_name(believed, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with StoredIndex.open(believed, device="cpu") as index:
        before = FrozenIndex(index)
        for searcher, table in ((before.regions, index.images), (before.keywords, index.texts)):
            raw, _ = table.raw(0, len(table))
            np.testing.assert_allclose(searcher.vectors(0, len(searcher)), raw, rtol=2**-11, atol=1e-7)
        assert list(tmp_path.iterdir()) == []
        before.close()
        assert index._lease.close.alive, "closing it leaves the index open"


def test_an_index_without_a_fenet_has_no_before(demo):
    with Engine.open(demo[0], device="cpu") as engine:
        with pytest.raises(BadInputError, match=r"has no FENet: it answers by its encoder alone"):
            _ = engine.frozen
        assert engine.search("cat", 1)


def test_no_room_for_the_files_is_one_sentence(believed, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("Error: 'ret == (size)' failed: write error: No space left on device")

    monkeypatch.setattr(frozen, "build_pieces", full)
    with Engine.open(believed, device="cpu") as engine:
        with pytest.raises(StorageError, match="cannot be written: the disk is full"):
            _ = engine.frozen
        monkeypatch.undo()
        assert engine.frozen.search("cat", 1), "tried again"


def test_searches_go_on_while_it_is_made(believed, monkeypatch):
    entered, go, real = threading.Event(), threading.Event(), frozen.build_pieces

    def slow(*args, **more):
        entered.set()
        assert go.wait(30)
        return real(*args, **more)

    monkeypatch.setattr(frozen, "build_pieces", slow)
    with Engine.open(believed, device="cpu") as engine:
        found: list[Engine] = []
        makers = [threading.Thread(target=lambda: found.append(engine.frozen)) for _ in range(3)]
        for maker in makers:
            maker.start()
        assert entered.wait(30)
        assert engine.search("cat", 1)
        assert found == []
        go.set()
        for maker in makers:
            maker.join()
        assert len(set(map(id, found))) == 1


def test_nothing_is_written_into_the_index(believed):
    with Engine.open(believed, device="cpu") as engine:
        names = sorted(path.name for path in Path(believed).rglob("*"))
        _ = engine.frozen
        assert sorted(path.name for path in Path(believed).rglob("*")) == names
