"""The Python face: typed for mypy, visible to dir, never shadowed, usable as people try it."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import felga
from felga.errors import BadIndexError, BadInputError, NotFoundError
from felga.registry import make_encoder
from felga.store.stored import StoredIndex
from tests.made import CHEAP, run, write

TYPED = """
import felga
reveal_type(felga.Engine)
reveal_type(felga.index)
felga.index(1, 2, 3, nonsense=4)
felga.Engine.open("x").search(5)
"""


@pytest.fixture
def made(tmp_path, toy):
    folder, out = tmp_path / "corpus", tmp_path / "index"
    write(folder, [f"p{i}" for i in range(6)])
    run(folder, out)
    return folder, out


def test_mypy_sees_the_face(tmp_path):
    (tmp_path / "use.py").write_text(TYPED)
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--follow-imports=silent", "use.py"]
    environment = {"MYPYPATH": str(Path(felga.__file__).parents[1]), "PATH": ""}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    lines = done.stdout.splitlines()
    assert any("felga.engine.Engine" in line and "Revealed" in line for line in lines), done.stdout
    assert any("Report" in line and "Revealed" in line for line in lines)
    assert sum("error" in line for line in lines) >= 3, done.stdout


def test_dir_names_the_face_and_nothing_else():
    assert dir(felga) == sorted(felga.__all__)
    assert {"Engine", "index", "FelgaError"} <= set(dir(felga))


def test_a_name_of_the_face_stays_what_it_is(made):
    import felga.engine
    import felga.indexing.job

    for _ in range(3):
        assert callable(felga.index)
        assert felga.Engine is felga.engine.Engine
    with pytest.raises(AttributeError, match="has no attribute 'indx'"):
        _ = felga.indx


def test_an_image_is_a_path_a_pil_image_or_an_array(made):
    folder, out = made
    path = folder / "p3.png"
    with felga.Engine.open(out, device="cpu") as engine:
        wanted = engine.search_image(path)
        scores = {hit.image_id: hit.score for hit in wanted}
        assert scores["p3.png"] == pytest.approx(wanted[0].score, abs=1e-3), "near the best: noise is alike"
        pixels = np.asarray(Image.open(path).convert("RGB"))
        assert engine.search_image(str(path)) == wanted
        assert engine.search_image(Image.open(path)) == wanted
        assert engine.search_image(pixels) == wanted
        assert engine.assign(pixels, (0, 0, 20, 20)) == engine.assign(path, (0, 0, 20, 20))


def test_a_turned_pil_image_is_turned_upright(made, tmp_path):
    folder, out = made
    image = Image.open(folder / "p3.png").transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    with felga.Engine.open(out, device="cpu") as engine:
        wanted = engine.search_image(folder / "p3.png")
        assert engine.search_image(Image.open(tmp_path / "turned.png")) == wanted


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda e: e.search_all("boat"), "got one string: use search"),
        (lambda e: e.search(["boat"]), "a query is a string, got list"),
        (lambda e: e.search_all([3]), "a query must be a word or a phrase, got 3"),
        (lambda e: e.search("  "), "a query must be a word or a phrase"),
        (lambda e: e.search("boat", k=0), "k must be at least 1, got 0"),
        (lambda e: e.search("boat", regions=-1), "regions must be at least 1, got -1"),
        (lambda e: e.search_image(np.zeros((4, 4), np.uint8)), "uint8"),
        (lambda e: e.search_image(np.zeros((4, 4, 3))), "uint8"),
        (lambda e: e.search_image(17), "image"),
        (lambda e: e.assign(np.zeros((9, 9, 3), np.uint8), (1, 2)), "a box is four numbers"),
        (lambda e: e.assign(np.zeros((9, 9, 3), np.uint8), (5, 5, 5, 9)), "covers no pixel"),
        (lambda e: e.assign(np.zeros((9, 9, 3), np.uint8), (float("nan"), 0, 5, 9)), "covers no pixel"),
    ],
)
def test_bad_questions_are_one_sentence(made, ask, sentence):
    with felga.Engine.open(made[1], device="cpu") as engine, pytest.raises(BadInputError, match=sentence):
        ask(engine)


def test_an_image_that_is_not_there(made):
    with (
        felga.Engine.open(made[1], device="cpu") as engine,
        pytest.raises(NotFoundError, match="name an image"),
    ):
        engine.assign("gone.png")


def test_an_encoder_can_be_given(made):
    _, out = made
    given = make_encoder("toy", device="cpu")
    engine = felga.Engine.open(out, encoder=given)
    assert engine.encoder is given
    assert felga.Engine(StoredIndex.open(out), encoder=given).search("p1") == engine.search("p1")
    assert felga.Engine.open(out, encoder="toy", device="cpu").search("p1") == engine.search("p1")
    with pytest.raises(BadIndexError, match="built with a different toy"):
        felga.Engine.open(out, encoder=make_encoder("toy:blue", device="cpu"))


def test_threads_may_share_an_engine(made):
    folder, out = made
    engine = felga.Engine.open(out, device="cpu")
    wanted = felga.Engine.open(out, device="cpu")
    answers: dict[int, list] = {}
    start = threading.Barrier(8)

    def ask(number: int) -> None:
        start.wait()
        answers[number] = [
            engine.search(f"p{number}"),
            engine.search("p1", whole=False),
            engine.assign(folder / f"p{number % 6}.png"),
        ]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(8):
        assert answers[number] == [
            wanted.search(f"p{number}"),
            wanted.search("p1", whole=False),
            wanted.assign(folder / f"p{number % 6}.png"),
        ]


def test_an_index_made_by_a_plugin_that_is_not_here(made, monkeypatch):
    _, out = made
    from felga import registry

    real = registry.names
    monkeypatch.setattr(registry, "names", lambda kind: {k: v for k, v in real(kind).items() if k != "toy"})
    with pytest.raises(BadIndexError, match="built with the encoder 'toy', which is not available here"):
        felga.Engine.open(out, device="cpu").search("a word never asked before")


def test_labels_of_a_detector_come_out_with_the_hit(tmp_path, toy):
    import json
    from dataclasses import replace

    write(tmp_path / "corpus", ["a"])
    boxes = {"a.png": [{"box": [1, 1, 20, 20], "score": 0.9, "label": "boat"}]}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    options = replace(CHEAP, regions=f"boxes:{tmp_path / 'boxes.json'}", whole=False)
    run(tmp_path / "corpus", tmp_path / "out", options)
    (hit,) = felga.Engine.open(tmp_path / "out", device="cpu").search("a")
    assert hit.regions[0].label == "boat"


def test_an_encoder_that_returns_nonsense_for_a_query_is_named(made, monkeypatch):
    from tests.made import toy_module

    folder, out = made
    engine = felga.Engine.open(out, device="cpu")
    monkeypatch.setattr(toy_module().Toy, "encode_texts", lambda self, texts: np.ones((1, 7), np.float32))
    with pytest.raises(BadInputError, match=r"'toy' returned vectors of shape \(1, 7\), expected \(1, 8\)"):
        engine.search("a word that no cache has")
    monkeypatch.setattr(
        toy_module().Toy, "encode_regions", lambda self, images, boxes: [np.zeros((1, 8), np.float32)]
    )
    with pytest.raises(BadInputError, match="not of length 1"):
        engine.search_image(folder / "p1.png")


def test_queries_that_print_alike_do_not_share_a_cached_vector(made):
    engine = felga.Engine.open(made[1], device="cpu")
    engine.search("ca\u003f")
    with pytest.raises((BadInputError, UnicodeEncodeError)):
        engine.search("ca\udcff")
