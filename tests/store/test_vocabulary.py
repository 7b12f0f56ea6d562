"""A word that nothing knows is said, with the nearest known ones."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from felga.corpus.folder import FolderCorpus
from felga.engine import Engine
from felga.indexing import Options, index
from tests.cli.calls import call
from tests.made import run, write


@pytest.fixture(scope="module")
def engine(demo):
    return Engine.open(demo[0], device="cpu")


@pytest.mark.parametrize(
    ("query", "unknown"),
    [
        ("zebra", []),
        ("two giraffes and a donut", []),
        ("surfboard", []),
        ("Café", []),
        ("a man's motorcycle in 2024", []),
        ("zerba", ["zerba"]),
        ("ein Pferd", ["pferd"]),
        ("斑马", ["斑马"]),
        ("xqzvblorp zerba Zerba", ["xqzvblorp", "zerba"]),
    ],
)
def test_words_that_nothing_knows(engine, query, unknown):
    assert list(engine.unknown_words(query)) == unknown


def test_the_nearest_known_words(engine):
    assert engine.unknown_words("zerba") == {"zerba": ["zebra"]}
    assert engine.unknown_words("xqzvblorp") == {"xqzvblorp": []}


def test_a_keyword_of_the_index_is_known(tmp_path, demo):
    (tmp_path / "in").mkdir()
    shutil.copy(demo[1].folder / "scene-01.png", tmp_path / "in")
    (tmp_path / "in" / "scene-01.txt").write_text("Das Quokkalein")
    options = Options(device="cpu", regions="grid", quality=False)
    index(FolderCorpus(tmp_path / "in"), tmp_path / "out", options)
    opened = Engine.open(tmp_path / "out", device="cpu")
    assert opened.unknown_words("quokkalein Quokkaleins") == {}
    assert opened.unknown_words("quokkalien") == {"quokkalien": ["quokkalein"]}


def test_a_word_that_only_the_whole_text_has_is_not_known(tmp_path, demo):
    write(tmp_path / "corpus", ["a"])
    (tmp_path / "corpus" / "a.txt").write_text("quokkalein xqzvblorp")
    options = Options(device="cpu", regions="grid", quality=False, top_keywords=1)
    index(FolderCorpus(tmp_path / "corpus"), tmp_path / "index", options)
    assert len(Engine.open(tmp_path / "index").unknown_words("quokkalein xqzvblorp")) == 1


def test_an_encoder_without_a_list_of_words_knows_all(tmp_path, toy):
    write(tmp_path / "corpus", ["a"])
    run(tmp_path / "corpus", tmp_path / "index")
    assert Engine.open(tmp_path / "index").unknown_words("xqzvblorp") == {}


def test_the_command_line_says_it_once_and_answers_all_the_same(capsys, demo):
    words = ["search", "zerba", "a zerba", "--index", demo[0], "-k", 1]
    out, err = call(capsys, *words)
    assert err.startswith("'zerba' is not a word that this index or encoder knows; nearest: zebra")
    assert err.count("\n") == 1
    assert "scene-" in out
    assert call(capsys, "search", "cat", "--index", demo[0], "-k", 1)[1] == ""


def test_an_unknown_word_loads_no_torch(demo):
    code = (
        "import sys; from felga.engine import Engine; "
        f"Engine.open({str(demo[0])!r}).unknown_words('zerba'); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
