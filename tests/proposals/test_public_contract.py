"""felga.testing, as a third party uses it: a sound part passes, each broken promise fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from felga.testing.proposer import IMAGES, check_keywords, check_regions, check_settings
from felga.types import Keyword, Region

THIRD_PARTY = """
import pytest
from felga.testing import KeywordContract, ProposerContract
from felga.types import Keyword, Region


class Halves:
    name = "halves"
    duplicates = 0

    def settings(self):
        return {"name": "halves", "version": 1}

    def propose(self, images, top):
        return [self.regions(image)[:top] for image in images]

    def regions(self, image):
        width, height = float(image.width), float(image.height)
        halves = [(0.0, 0.0, width / 2, height), (width / 2, 0.0, width, height)]
        return [Region(box, 1.0) for box in halves + halves[:1] * self.duplicates]


class Twice(Halves):
    duplicates = 1


class FirstWord:
    name = "first-word"

    def settings(self):
        return {"name": "first-word", "version": 1}

    def propose(self, texts, top):
        return [[Keyword(t.strip(), 1.0, (0, len(t)))][:top] if t.strip() else [] for t in texts]


class TestSound(ProposerContract):
    @pytest.fixture(scope="class")
    @classmethod
    def proposer(cls):
        return Halves()


class TestBroken(ProposerContract):
    @pytest.fixture(scope="class")
    @classmethod
    def proposer(cls):
        return Twice()


class TestKeywords(KeywordContract):
    @pytest.fixture(scope="class")
    @classmethod
    def proposer(cls):
        return FirstWord()
"""


def test_a_third_party_runs_the_contracts(tmp_path):
    (tmp_path / "test_mine.py").write_text(THIRD_PARTY)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py"]
    package = str(Path(__file__).parents[2])
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": package}, capture_output=True, text=True
    )
    failed = {line.split(" ")[1] for line in done.stdout.splitlines() if line.startswith("FAILED")}
    assert failed
    assert all(test.startswith("test_mine.py::TestBroken::") for test in failed), done.stdout[-3000:]
    assert "boxes are distinct in float32" in done.stdout
    assert "assert 2 == 3" in done.stdout  # assertions are rewritten: failures show their values


GOOD = Region((1.0, 2.0, 3.0, 4.0), 1.0)
NAN = float("nan")


@pytest.mark.parametrize(
    "regions",
    [
        [GOOD] * 4,
        [GOOD, GOOD],
        [GOOD, Region((1.0, 2.0, 3.0 + 1e-9, 4.0), 1.0)],
        [GOOD, Region((1.0, 2.0, 5.0, 6.0), 2.0)],
        [Region((3.0, 2.0, 1.0, 4.0), 1.0)],
        [Region((1.0, 2.0, 1.0, 4.0), 1.0)],
        [Region((-1.0, 2.0, 3.0, 4.0), 1.0)],
        [Region((1.0, 2.0, 3.0, 999.0), 1.0)],
        [Region((NAN, 2.0, 3.0, 4.0), 1.0)],
        [Region((1.0, 2.0, 3.0, 4.0), NAN)],
        [Region((1.0, 2.0, 3.0, 4.0), 1e39)],
        [Region((1, 2, 3, 4), 1)],
        [Region(IMAGES[0].whole, 1.0)],
        [Region((0.0, 0.0, 119.9, 90.0), 1.0)],
        [Region((1.0, 2.0, 3.0, 4.0), 1.0, whole=True)],
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_each_broken_promise_of_a_region_proposer_fails(regions):
    check_regions(IMAGES[0], [GOOD], 3)
    with pytest.raises(AssertionError):
        check_regions(IMAGES[0], regions, 3)


@pytest.mark.parametrize(
    "keywords",
    [
        [Keyword("cat", 1.0, (2, 5))] * 4,
        [Keyword("cat", 1.0, (2, 5)), Keyword("Cat", 0.5, (2, 5))],
        [Keyword("cat", 0.5, (2, 5)), Keyword("a", 1.0, (0, 1))],
        [Keyword("cat", NAN, (2, 5))],
        [Keyword("cat", 1.0, (2, 9))],
        [Keyword("cat", 1.0, (-3, 5))],
        [Keyword("cat", 1.0, (5, 5))],
        [Keyword(" ", 1.0, (1, 2))],
        [Keyword("a cat", 1.0, (0, 5), whole=True)],
    ],
)
def test_each_broken_promise_of_a_keyword_proposer_fails(keywords):
    check_keywords("a cat", [Keyword("cat", 1.0, (2, 5))], 3)
    with pytest.raises(AssertionError):
        check_keywords("a cat", keywords, 3)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"name": "x"}, KeyError),
        ({"version": "1"}, AssertionError),
        ({"version": True}, AssertionError),
        ({"version": 0}, AssertionError),
        ({"version": 1, "path": Path("x")}, TypeError),
        ({"version": 1, "threshold": NAN}, ValueError),
    ],
)
def test_settings_without_a_version_or_beyond_json_fail(settings, error):
    with pytest.raises(error):
        check_settings(settings)


def test_felga_testing_loads_pytest_and_torch_only_when_used():
    code = "import felga.testing, sys; print([m for m in ('pytest', 'torch', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
