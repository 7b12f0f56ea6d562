"""lavis: the pipe and the worker's death by a toy model; the real one where FELGA_LAVIS_PYTHON names it."""

from __future__ import annotations

import importlib.util
import io
import os
import signal
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from felga.encoders import lavis_worker
from felga.encoders.lavis import VARIABLE, lavis
from felga.errors import BadInputError, MissingError, NotFoundError
from felga.models.caches import reading
from felga.testing.encoder import BOXES, IMAGES, boxes

from ..models.homes import move_in
from .contract import LazyContract

REAL = os.environ.get(VARIABLE, "")
NAME = "blip_feature_extractor/base"

TOY = """
import importlib.util, os, sys
import numpy as np
spec = importlib.util.spec_from_file_location("worker", {worker!r})
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)

def open_model(header):
    if header["type"] == "gone":
        raise worker.Refused("missing", "no weights of that name")
    if header["type"] == "bad":
        raise worker.Refused("input", "that is no checkpoint")
    path = header["checkpoint"]
    seed = int(open(path).read()) if path else 0
    weights = np.random.default_rng(seed).normal(size=(3 * 8 * 8, 6)).astype(np.float32)

    def encode(pixels, texts):
        if pixels is not None:
            return pixels.reshape(len(pixels), -1) @ weights
        if "die" in texts:
            print("out of memory, or so", file=sys.stderr, flush=True)
            os._exit(9)
        if "fail" in texts:
            raise ZeroDivisionError("one of mine")
        print("LAVIS prints where it should not")
        counts = np.zeros((len(texts), len(weights)), np.float32)
        for row, text in zip(counts, texts):
            for i, letter in enumerate(text.encode()[:150]):
                row[(7 * i + letter) % len(row)] += 1
        return counts @ weights

    return {{"dim": 6, "side": 8, "files": [path or __file__]}}, encode

stdout = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
worker.serve(sys.stdin.buffer, stdout, open_model)
"""


def toy_python(folder: Path) -> Path:
    """A stand-in for LAVIS's Python: whatever it is asked to run, it runs the toy worker."""
    script = folder / "toy.py"
    script.write_text(textwrap.dedent(TOY.format(worker=lavis_worker.__file__)))
    program = folder / "python"
    program.write_text(f"#!/bin/sh\nexec {sys.executable} -I {script}\n")
    program.chmod(0o755)
    return program


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lavis")
    for seed in (1, 2):
        (folder / f"{seed}.pth").write_text(str(seed))
    program = toy_python(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(program))
        yield folder


@pytest.fixture
def encoder(toy):
    own = lavis(NAME, device="cpu")
    yield own
    own.close()


class TestThePipe(LazyContract):
    @pytest.fixture(scope="class")
    @classmethod
    def make(cls, toy):
        return lambda seed: lavis(f"{NAME}@{toy}/{seed + 1}.pth", device="cpu", batch_size=2)


def test_the_worker_starts_on_first_use(encoder):
    assert encoder._worker is None
    assert encoder.dim == 6
    assert encoder.preprocessing.size == (8, 8)
    assert encoder._worker is not None


def test_a_killed_worker_is_reported_and_replaced(encoder):
    before = encoder.encode_texts(["bus"])
    os.kill(encoder._worker.pid, signal.SIGKILL)
    with pytest.raises(MissingError, match=r"ended with -9.*pip install .*salesforce-lavis"):
        encoder.encode_texts(["bus"])
    np.testing.assert_array_equal(encoder.encode_texts(["bus"]), before)


def test_a_worker_that_dies_leaves_its_last_words(encoder):
    with pytest.raises(MissingError, match=r"ended with 9 \(out of memory, or so\)") as caught:
        encoder.encode_texts(["bus", "die"])
    assert "\n" not in str(caught.value)


