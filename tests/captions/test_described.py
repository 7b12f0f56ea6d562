"""Generated texts for images without one: in the index, in answers, and nowhere else."""

from __future__ import annotations

import json

import pytest

import felga
from felga.captions.captioner import Captioner
from felga.captions.described import described
from felga.corpus.decode import read_image
from felga.corpus.folder import FolderCorpus
from felga.corpus.items import TextItem
from felga.errors import BadInputError
from felga.store.pairs import features_of
from felga.store.stored import StoredIndex
from felga.testing import CorpusContract
from tests.captions.made import random_captioner
from tests.cli.calls import call
from tests.made import WORDS, write


@pytest.fixture
def folder(tmp_path):
    """Three images, of which b has a caption and bad cannot be read."""
    write(tmp_path / "photos", ["a", "b", "c"])
    for name in ("a", "c"):
        (tmp_path / "photos" / f"{name}.txt").unlink()
    (tmp_path / "photos" / "bad.png").write_bytes(b"no image")
    return tmp_path / "photos"


@pytest.fixture
def model(tmp_path):
    return random_captioner(tmp_path / "captioner.safetensors")


def describe(folder, model):
    return described(FolderCorpus(folder), model, folder.with_name("memory.jsonl"), beam=2, device="cpu")


class TestDescribed(CorpusContract):
    @pytest.fixture
    def corpus(self, folder, model):
        return describe(folder, model)


def test_images_without_a_text_get_the_captioners(folder, model):
    corpus = describe(folder, model)
    captioner = Captioner.load(model, device="cpu")
    images = [read_image(folder / f"{name}.png", name) for name in ("a", "c")]
    said = [caption.text for caption in captioner.captions(images, 2)]
    assert all(said)
    assert [text for text in corpus.scan().texts if text.text_id.endswith("#generated")] == [
        TextItem(f"{name}.png#generated", f"{name}.png", text) for name, text in zip("ac", said, strict=True)
    ]
    assert [text.image_id for text in corpus.scan().texts].count("b.png") == 1


def test_no_image_is_described_twice(folder, model, monkeypatch):
    first = describe(folder, model).scan()
    memory = folder.with_name("memory.jsonl")
    memory.write_bytes(memory.read_bytes()[:-3])  # killed within the last line: c
    asked = []
    captions = Captioner.captions

    def counted(self, images, beam):
        asked.extend(image.image_id for image in images)
        return captions(self, images, beam)

    monkeypatch.setattr(Captioner, "captions", counted)
    assert describe(folder, model).scan() == first
    assert asked == ["c.png"]
    other = random_captioner(folder.with_name("other.safetensors"), seed=1)
    assert describe(folder, other).scan() != first
    assert asked == ["c.png", "a.png", "c.png"]


def test_a_memory_that_is_something_else_is_left_alone(folder, model):
    for data in (b"my notes\n", b'{"a": 1}\n', b"\xff\xfe\n"):
        memory = folder.with_name("memory.jsonl")
        memory.write_bytes(data)
        with pytest.raises(BadInputError, match="is not a list of generated captions"):
            describe(folder, model)
        assert memory.read_bytes() == data


def test_an_index_without_captions_answers_assign_and_says_who_wrote(folder, model, toy, tmp_path, capsys):
    (folder / "b.txt").unlink()
    out = tmp_path / "index"
    words = ["index", folder, "--out", out, *WORDS, "--describe", model]
    call(capsys, *words)
    asked = ["assign", folder / "a.png", "--index", out, "-k", 5]
    hits = json.loads(call(capsys, *asked, "--format", "json")[0])["hits"]
    assert {hit["text_id"] for hit in hits} == {f"{name}.png#generated" for name in "abc"}
    assert all(hit["generated"] is True for hit in hits)
    table = call(capsys, *asked)[0]
    assert table.count("(generated)") == 3
    page = tmp_path / "hits.html"
    call(capsys, *asked, "--html", page)
    assert page.read_text().count("<small>generated</small>") == 3
    with pytest.raises(BadInputError, match="has a caption"):  # there is nothing by people to learn from
        features_of(out)
    _, err = call(capsys, "audit", "--index", out, code=2)
    assert "caption" in err
    _, err = call(capsys, *words)
    assert "texts: 0 added" in err
    assert "3 unchanged" in err
    write(folder, ["a"])  # a caption by a person takes the place of the generated one
    call(capsys, *words)
    found = {row["text_id"] for row in StoredIndex.open(out).texts.read(["text_id"]).to_pylist()}
    assert found == {"a.png", "b.png#generated", "c.png#generated"}
    with felga.Engine.open(out, device="cpu") as engine:
        generated = {hit.text_id: hit.generated for hit in engine.assign(folder / "a.png")}
    assert sorted(generated.values()) == [False, True, True]
    assert features_of(out).pair_ids == ("a.png",)


def test_a_dry_run_describes_nothing(folder, model, toy, tmp_path, capsys):
    words = ["index", folder, "--out", tmp_path / "index", *WORDS, "--describe", model, "--dry-run"]
    _, err = call(capsys, *words, code=2)
    assert "leave out --dry-run or --describe" in err
    assert not (tmp_path / "index.captions.jsonl").exists()
