"""A corpus that is no folder, from a third-party package: listed, read, indexed, searched, updated."""

from __future__ import annotations

import io
import json
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from felga.corpus.items import Corpus
from felga.errors import BadInputError, MissingError, NotFoundError
from felga.registry import make_corpus, names
from felga.testing.corpus import CorpusContract, check_bad, check_images, check_texts
from tests.made import CHEAP, counts

from .third_party import install


@pytest.fixture
def packages(tmp_path, monkeypatch):
    install(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    yield
    for name in ("felga_shards", "felga_sloppy"):
        sys.modules.pop(name, None)


def png(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(rng.integers(0, 150, 3), 250, (6, 8, 3)).astype(np.uint8)  # of a colour of its own
    pixels = pixels.repeat(8, 0).repeat(8, 1)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def write_shard(path, files):
    with tarfile.open(path, "w") as shard:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(data), 1_700_000_000
            shard.addfile(member, io.BytesIO(data))


FILES = {
    "b.png": png(1),
    "a.png": png(2),
    "deep/c.png": png(3),
    "broken.jpg": b"not an image",
    "empty.jpg": b"",
    "a.txt": b"A boat.\nTwo boats.\n",
    "b.txt": b"caf\xe9",
}


@pytest.fixture
def shard(tmp_path, packages):
    write_shard(tmp_path / "0000.tar", FILES)
    return tmp_path / "0000.tar"


class TestTarContract(CorpusContract):
    @pytest.fixture
    def corpus(self, shard):
        return make_corpus(f"tar:{shard}")


def test_a_corpus_comes_by_its_entry_point(shard):
    corpus = make_corpus(f"tar:{shard}", texts="each")
    assert isinstance(corpus, Corpus)
    assert corpus.root == shard
    assert corpus.settings() == {"texts": "each"}
    assert [text.text for text in corpus.scan().texts] == ["A boat.", "Two boats."]
    assert names("corpora")["tar"].about == "from felga-shards"
    assert list(names("corpora"))[:2] == ["folder", "coco"]


def test_a_shard_is_indexed_searched_and_updated(shard, tmp_path, toy):
    import felga

    out = tmp_path / "index"
    report = felga.index(make_corpus(f"tar:{shard}"), out, CHEAP)
    assert counts(report.images) == {"added": 5, "quarantined": 2}
    assert counts(report.texts) == {"added": 1, "quarantined": 1}
    errors = [json.loads(line) for line in (out / "errors.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["item_id"]) for line in errors] == [
        ("image", "broken.jpg"),
        ("image", "empty.jpg"),
        ("text", "b.txt"),
    ]
    with felga.Engine.open(out, device="cpu") as engine:
        hits = engine.search("boat", k=10)
        assert {hit.image_id for hit in hits} == {"a.png", "b.png", "deep/c.png"}
        assert engine.assign(Image.open(io.BytesIO(FILES["a.png"])))[0].text == "A boat. Two boats."
    assert counts(felga.index(make_corpus(f"tar:{shard}"), out, CHEAP).images) == {
        "unchanged": 5,
        "quarantined": 2,
    }
    files = {**FILES, "renamed.png": FILES["b.png"], "broken.jpg": png(4)}
    del files["b.png"]
    write_shard(shard, files)
    assert counts(felga.index(make_corpus(f"tar:{shard}"), out, CHEAP).images) == {
        "changed": 1,
        "renamed": 1,
        "unchanged": 3,
        "quarantined": 1,
    }


def test_a_listing_that_keeps_no_rule_does_not_stop_the_job(tmp_path, packages, toy):
    import felga

    for seed, name in enumerate(("x.png", "y.png")):
        (tmp_path / name).write_bytes(png(seed))
    out = tmp_path / "index"
    report = felga.index(make_corpus(f"sloppy:{tmp_path}"), out, CHEAP)
    assert counts(report.images) == {"added": 2, "quarantined": 9}
    assert counts(report.texts) == {"added": 2, "quarantined": 5}
    errors = [json.loads(line) for line in (out / "errors.jsonl").read_text().splitlines()]
    reasons = {line["item_id"]: line["reason"] for line in errors}
    assert reasons["y.png"] == "another image has the same id"
    assert reasons["half\\ud800"] == r"its id is not valid Unicode: \ud800 at character 5 stands alone"
    assert reasons["huge"] == f"its size is {2**70} bytes"
    assert reasons["a"] == "another text has the same id"
    assert reasons["\\ud800"] == r"odd \ud800"
    again = felga.index(make_corpus(f"sloppy:{tmp_path}"), out, CHEAP)
    assert counts(again.images) == {"unchanged": 2, "quarantined": 9}
    assert counts(again.texts) == {"unchanged": 2, "quarantined": 5}


def test_the_contract_finds_each_broken_rule(tmp_path, packages):
    (tmp_path / "x.png").write_bytes(png(1))
    listing = make_corpus(f"sloppy:{tmp_path}").scan()
    for image in listing.images:
        with pytest.raises((AssertionError, UnicodeEncodeError, AttributeError)):
            check_images([image])
    for text in listing.texts[3:]:
        with pytest.raises((AssertionError, UnicodeEncodeError, AttributeError)):
            check_texts([text])
    with pytest.raises(AssertionError, match="unique and sorted"):
        check_texts(listing.texts[:2])
    with pytest.raises(UnicodeEncodeError):
        check_bad(listing.bad)


def test_a_factory_of_the_wrong_shape_is_one_sentence(tmp_path, packages):
    with pytest.raises(BadInputError, match="'deaf:.*' is no corpus: .* a Deaf without read"):
        make_corpus(f"deaf:{tmp_path}")
    with pytest.raises(MissingError, match="felga_sloppy has no 'vanished'; it comes from felga-shards"):
        make_corpus("vanished:x")


def test_a_plugin_refuses_its_argument_in_its_own_words(tmp_path, packages):
    with pytest.raises(NotFoundError, match="name a tar file"):
        make_corpus(f"tar:{tmp_path}/gone.tar")
    (tmp_path / "x.tar").write_text("not a tar")
    with pytest.raises(BadInputError, match="not a tar file"):
        make_corpus(f"tar:{tmp_path}/x.tar")
    with pytest.raises(BadInputError, match="no corpus named 'tarr': did you mean 'tar'"):
        make_corpus("tarr:x.tar")
