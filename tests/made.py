"""Small corpora and indexes by the third-party toy encoder of conftest, for tests of several rooms."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from felga.corpus.folder import FolderCorpus
from felga.indexing import Options, Report, index
from felga.store.manifest import read_manifest
from felga.store.stored import StoredIndex

CHEAP = Options(encoder="toy", keywords="words", regions="grid", quality=False, commit_every=4, device="cpu")
WORDS = ["--encoder", "toy", "--keywords", "words", "--regions", "grid", "--no-quality", "--device", "cpu"]


def write(folder: Path, names: list[str], seed: int = 0) -> None:
    """Images of coloured noise, each with a caption."""
    folder.mkdir(exist_ok=True)
    for name in names:
        rng = np.random.default_rng([seed, *name.encode()])
        pixels = rng.integers(0, 256, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(pixels).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"The picture {name} of colours.\n")


def run(folder: Path, out: Path, options: Options = CHEAP, **more) -> Report:
    """Index a folder."""
    return index(FolderCorpus(folder), out, options, **more)


def state(out: Path) -> tuple:
    """What an index holds, to the bit."""
    manifest = read_manifest(out)
    errors = (out / "errors.jsonl").read_text()
    tables = manifest.images, manifest.texts
    return [(table.digest, table.fragments, table.pieces) for table in tables], errors


def rows(out: Path) -> dict[str, tuple]:
    """Every image and text with the vectors of its fragments, whatever the order of insertion."""
    opened = StoredIndex.open(out)
    found: dict[str, tuple] = {}
    for row in opened.images.read(["image_id", "sha256", "boxes", "vectors"]).to_pylist():
        found[row["image_id"]] = row["sha256"], row["boxes"], row["vectors"]
    for row in opened.texts.read(["text_id", "text", "keywords", "starts", "vectors"]).to_pylist():
        found[f"text {row['text_id']}"] = row["text"], row["keywords"], row["starts"], row["vectors"]
    return found


def counts(counts) -> dict[str, int]:
    """The counts of a table that are not zero."""
    names = ("added", "changed", "renamed", "removed", "unchanged", "quarantined")
    return {name: value for name in names if (value := getattr(counts, name))}


def toy_module():
    """The third-party package of this test, as Python has imported it."""
    return importlib.import_module("felga_toy")


def nothing_may_be_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, a call of the toy encoder or proposer fails the test."""
    monkeypatch.setattr(toy_module(), "hook", lambda what: pytest.fail(f"{what} made again"))


def train_fenet(out: Path, path: Path, seed: int = 0) -> Path:
    """A FENet trained for a moment on an index."""
    from felga.fenet.recipes import make_recipe
    from felga.fenet.train import train
    from felga.store.pairs import features_of

    features = features_of(out)
    plan = make_recipe("residual", epochs=1, batch=4, hidden=16)
    train(features, plan, seed=seed, out=path, device="cpu")
    return path


def files_of(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file of a folder: inode, time of modification, content. The writer's lock is left out."""
    return {
        path.relative_to(folder).as_posix(): (found.st_ino, found.st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock" and (found := path.stat())
    }