def test_a_bug_of_the_worker_keeps_its_trace(encoder):
    with pytest.raises(RuntimeError, match="ZeroDivisionError: one of mine") as caught:
        encoder.encode_texts(["fail"])
    assert "Traceback" in str(caught.value)
    assert encoder.encode_texts(["bus"]).shape == (1, 6)  # and it lives on


@pytest.mark.parametrize(("kind", "error"), [("gone", MissingError), ("bad", BadInputError)])
def test_what_the_worker_refuses(toy, kind, error):
    with pytest.raises(error):
        lavis(f"blip_feature_extractor/{kind}", device="cpu").encode_texts(["bus"])


def test_a_closed_encoder_ends_its_worker_and_starts_again(encoder):
    encoder.encode_texts(["bus"])
    process = encoder._worker._process
    encoder.close()
    assert process.returncode is not None
    assert encoder.encode_texts(["bus"]).shape == (1, 6)


def test_a_forgotten_encoder_ends_its_worker(toy):
    own = lavis(NAME, device="cpu")
    own.encode_texts(["bus"])
    process = own._worker._process
    del own
    assert process.returncode is not None


def test_threads_share_one_worker(encoder):
    expected = [np.concatenate(encoder.encode_regions(IMAGES, BOXES)), encoder.encode_texts(["bus"])]
    wrong = []

    def use():
        for _ in range(5):
            encoded = np.concatenate(encoder.encode_regions(IMAGES, BOXES)), encoder.encode_texts(["bus"])
            if any(not np.array_equal(a, b) for a, b in zip(encoded, expected, strict=True)):
                wrong.append(encoded)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_messages_survive_their_pipe():
    stream = io.BytesIO()
    lavis_worker.send(stream, {"op": "text", "texts": ["ü🚌"]}, b"\x00\n\xff")
    lavis_worker.send(stream, {"op": "open"})
    whole = stream.getvalue()
    stream.seek(0)
    header, data = lavis_worker.receive(stream)
    assert (header["texts"], data) == (["ü🚌"], b"\x00\n\xff")
    assert lavis_worker.receive(stream)[0]["op"] == "open"
    assert lavis_worker.receive(stream) is None
    for cut in range(1, len(whole)):  # an end inside a message is an end
        part = io.BytesIO(whole[:cut])
        while lavis_worker.receive(part) is not None:
            pass


def test_a_missing_environment_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(MissingError, match=rf"set {VARIABLE}: python3 -m venv .* salesforce-lavis==1.0.2"):
        lavis(NAME, device="cpu")
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(MissingError, match="there is no Python"):
        lavis(NAME, device="cpu")
    (tmp_path / "python").write_text("not a program")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "python"))
    with pytest.raises(MissingError, match="is not a Python that runs"):
        lavis(NAME, device="cpu").encode_texts(["bus"])


def test_a_python_without_lavis(monkeypatch):
    monkeypatch.setenv(VARIABLE, sys.executable)
    with pytest.raises(MissingError, match=r"lavis is not installed for .*; to install LAVIS: python3"):
        lavis(NAME, device="cpu").encode_texts(["bus"])


@pytest.mark.parametrize(
    ("weights", "error", "words"),
    [
        ("", BadInputError, "MODEL/TYPE"),
        ("blip_feature_extractor", BadInputError, "did you mean 'blip_feature_extractor/base'"),
        ("blip_feature_extracter/base", BadInputError, "did you mean 'blip_feature_extractor/base'"),
        ("albef/base", BadInputError, "MODEL/TYPE"),
        (f"{NAME}@/none.pth", NotFoundError, r"none\.pth"),
    ],
)
def test_wrong_names_are_refused(toy, weights, error, words):
    with pytest.raises(error, match=words):
        lavis(weights, device="cpu")


def test_roi_pooling_is_refused(toy):
    with pytest.raises(BadInputError, match="pooling='roi'"):
        lavis(NAME, device="cpu", pooling="roi")


