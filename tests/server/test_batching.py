"""Requests that come together get what each would get alone."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from felga.errors import BadInputError, BusyError
from felga.server import batching
from felga.server.batching import Batcher

WORDS = ["cat", "a rocket", "coffee", "astronaut", "a man with a camera", "motorcycle", "horse", "zerba"]


@pytest.fixture
def slow(service, monkeypatch):
    """The engine waits at its first question until it is let go: (batcher, go, sizes)."""
    engine = service.following.current.engine
    entered, go, real, sizes = threading.Event(), threading.Event(), engine.search_all, []

    def search_all(queries, *args, **options):
        entered.set()
        assert go.wait(30)
        return real(queries, *args, **options)

    monkeypatch.setattr(engine, "search_all", search_all)
    batcher = Batcher(service.following, sizes.append)
    batcher.entered = entered
    yield batcher, go, sizes
    go.set()
    batcher.close()


def test_concurrent_requests_equal_sequential_ones(web):
    asked = [
        {"q": [word], "k": k, "regions": regions} for word in WORDS for k in (2, 7) for regions in (1, 3)
    ]
    wanted = [web.get("/api/search", params=params).json() for params in asked]
    for _ in range(3):
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda params: web.get("/api/search", params=params).json(), asked))
        assert found == wanted


def test_what_gathers_is_answered_together_and_to_the_bit(slow, web):
    batcher, go, sizes = slow
    go.set()
    alone = [batcher.ask([word], {"k": 4}).result(30) for word in WORDS]
    go.clear()
    batcher.entered.clear()
    first = batcher.ask(["dog"], {"k": 4})
    assert batcher.entered.wait(30)
    sizes.clear()
    asked = [batcher.ask([word], {"k": 4}) for word in WORDS]
    other = batcher.ask(["cat", "coffee"], {"k": 1})
    go.set()
    assert [future.result(30) for future in asked] == alone
    assert first.result(30).answers[0].query == "dog"
    assert [answer.hits[0] for answer in other.result(30).answers] == [
        alone[0].answers[0].hits[0], alone[2].answers[0].hits[0]
    ]  # fmt: skip
    assert sizes == [8, 2], "one pass for those that ask alike, one for the others"


def test_one_bad_request_does_not_spoil_the_others(slow):
    batcher, go, _ = slow
    first = batcher.ask(["dog"], {"k": 4})
    assert batcher.entered.wait(30)
    good, bad, late = (batcher.ask([word], {"k": 4}) for word in ("cat", " ", "coffee"))
    go.set()
    assert len(first.result(30).answers[0].hits) == 4
    assert good.result(30).answers[0].query == "cat"
    with pytest.raises(BadInputError, match="a query must be a word or a phrase"):
        bad.result(30)
    assert late.result(30).answers[0].query == "coffee"


def test_the_queue_is_bounded_and_emptied_at_the_end(slow, monkeypatch):
    monkeypatch.setattr(batching, "MOST_WAITING", 3)
    _, go, _ = slow
    batcher = Batcher(slow[0]._following)
    first = batcher.ask(["dog"], {"k": 1})
    assert slow[0].entered.wait(30)
    waiting = [batcher.ask([word], {"k": 1}) for word in WORDS[:3]]
    with pytest.raises(BusyError, match="3 searches wait already: try again in a moment"):
        batcher.ask(["cow"], {"k": 1})
    go.set()
    batcher.close()
    assert all(future.done() for future in [first, *waiting])
