"""`felga serve` as a process, and the commands that ask it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import urllib.request

import pytest

from tests.cli.calls import call, start

TOKEN = "correct horse"


@pytest.fixture(scope="module")
def server(demo):
    """A server started as a command, on a port of its own: (process, URL)."""
    process = start(
        "serve", "--index", str(demo[0]), "--port", "0", "--device", "cpu",
        env={**os.environ, "FELGA_TOKEN": TOKEN},
    )  # fmt: skip
    line = process.stderr.readline().decode()
    found = re.fullmatch(r"16 images at (http://[\d.]+:\d+)/ \(add #token=TOKEN .*\); Ctrl-C ends it\n", line)
    assert found, line + process.stderr.read().decode()
    yield process, found[1]
    process.kill()
    process.wait()


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setenv("FELGA_TOKEN", TOKEN)


def test_the_page_and_the_api_are_there(server):
    _, url = server
    with urllib.request.urlopen(url) as page:
        assert b"<title>felga</title>" in page.read()
    asked = urllib.request.Request(f"{url}/api/info", headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(asked) as answer:
        assert json.load(answer)["images"] == 16
        assert "server" not in answer.headers


def test_search_and_assign_by_a_server_print_what_the_index_gives(server, demo, capsys, known):
    _, url = server
    image = demo[1].folder / "scene-03.png"
    for words in (
        ["search", "rocket", "zerba", "-k", 3, "--min-confidence", 0, "--format", "json"],
        ["search", "--image", image, "--box", "10,20,300,300", "-k", 3, "--format", "json"],
        ["assign", image, "-k", 2, "--format", "json"],
    ):
        wanted, said = call(capsys, *words, "--index", demo[0], "--device", "cpu")
        got, also = call(capsys, *words, "--server", url)
        assert also == said
        local = got.replace(json.dumps(url), json.dumps(str(demo[0])))
        local = re.sub(r'"path": "', f'"path": "{demo[1].folder}/', local)
        assert json.loads(local) == json.loads(wanted)


def test_an_image_of_the_server_by_its_id(server, capsys, known):
    out, _ = call(capsys, "assign", "scene-03.png", "--server", server[1], "-k", 1, "--format", "json")
    assert json.loads(out)["hits"][0]["rank"] == 1
    _, err = call(capsys, "assign", "nobody.png", "--server", server[1], code=3)
    assert err == "felga: the index has no image 'nobody.png'\n"


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["search", "cat", "--index", "x"], 2, "--server answers from its own index"),
        (["search", "cat", "--save-viz", "x.png"], 2, "the images are on the server"),
        (["assign", "scene-03.png", "--html", "x.html"], 2, "the images are on the server"),
    ],
)
def test_options_that_contradict_a_server(server, capsys, known, words, code, sentence):
    _, err = call(capsys, *words, "--server", server[1], code=code)
    assert sentence in err
    assert err.count("\n") == 1


def test_a_wrong_token_and_nobody_there(server, capsys, monkeypatch):
    monkeypatch.setenv("FELGA_TOKEN", "wrong")
    assert "the token is missing or wrong" in call(capsys, "search", "cat", "--server", server[1], code=2)[1]
    assert "does not answer" in call(capsys, "search", "cat", "--server", "http://127.0.0.1:9", code=3)[1]


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--host", "0.0.0.0"], 2, "lets other machines in: give a secret with --token or $FELGA_TOKEN"),
        (["--host", "::"], 2, "lets other machines in"),
        (["--token", " "], 2, "a token must be printable ASCII characters, and not blank"),
        (["--index", "gone"], 3, "run `felga index"),
    ],
)  # fmt: skip
def test_what_it_refuses(capsys, monkeypatch, words, code, sentence):
    monkeypatch.delenv("FELGA_TOKEN", raising=False)
    out, err = call(capsys, "serve", *words, code=code)
    assert out == ""
    assert sentence in err
    assert err.count("\n") == 1


def test_a_port_that_is_taken(capsys, demo):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        _, err = call(capsys, "serve", "--index", demo[0], "--port", port, code=2)
    assert (
        err
        == f"felga: cannot listen on 127.0.0.1:{port} (Address already in use): name another with --port\n"
    )


def test_an_address_that_is_none(capsys, demo):
    _, err = call(capsys, "serve", "--index", demo[0], "--host", "256.0.0.1", "--token", "x", code=2)
    assert err.startswith("felga: cannot listen on 256.0.0.1:8000 (")


def test_without_its_packages(capsys, demo, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    real = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("felga.cli.serve.find_spec", lambda name: None if name == "uvicorn" else real(name))
    _, err = call(capsys, "serve", "--index", demo[0], code=5)
    assert err == "felga: felga serve needs uvicorn: pip install 'felga[serve]'\n"


def test_ctrl_c_ends_it_with_130_and_sigterm_quietly(demo):
    for sent, code in ((signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)):
        process = start("serve", "--index", str(demo[0]), "--port", "0", "--device", "cpu")
        assert b"16 images at http://" in process.stderr.readline()
        process.send_signal(sent)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out) == (code, b"")
        assert b"Traceback" not in err
