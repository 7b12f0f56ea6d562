"""EncoderContract, as a third party runs it: a sound encoder passes, each broken promise fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from felga.testing.encoder import check_identity, check_vectors

THIRD_PARTY = '''
import threading
import time

import numpy as np
import pytest
from felga.testing import EncoderContract


class Colors:
    """A region is its mean color seen through a random matrix, a text the counts of its letters."""

    dim = 4

    def __init__(self, seed):
        self.name, self.seed = f"colors:{seed}", seed
        self.matrix = None
        self.lock = threading.Lock()

    def identity(self):
        return {"name": "colors", "dim": 4, "weights": str(self.seed), "version": 1}

    def load(self):
        with self.lock:
            if self.matrix is None:
                self.matrix = np.random.default_rng(self.seed).normal(size=(32, 4))
        return self.matrix

    def unit(self, rows):
        vectors = np.array(rows, np.float32).reshape(-1, 4)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def encode_regions(self, images, boxes):
        return [self.unit([self.color(image, box) for box in image.in_pixels(rows).clip(0)])
                for image, rows in zip(images, boxes, strict=True)]

    def color(self, image, box):
        x1, y1, x2, y2 = (int(value) for value in box)
        height, width = image.pixels.shape[:2]
        x1, y1 = min(x1, width - 1), min(y1, height - 1)
        part = image.pixels[y1:max(y2, y1 + 1), x1:max(x2, x1 + 1)]
        return part.reshape(-1, 3).mean(0) @ self.load()[:3] + self.load()[3]

    def encode_texts(self, texts):
        counts = [np.bincount([ord(c) % 32 for c in text], minlength=32) for text in texts]
        return self.unit(np.array(counts).reshape(-1, 32) @ self.load())


class Racy(Colors):
    """Publishes its weights before they are complete."""

    def load(self):
        if self.matrix is None:
            self.matrix = np.ones((32, 4))
            time.sleep(0.2)
            self.matrix = np.random.default_rng(self.seed).normal(size=(32, 4))
        return self.matrix


class Contract(EncoderContract):
    kind = Colors

    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls):
        return cls.kind(0)

    @pytest.fixture(scope="class")
    @classmethod
    def other(cls):
        return cls.kind(1)

    @pytest.fixture
    def fresh(self):
        return self.kind(0)


class TestSound(Contract):
    pass


class TestRacy(Contract):
    kind = Racy
'''


def test_a_third_party_runs_the_contract(tmp_path):
    (tmp_path / "test_mine.py").write_text(THIRD_PARTY)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    failed = {line.split(" ")[1] for line in done.stdout.splitlines() if line.startswith("FAILED")}
    assert failed == {"test_mine.py::TestRacy::test_threads_agree_from_the_first_use_on"}, done.stdout[-3000:]


SOUND = {"name": "x", "dim": 4, "weights": "0" * 64, "version": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"version": "1"},
        {"version": True},
        {"version": 0},
        {"dim": 5},
        {"name": ""},
        {"weights": ""},
        {"name": "x:/home/me/weights.pt"},
        {"name": "x:model/base@/home/me/weights.pt"},
        {"source": ["/home/me"]},
        {"scale": float("nan")},
    ],
)
def test_each_broken_promise_of_an_identity_fails(change):
    check_identity(SOUND, 4)
    with pytest.raises((AssertionError, ValueError)):
        check_identity({**SOUND, **change}, 4)


@pytest.mark.parametrize(
    "vectors",
    [
        np.ones((2, 4), np.float32),
        np.full((2, 4), 0.5),
        np.full((3, 4), 0.5, np.float32),
        np.full((2, 4), np.nan, np.float32),
    ],
)
def test_vectors_that_are_no_unit_vectors_fail(vectors):
    check_vectors(np.full((2, 4), 0.5, np.float32), (2, 4))
    with pytest.raises(AssertionError):
        check_vectors(vectors, (2, 4))
