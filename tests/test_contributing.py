"""The example package of CONTRIBUTING.md is complete: it passes its contracts and indexes a corpus."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tomllib

import pytest
from PIL import Image

from tests.test_readme import FELGA, ROOT, blocks


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A folder with felga_tiny.py as CONTRIBUTING.md shows it, laid out as pip installs it, and its tests."""
    folder = tmp_path_factory.mktemp("tiny")
    code = blocks("CONTRIBUTING.md", "python")
    (folder / "felga_tiny.py").write_text(
        "\n\n".join(block for block in code if "felga.testing" not in block)
    )
    (folder / "test_tiny.py").write_text(next(block for block in code if "felga.testing" in block))
    info = folder / "felga_tiny-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: felga-tiny\nVersion: 1.0\n")
    (toml,) = blocks("CONTRIBUTING.md", "toml")
    groups = tomllib.loads(toml)["project"]["entry-points"]
    assert set(groups) == {f"felga.{kind}" for kind in ("encoders", "regions", "keywords", "corpora")}
    lines = [
        line
        for group, points in groups.items()
        for line in (f"[{group}]", *(f"{name} = {target}" for name, target in points.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder


def run(package, *command):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package), str(ROOT)])}
    return subprocess.run(
        [sys.executable, *command], cwd=package, env=environment, capture_output=True, text=True
    )


def test_the_example_passes_its_contracts(package):
    done = run(package, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_tiny.py")
    assert done.returncode == 0, done.stdout[-3000:]
    for name in ("EncoderContract", "ProposerContract", "KeywordContract", "CorpusContract"):
        assert f"({name}):" in (package / "test_tiny.py").read_text()


def test_the_example_indexes_and_answers(package):
    with tarfile.open(package / "photos.tar", "w") as shard:
        for name, colour in (("red", "red"), ("blue", "blue")):
            image = io.BytesIO()
            Image.new("RGB", (60, 40), colour).save(image, "JPEG")
            for ending, data in ((".jpg", image.getvalue()), (".txt", f"a {name} wall".encode())):
                member = tarfile.TarInfo(name + ending)
                member.size = len(data)
                shard.addfile(member, io.BytesIO(data))
    Image.new("RGB", (60, 40), "blue").save(package / "query.png")
    parts = ("--encoder", "tiny:7", "--regions", "windows:3", "--keywords", "words")
    done = run(package, "-c", FELGA, "index", "tar:photos.tar", "--out", "index", *parts)
    assert done.returncode == 0, done.stderr
    assert "2 added" in done.stderr
    done = run(package, "-c", FELGA, "search", "--image", "query.png", "--index", "index", "--format", "csv")
    assert done.returncode == 0, done.stderr
    assert "blue.jpg" in done.stdout.splitlines()[1]
