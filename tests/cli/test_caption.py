"""``felga caption``: train, run, stop, and what it says of bad input."""

from __future__ import annotations

import json
import signal

import pytest
from PIL import Image

from tests.captions.made import noise_images
from tests.cli.calls import call, start


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    return noise_images(tmp_path_factory.mktemp("noise"))


@pytest.fixture(scope="module")
def model(noise, tmp_path_factory):
    """A captioner of one epoch, trained by the command in a process that was interrupted before."""
    out = tmp_path_factory.mktemp("caption") / "mine.safetensors"
    words = ["caption", "train", noise / "captions.json", noise / "images", "-o", out, "--device", "cpu"]
    process = start(*map(str, words), "--epochs", "400")
    state = out.with_name(f"{out.name}.training") / "state.safetensors"
    while not state.exists():
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert err.endswith(b"felga: interrupted: the same command with --resume goes on\n")
    assert not out.exists()
    return out, words


def test_train_says_how_to_go_on(model, capsys):
    out, words = model
    _, err = call(capsys, *words, "--epochs", 1)
    assert f"felga caption run IMAGE --model {out}" in err
    assert not out.with_name(f"{out.name}.training").exists()


def test_captions_are_said_to_be_generated(model, noise, capsys):
    out, words = model
    if not out.exists():
        call(capsys, *words, "--epochs", 1)
    images = [noise / "images" / f"{at}.png" for at in (0, 1)]
    table, _ = call(capsys, "caption", "run", *images, "--model", out, "--device", "cpu")
    lines = table.splitlines()
    assert [line.partition(": ")[0] for line in lines] == list(map(str, images))
    assert all(line.endswith("(generated)") for line in lines)
    options = ["--model", out, "--beam", 2, "--format", "json", "--device", "cpu"]
    found = json.loads(call(capsys, "caption", "run", *images, *options)[0])
    assert [row["path"] for row in found] == list(map(str, images))
    for row in found:
        assert set(row) == {"path", "caption", "score", "generated", "model", "beam"}
        assert row["generated"] is True
        assert row["score"] < 0


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"--model": "gone.safetensors"}, 3, "gone.safetensors does not exist"),
        ({"--model": "image.png"}, 2, "damaged or not a safetensors file"),
        ({"--beam": "0"}, 2, "beam must be"),
        ({"image": "gone.png"}, 2, "gone.png"),
        ({"image": "empty.png"}, 2, "empty.png"),
        ({"--words": "nowhere"}, 5, "words' vectors are missing"),
    ],
)
def test_bad_input_is_one_sentence(model, tmp_path, monkeypatch, capsys, change, code, message):
    out, words = model
    if not out.exists():
        call(capsys, *words, "--epochs", 1)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 48), "red").save("image.png")
    (tmp_path / "empty.png").touch()
    options = {"--model": out, "--device": "cpu"} | {k: v for k, v in change.items() if k != "image"}
    pairs = [word for option in options.items() for word in option]
    _, err = call(capsys, "caption", "run", change.get("image", "image.png"), *pairs, code=code)
    assert message in err
    assert err.count("\n") == 1
