"""The documentation is run: commands, code blocks, links, and the numbers rendered from json."""

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
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "indexes/README.md")),
        *(ROOT / "docs").glob("*.md"),
    ]
)
FELGA = "import sys; from felga.cli.app import main; sys.argv = ['felga', *sys.argv[1:]]; main()"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(), re.S | re.M)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


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


def test_the_first_commands_work(newcomer):
    block = next(block for block in blocks("README.md", "sh") if "felga index photos/" in block)
    lines = [line for line in block.splitlines() if line.startswith("felga ")]
    assert len(lines) >= 6
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        done = subprocess.run(
            [sys.executable, "-c", FELGA, *words], cwd=newcomer, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert done.stdout or words[0] == "index", line


def test_the_python_example_works(newcomer, monkeypatch, capsys):
    monkeypatch.chdir(newcomer)
    (code,) = blocks("README.md", "python")
    exec(compile(code, "README.md", "exec"), {})
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 3
    assert "motorcycle" in out[-1]


def test_the_examples_of_the_python_page_work(newcomer, monkeypatch, capsys):
    monkeypatch.chdir(newcomer)
    code = "\n".join(blocks("docs/python.md", "python"))
    exec(compile(code, "docs/python.md", "exec"), {})
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 4
    assert "motorcycle" in out[-1]


def test_the_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    text = "".join(page.read_text() for page in PAGES)
    targets = set(re.findall(r"(?:^|`)make (\w+)", text, re.M))
    assert {"demo", "test", "hero"} <= targets
    for target in targets:
        assert f"\n{target}:" in makefile, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        target, _, anchor = link.partition("#")
        if target.startswith("http"):
            continue
        path = page.parent / target if target else page
        assert path.exists(), link
        if anchor:
            assert anchor in anchors(path), link


def test_the_numbers_are_those_of_the_json_files():
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / "readme.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_picture_shows_what_its_caption_says(demo):
    """Four rockets first, then something else; no astronaut, although there are four."""
    import felga
    from felga.corpus.demo import SCENES

    engine = felga.Engine.open(demo[0])
    shown = {
        query: [query in demo[1].boxes[hit.image_id] for hit in engine.search(query, 5)]
        for query in ("rocket", "astronaut")
    }
    assert shown == {"rocket": [True] * 4 + [False], "astronaut": [False] * 5}
    assert [sum(query in scene for scene in SCENES) for query in shown] == [4, 4]
    assert (ROOT / "docs" / "hero.png").stat().st_size < 300_000