def bench():
    path = Path(__file__).parents[2] / "checks" / "lavis.py"
    spec = importlib.util.spec_from_file_location("bench_lavis_worker", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("family", ["blip", "blip2"])
def test_keys_survive_the_round_trip(family):
    own = bench()
    state = own.model_of(family, 60).state_dict()
    there = own.to_lavis(state, family)
    assert any(key.startswith("visual_encoder.blocks.1.") for key in there)
    back = own.to_transformers(there, family)
    expected = {k: v for k, v in state.items() if not k.startswith("itm_head") and "position_ids" not in k}
    assert back.keys() == expected.keys()
    assert all(torch.equal(back[key], expected[key]) for key in expected)


@pytest.mark.skipif(not REAL, reason=f"{VARIABLE} names no environment with LAVIS")
class TestReal:
    @pytest.fixture(autouse=True)
    def real(self, monkeypatch):
        monkeypatch.setenv(VARIABLE, REAL)

    @pytest.mark.parametrize("family", ["blip", "blip2"])
    def test_it_agrees_with_transformers_both_ways(self, tmp_path, family):
        own = bench()
        encoded = own.tiny(family, tmp_path, own.find_python("test"))
        for way in ("transformers_to_lavis", "lavis_to_transformers"):
            assert encoded[way]["regions"] < 1e-3
            assert encoded[way]["texts"] < 1e-3
            assert encoded[way]["spread"] > 0.1

    def test_unusable_checkpoints_are_refused(self, tmp_path):
        own = bench()
        state = own.to_lavis(own.model_of("blip", len(own.VOCABULARY)).state_dict(), "blip")
        del state["text_encoder.encoder.layer.1.output.dense.bias"]
        file = own.save_file(state, own.VOCABULARY, tmp_path)
        with pytest.raises(BadInputError, match=r"lacks 'text_encoder.encoder.layer.1.output.dense.bias'"):
            lavis(f"{NAME}@{file}", device="cpu").encode_texts(["bus"])
        file.write_bytes(file.read_bytes()[:1000])
        with pytest.raises(BadInputError, match="truncated"):
            lavis(f"{NAME}@{file}", device="cpu").encode_texts(["bus"])
        with pytest.raises(BadInputError, match="no weights 'huge'; known: base"):
            lavis("blip_feature_extractor/huge", device="cpu").encode_texts(["bus"])
        with pytest.raises(MissingError, match="not in LAVIS's cache, and felga is offline"):
            lavis(NAME, device="cpu").encode_regions(IMAGES[:1], [boxes(IMAGES[0].whole)])

    def test_long_texts_are_truncated(self, tmp_path):
        own = bench()
        model = own.model_of("blip", len(own.VOCABULARY))
        file = own.save_file(own.to_lavis(model.state_dict(), "blip"), own.VOCABULARY, tmp_path)
        encoder = lavis(f"{NAME}@{file}", device="cpu")
        assert encoder.encode_texts(["zyxwvut " * 100, ""]).shape == (2, 16)
        encoder.close()


def test_files_in_the_caches_are_said_to_be_read(tmp_path, monkeypatch):
    """Its weights lie in torch.hub's cache, its vocabulary in the hub's; a file of one's own is in none."""
    hub = move_in(tmp_path, monkeypatch)
    monkeypatch.setenv(VARIABLE, str(toy_python(tmp_path)))
    snapshot = hub / "models--bert-base-uncased" / "snapshots" / ("1" * 40)
    files = [tmp_path / "torch" / "hub" / "checkpoints" / "model_base.pth", snapshot / "vocab.txt"]
    for file in (*files, snapshot / "model.safetensors", snapshot.parents[1] / "refs" / "main"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("1" * 40)
    for checkpoint, expected in ((files[0], files), (tmp_path / "own.pth", files[1:])):
        checkpoint.write_text("1")
        encoder = lavis(f"{NAME}@{checkpoint}", device="cpu")
        with reading() as read:
            assert encoder.dim == 6
        encoder.close()
        assert read == expected
