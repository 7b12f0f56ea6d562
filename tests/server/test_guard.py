"""Who may ask, how much may come in, and what no answer may tell."""

from __future__ import annotations

import http.client
import logging
import socket

import pytest
from starlette.testclient import TestClient

from felga.server.guard import POLICY, is_loopback
from felga.server.web import STATUS, make_app
from tests.server.ports import BASE

SECRET = "correct horse"


@pytest.fixture
def locked(service):
    with TestClient(make_app(service, host="0.0.0.0", token=SECRET), base_url=BASE) as client:
        yield client


def test_the_token_opens_the_api_and_the_page_is_open(locked):
    for path in ("/", "/app.js", "/frame.js", "/server.js", "/style.css", "/icon.svg", "/healthz"):
        assert locked.get(path).status_code == 200
    for path in (
        "/api/info",
        "/api/search?q=cat",
        "/api/images/scene-01.png",
        "/metrics",
        "/api/openapi.json",
    ):
        for wrong in ("", "Bearer wrong", f"bearer {SECRET}", SECRET, "Bearer caf\xe9".encode("latin-1")):
            refused = locked.get(path, headers={"authorization": wrong})
            assert refused.status_code == 401, (path, wrong)
            assert refused.headers["www-authenticate"] == "Bearer"
            assert refused.json() == {
                "error": "the token is missing or wrong: send it as Authorization: Bearer TOKEN"
            }
        assert locked.get(path, headers={"authorization": f"Bearer {SECRET}"}).status_code == 200


def test_tokens_are_compared_in_constant_time(locked, monkeypatch):
    import hmac

    compared = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))
    locked.get("/api/info", headers={"authorization": "Bearer x"})
    assert compared == [(b"Bearer x", b"Bearer correct horse")]


@pytest.mark.parametrize(
    ("bound", "name", "answers"),
    [
        ("127.0.0.1", "127.0.0.1:8000", True),
        ("127.0.0.1", "localhost:9", True),
        ("127.0.0.1", "LOCALHOST.", True),
        ("127.0.0.1", "[::1]:8000", True),
        ("127.0.0.1", "evil.example:8000", False),
        ("127.0.0.1", "127.0.0.1.evil.example", False),
        ("127.0.0.1", "192.168.0.9", False),
        ("127.0.0.1", "", False),
        ("192.168.0.9", "192.168.0.9:80", True),
        ("192.168.0.9", "evil.example", False),
        ("photos.lan", "photos.lan:8000", True),
        ("0.0.0.0", "192.168.0.9:8000", True),
        ("0.0.0.0", f"{socket.gethostname()}:8000", True),
        ("0.0.0.0", "evil.example", False),
        ("::", "[fe80::1]:80", True),
    ],
)
def test_it_answers_to_its_own_names_only(service, bound, name, answers):
    with TestClient(make_app(service, host=bound), base_url=BASE) as client:
        answer = client.get("/healthz", headers={"host": name})
    assert answer.status_code == (200 if answers else 421)
    if not answers:
        assert "does not answer to the host name" in answer.json()["error"]


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.9.9.9", True), ("0.0.0.0", False),
     ("::", False), ("192.168.0.9", False), ("photos.lan", False), ("localhost.evil.example", False)],
)  # fmt: skip
def test_which_addresses_only_this_machine_reaches(host, local):
    assert is_loopback(host) is local


def test_every_answer_is_locked_down(web):
    for path in (
        "/",
        "/app.js",
        "/frame.js",
        "/server.js",
        "/api/info",
        "/api/images/scene-01.png",
        "/api/none",
        "/healthz",
        "/metrics",
    ):
        headers = web.get(path, headers={"origin": "http://evil.example"}).headers
        assert headers["content-security-policy"] == POLICY
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert not [name for name in headers if name.startswith("access-control")]
    assert "unsafe" not in POLICY
    asks = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    preflight = web.options("/api/search", headers=asks)
    assert not [name for name in preflight.headers if name.startswith("access-control")]


def test_the_page_has_neither_inline_scripts_nor_inline_styles(web):
    page = web.get("/").text
    assert "<style" not in page
    assert " style=" not in page
    assert " onclick" not in page
    assert page.count("<script") == page.count('<script src="app.js"') == 1
    assert "//" not in page.replace("<!doctype html>", ""), "something comes from elsewhere"


def ask(address, length, chunks, kind="image/png", path="/api/assign"):
    """A request whose body need not be what its headers say; the status."""
    host, port = address.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    connection.putrequest("POST", path)
    connection.putheader("Content-Type", kind)
    connection.putheader(
        *(("Transfer-Encoding", "chunked") if length is None else ("Content-Length", length))
    )
    connection.endheaders()
    try:
        for chunk in chunks:
            connection.send(b"%x\r\n%s\r\n" % (len(chunk), chunk) if length is None else chunk)
    except OSError:  # it hung up, as it should
        pass
    return connection.getresponse().status


def test_bodies_are_bounded_by_what_arrives_not_by_what_is_said(address):
    assert ask(address, str(2**40), []) == 413
    megabyte = bytes(2**20)
    assert ask(address, None, [megabyte] * 33 + [b""]) == 413
    assert ask(address, None, [megabyte] * 2 + [b""], kind="application/json", path="/api/search") == 413
    assert ask(address, None, [b"abc", b""]) == 400


def test_no_answer_names_a_path_of_this_machine(web, service, demo):
    folder, root = str(demo[0]), str(demo[1].folder)
    answers = [
        web.get("/api/search", params={"q": "cat", "k": 16}).text,
        web.get("/api/info").text,
        web.get("/metrics").text,
        service.following.public(
            f"{folder}/texts.lance is damaged; {root}/a.png and /etc/ssl/private are gone"
        ),
    ]
    for text in answers:
        assert folder not in text
        assert root not in text
        assert "/etc" not in text
    assert answers[-1] == "texts.lance is damaged; a.png and private are gone"


def test_each_error_has_its_status_and_is_one_sentence(web, monkeypatch):
    from felga.client import ERRORS

    for kind, status in STATUS.items():

        def fails(*_, error=kind, **__):
            raise error("the index\n is not well")

        with monkeypatch.context() as patch:
            patch.setattr("felga.engine.Engine.unknown_words", fails)
            answer = web.get("/api/unknown?q=cat")
        assert (answer.status_code, answer.json()) == (status, {"error": "the index is not well"})
        assert ERRORS.get(status, STATUS_400) is kind


STATUS_400 = next(kind for kind, status in STATUS.items() if status == 400)


def test_a_bug_is_500_and_its_traceback_is_in_the_log_only(web, monkeypatch, caplog):
    def broken(*_, **__):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("felga.engine.Engine.unknown_words", broken)
    for asked in ("/api/unknown?q=cat", "/api/search?q=cat"):
        caplog.clear()
        with caplog.at_level(logging.ERROR, "felga.server"):
            answer = web.get(asked)
        assert (answer.status_code, answer.json()) == (500, {"error": "the server failed: its log says how"})
        assert "ZeroDivisionError: ours" in caplog.text
        assert "Traceback" in caplog.text


def test_websockets_are_not_spoken(service):
    from starlette.websockets import WebSocketDisconnect

    with TestClient(make_app(service), base_url=BASE) as client, pytest.raises(WebSocketDisconnect):
        client.websocket_connect("/api/search").__enter__()
