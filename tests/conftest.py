"""Shared ground: the demo index made once by the real encoder, a third-party encoder, the real images."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"

TOY = '''
"""A throw-away third-party encoder: the mean colour of a region, the letters of a word."""
import hashlib
import numpy as np

calls = []       # what was encoded or proposed, in order
hook = None      # called with "regions" or "keywords" before each

def note(what, count):
    calls.append((what, count))
    if hook is not None:
        hook(what)

class Toy:
    name, dim = "toy", 8
    def __init__(self, weights):
        self.weights = weights
        self.name = f"toy:{weights}" if weights else "toy"
    def identity(self):
        return {"name": self.name, "dim": self.dim, "weights": self.weights, "preprocessing": {}}
    def encode_regions(self, images, boxes):
        note("regions", sum(map(len, boxes)))
        out = []
        for image, rows in zip(images, boxes):
            vectors = np.ones((len(rows), self.dim), np.float32)
            for vector, (x1, y1, x2, y2) in zip(vectors, image.in_pixels(rows).astype(int)):
                part = image.pixels[y1:max(y2, y1 + 1), x1:max(x2, x1 + 1)]
                vector[:3] = part.reshape(-1, 3).mean(0) / 255 if part.size else 0
                vector[3:] = (x1 + 1, y1 + 1, x2 + 1, y2 + 1, 100)
            out.append(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        return out
    def encode_texts(self, texts):
        rows = [np.frombuffer(hashlib.sha256(text.encode()).digest()[:8], np.uint8) for text in texts]
        vectors = np.array(rows, np.float32).reshape(-1, self.dim) + 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

class Words:
    name = "words"
    def settings(self):
        return {"name": self.name}
    def propose(self, texts, top):
        from felga.types import Keyword
        import re
        note("keywords", len(texts))
        found = []
        for text in texts:
            words = {}
            for match in re.finditer(r"\\w+", text):
                words.setdefault(match[0].lower(), match.span())
            found.append([Keyword(word, 1.0, span) for word, span in list(words.items())[:top]])
        return found

def toy(weights, *, device, batch_size, pooling):
    return Toy(weights)

def words(argument, *, device):
    return Words()
'''
POINTS = "[felga.encoders]\ntoy = felga_toy:toy\n[felga.keywords]\nwords = felga_toy:words\n"


def write_toy(site: Path) -> Path:
    """Install the third-party package into a folder, as pip lays it out."""
    info = site / "felga_toy-0.1.dist-info"
    info.mkdir(parents=True)
    (site / "felga_toy.py").write_text(TOY)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: felga-toy\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(POINTS)
    return site


@pytest.fixture(scope="session")
def toy_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("site"))


@pytest.fixture
def toy(toy_site: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the third-party encoder, installed for this test."""
    monkeypatch.syspath_prepend(str(toy_site))
    yield "toy"
    sys.modules.pop("felga_toy", None)


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The index built last and cached vectors go here, not into the home of whoever runs the tests."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
    os.environ["FELGA_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, object]:
    """The demo corpus indexed by conse, without a FENet: (index folder, DemoCorpus). Not to be written to."""
    from felga.corpus.demo import write_demo
    from felga.corpus.folder import FolderCorpus
    from felga.indexing import Options, index

    base = tmp_path_factory.mktemp("demo")
    made = write_demo(base / "corpus")
    index(FolderCorpus(made.folder), base / "index", Options(device="cpu"), fenet="none")
    return base / "index", made


@pytest.fixture(scope="session")
def believed(demo: tuple[Path, object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo index with the FENet that comes with felga, as `felga index` makes it; only to be read."""
    from felga.fenet.packaged import packaged
    from felga.indexing.job import apply_fenet
    from felga.store.manifest import read_manifest

    folder = Path(shutil.copytree(demo[0], tmp_path_factory.mktemp("believed") / "index"))
    apply_fenet(folder, packaged(read_manifest(folder).contract.encoder), device="cpu")
    return folder


@pytest.fixture
def demo_copy(demo: tuple[Path, object], tmp_path: Path) -> Path:
    """A copy of the demo index, to damage."""
    return Path(shutil.copytree(demo[0], tmp_path / "index"))


@pytest.fixture(scope="session")
def coco_mini() -> Path:
    """Real COCO images, where they are (FELGA_COCO_MINI, or ../shared/coco-mini)."""
    folder = Path(os.environ.get("FELGA_COCO_MINI", Path(__file__).parents[2] / "shared" / "coco-mini"))
    if not folder.is_dir():
        pytest.skip(f"needs coco-mini, which is not at {folder} (FELGA_COCO_MINI names it)")
    return folder
