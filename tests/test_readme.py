"""The README's commands are run as they stand there, in a folder that has what they name."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory, demo):
    """A folder with photos/, photo.jpg, crop.png, words.txt."""
    folder = tmp_path_factory.mktemp("newcomer")
    (folder / "photos").mkdir()
    for name in ("scene-04", "scene-03"):
        for ending in ("png", "txt"):
            shutil.copy(demo[1].folder / f"{name}.{ending}", folder / "photos")
    scene = Image.open(folder / "photos" / "scene-04.png")
    scene.save(folder / "photo.jpg")
    scene.crop((30, 40, 310, 229)).save(folder / "crop.png")
    (folder / "words.txt").write_text("boat\nmotorcycle\n")
    return folder


def test_the_commands_of_use(newcomer):
    block = next(block for block in blocks("sh") if "felga index photos/" in block)
    lines = [line for line in block.splitlines() if line.startswith("felga ")]
    assert len(lines) >= 6
    script = "import sys; from felga.cli.app import main; sys.argv = ['felga', *sys.argv[1:]]; main()"
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        done = subprocess.run(
            [sys.executable, "-c", script, *words], cwd=newcomer, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert done.stdout or words[0] == "index", line


def test_the_lines_of_python(newcomer, monkeypatch, capsys):
    monkeypatch.chdir(newcomer)
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 3
    assert "motorcycle" in out[-1]


def test_the_two_commands_are_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.M):
        assert f"\n{target}:" in makefile


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_the_numbers_are_those_of_the_json_files():
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / "readme.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
