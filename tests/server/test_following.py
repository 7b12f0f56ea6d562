"""An update of the index is followed, whatever is asked meanwhile; a bad one is not."""

from __future__ import annotations

import logging
import threading

import pytest
from starlette.testclient import TestClient

from felga.server.following import Following
from felga.server.service import Service
from felga.server.web import make_app
from felga.store.manifest import NAME
from tests.made import run, toy_module, write
from tests.server.ports import BASE, wait_for

NEVER = 3600.0  # seconds: only refresh() looks


@pytest.fixture
def made(tmp_path, toy):
    folder, out = tmp_path / "corpus", tmp_path / "index"
    write(folder, [f"p{i}" for i in range(6)])
    run(folder, out)
    return folder, out


def ids(web):
    answer = web.get("/api/search", params={"q": "anything", "k": 99}).json()
    return answer["state"], {hit["image_id"] for hit in answer["answers"][0]["hits"]}


def test_a_sync_is_followed_without_being_told(made):
    folder, out = made
    with Service(out, device="cpu", every=0.05) as service:
        web = TestClient(make_app(service), base_url=BASE)
        state, before = ids(web)
        assert (state, len(before)) == (1, 6)
        write(folder, ["new"])
        (folder / "p0.png").unlink()
        (folder / "p0.txt").unlink()
        run(folder, out)
        wait_for(lambda: web.get("/healthz").json()["state"] == 2)
        assert ids(web) == (2, before - {"p0.png"} | {"new.png"})
        assert web.get("/api/images/new.png").status_code == 200
        assert web.get("/api/images/p0.png").status_code == 404
        assert web.get("/api/info").json()["images"] == 6


def test_requests_in_flight_finish_on_the_state_they_began_with(made):
    folder, out = made
    with Following(out, device="cpu", every=NEVER) as following:
        with following.state() as old:
            write(folder, ["new"])
            run(folder, out)
            following.refresh()
            assert following.current.number == 2
            assert not old.engine.index._lease.close.alive or old.users == 1
            assert old.engine.index._lease.close.alive, "closed while in use"
            assert len(old.engine.search("x", 99)) == 6
            with following.state() as new:
                assert len(new.engine.search("x", 99)) == 7
        assert not old.engine.index._lease.close.alive, "kept open when done"
        assert following.current.engine.index._lease.close.alive
    assert not following.current.engine.index._lease.close.alive


def test_the_encoder_is_not_loaded_again(made):
    folder, out = made
    with Following(out, device="cpu", every=NEVER) as following:
        encoder = following.current.engine.encoder
        write(folder, ["new"])
        run(folder, out)
        following.refresh()
        assert following.current.engine.encoder is encoder


def test_an_update_that_cannot_be_opened_is_said_and_not_served(made, caplog):
    _, out = made
    with Service(out, device="cpu", every=NEVER) as service, caplog.at_level(logging.WARNING, "felga.server"):
        following = service.following
        web = TestClient(make_app(service), base_url=BASE)
        before = ids(web)
        sound = (out / NAME).read_bytes()
        (out / NAME).rename(out / "kept")
        (out / NAME).write_bytes(b"{}")
        for _ in range(3):
            following.refresh()
        health = web.get("/healthz").json()
        assert (health["status"], health["state"]) == ("stale", 1)
        assert health["error"].startswith("the index was updated, but cannot be opened: ")
        assert str(out) not in health["error"]
        assert caplog.text.count("cannot be opened") == 1, "said once, not at every look"
        assert ids(web) == before
        assert "felga_index_stale 1.0" in web.get("/metrics").text
        (out / NAME).unlink()
        following.refresh()
        assert web.get("/healthz").json()["status"] == "stale"
        (out / NAME).write_bytes(sound)
        following.refresh()
        assert web.get("/healthz").json() == {"status": "ok", "state": 2, "error": None}


def test_a_bug_while_opening_keeps_the_old_state(made, caplog, monkeypatch):
    folder, out = made
    with Following(out, device="cpu", every=NEVER) as following:
        write(folder, ["new"])
        run(folder, out)
        monkeypatch.setattr(toy_module().Toy, "encode_texts", lambda *_: 1 / 0)
        with caplog.at_level(logging.ERROR, "felga.server"):
            following.refresh()
        assert "ZeroDivisionError" in caplog.text
        assert following.problem.endswith("see the log of the server")
        assert following.current.number == 1


def test_searches_go_on_while_the_index_is_updated_again_and_again(made):
    folder, out = made
    with Service(out, device="cpu", every=0.02) as service:
        web = TestClient(make_app(service), base_url=BASE)
        wrong, stop = [], threading.Event()

        def search():
            while not stop.is_set():
                answer = web.get("/api/search", params={"q": "x", "k": 99})
                count = len(answer.json()["answers"][0]["hits"]) if answer.status_code == 200 else answer.text
                if count != 5 + answer.json().get("state", 0):
                    wrong.append(count)

        threads = [threading.Thread(target=search) for _ in range(3)]
        for thread in threads:
            thread.start()
        for round_ in range(4):
            write(folder, [f"new{round_}"])
            run(folder, out)
            wait_for(lambda wanted=round_ + 2: service.following.current.number == wanted)
        stop.set()
        for thread in threads:
            thread.join()
        assert wrong == []
