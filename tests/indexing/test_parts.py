"""Features and quality on their way into an index, and what a third party returns instead."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from felga.corpus.folder import FolderCorpus
from felga.engine import Engine
from felga.errors import BadIndexError, BadInputError
from felga.fenet.checkpoint import Checkpoint
from felga.indexing import apply_fenet, index
from felga.indexing.parts import Parts
from felga.registry import make_encoder
from felga.search.scoring import GAMMA
from felga.store.manifest import read_manifest
from felga.store.schema import feature_rows, flat
from felga.store.stored import StoredIndex
from felga.store.verify import verify
from felga.types import Keyword
from tests.made import CHEAP, counts, run, state, train_fenet, write


class Seeing:
    """An encoder with features: the toy encoder, and for each region the numbers of its box."""

    feature_dim = 4

    def __init__(self, features=lambda box: box):
        self._toy = make_encoder("toy", device="cpu")
        self._features = features
        self.name, self.dim = "toy", self._toy.dim

    def identity(self):
        return self._toy.identity()

    def encode_texts(self, texts):
        return self._toy.encode_texts(texts)

    def encode_regions(self, images, boxes):
        return self._toy.encode_regions(images, boxes)

    def encode_features(self, images, boxes):
        vectors = self.encode_regions(images, boxes)
        return [
            (own, self._features(box).astype(np.float16)) for own, box in zip(vectors, boxes, strict=True)
        ]


class Fit:
    """A predictor of quality by the width of a box, which remembers what it was asked."""

    def __init__(self, answer=lambda box: 1 / (1 + box[:, 2] - box[:, 0])):
        self.calls, self._answer = [], answer

    def settings(self):
        return {"name": "fit", "version": 1}

    def quality(self, images, boxes):
        self.calls.append(len(images))
        return [self._answer(box).astype(np.float32) for box in boxes]


@pytest.fixture
def corpus(tmp_path, toy):
    write(tmp_path / "corpus", [f"p{i}" for i in range(10)])
    return tmp_path / "corpus"


def parts(encoder=None, quality=None) -> Parts:
    return replace(Parts.make(CHEAP), encoder=encoder or Seeing(), quality=quality)


def made(corpus, out, **more):
    index(FolderCorpus(corpus), out, CHEAP, parts=parts(**more))
    return StoredIndex.open(out)


def test_features_and_quality_lie_beside_their_regions(corpus, tmp_path):
    fit = Fit()
    stored = made(corpus, tmp_path / "index", quality=fit)
    assert max(fit.calls) > 1, "a group of images is asked about at once"
    for batch in stored.images.batches(["boxes", "quality", "features", "scales", "whole"]):
        boxes = flat(batch.column("boxes"))
        found, half_a_byte = feature_rows(batch), boxes.max(1, keepdims=True) / 127 / 2
        assert (np.abs(found - boxes) <= half_a_byte + boxes * 2**-10).all()
        np.testing.assert_allclose(
            batch.column("quality").flatten().to_numpy(), 1 / (1 + boxes[:, 2] - boxes[:, 0]), rtol=1e-6
        )
    vectors, features = stored.images.raw(2, 5)
    start, stop = stored.images.offsets()[[2, 5]]
    assert len(vectors) == stop - start
    np.testing.assert_array_equal(features, stored.images.raw(0, 10)[1][start:stop])
    assert features.dtype == np.float16
    regions = read_manifest(tmp_path / "index").contract.regions
    assert regions["features"] == 4
    assert regions["quality"] == {"name": "fit", "version": 1}
    assert verify(tmp_path / "index")[1] == []


def test_a_search_weighs_the_quality_and_hits_carry_it(corpus, tmp_path):
    made(corpus, tmp_path / "index", quality=Fit())
    engine = Engine.open(tmp_path / "index", encoder=Seeing())
    for hit in engine.search("p1", k=99, regions=99, owner="max"):
        for region in hit.regions:
            width = region.box[2] - region.box[0]
            assert region.quality == pytest.approx(1 / (1 + width))
            assert region.score == pytest.approx(region.similarity - GAMMA * np.log(1 + width), abs=1e-5)
        assert hit.score == hit.regions[0].score
    for hit in engine.search("p1", k=99, regions=99, quality=False):
        assert all(region.score == region.similarity for region in hit.regions)


def test_without_a_predictor_a_region_keeps_what_its_proposer_says(corpus, tmp_path, monkeypatch):
    from felga.proposals.unsupervised import Unsupervised
    from felga.types import Region

    proposed = [Region((0.0, 0.0, 9.0, 9.0), 1.0, quality=0.25), Region((20.0, 0.0, 30.0, 9.0), 0.5)]
    monkeypatch.setattr(Unsupervised, "propose", lambda self, images, top: [proposed] * len(images))
    run(corpus, tmp_path / "index")
    stored = StoredIndex.open(tmp_path / "index")
    np.testing.assert_array_equal(stored.images.quality(), [np.nan, 0.25, np.nan] * 10)
    assert verify(tmp_path / "index")[1] == []
    (hit,) = Engine.open(tmp_path / "index").search("p1", k=1, regions=9)
    assert {region.quality for region in hit.regions} == {None, 0.25}


def test_the_whole_text_is_one_more_keyword(corpus):
    made_of = replace(parts(), options=replace(CHEAP, top_keywords=2))
    texts = ["A cat.", "!!!", " ", "cat"]
    found = made_of.propose_keywords(texts)
    assert found[0][0] == Keyword("A cat.", 1.0, (0, 6), whole=True)
    assert [[(one.text, one.whole) for one in own] for own in found] == [
        [("A cat.", True), ("a", False), ("cat", False)],
        [("!!!", True)],
        [],
        [("cat", True), ("cat", False)],
    ]
    plain = replace(made_of, options=replace(CHEAP, top_keywords=2, whole=False)).propose_keywords(texts)
    assert plain[0] == found[0][1:]
    assert plain[1] == found[1], "all there is"


def test_keywords_are_encoded_once_and_apart_from_whole_texts(corpus):
    calls = []

    class Noting(Seeing):
        def encode_texts(self, texts):
            calls.append(list(texts))
            return super().encode_texts(texts)

    made_of = parts(encoder=Noting())
    found = made_of.propose_keywords(["a cat", "the cat", "cat", ""])
    vectors = made_of.encode_keywords(found)
    assert calls == [["a", "cat", "the"], ["a cat", "the cat", "cat"]]
    for own, rows in zip(found, vectors, strict=True):
        expected = Seeing().encode_texts([one.text for one in own])
        np.testing.assert_array_equal(rows, expected)
    calls.clear()
    assert [rows.shape for rows in made_of.encode_keywords([[], []])] == [(0, 8), (0, 8)]
    assert calls == []


def test_a_killed_run_with_features_ends_in_the_same_index(corpus, tmp_path, monkeypatch):
    made(corpus, tmp_path / "undisturbed", quality=Fit())
    real, calls = Seeing.encode_features, []

    def die(self, images, boxes):
        calls.append(images)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, images, boxes)

    monkeypatch.setattr(Seeing, "encode_features", die)
    with pytest.raises(KeyboardInterrupt):
        made(corpus, tmp_path / "killed", quality=Fit())
    made(corpus, tmp_path / "killed", quality=Fit())
    assert state(tmp_path / "killed") == state(tmp_path / "undisturbed")


def test_a_predictor_is_part_of_the_contract(corpus, tmp_path):
    made(corpus, tmp_path / "index", quality=Fit())
    with pytest.raises(BadIndexError, match=r"regions\.quality is .*expected None"):
        made(corpus, tmp_path / "index")


@pytest.mark.parametrize(
    ("features", "sentence"),
    [
        (lambda box: box[:, :3], r"features of shape \(\d+, 3\) and float16, expected \(\d+, 4\)"),
        (lambda box: box * np.nan, "a feature that is NaN or infinite"),
        (lambda box: box + 1e9, "a feature that is NaN or infinite"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_features_that_are_none_are_named(corpus, tmp_path, features, sentence):
    with pytest.raises(BadInputError, match=f"encoder 'toy' returned {sentence}"):
        made(corpus, tmp_path / "index", encoder=Seeing(features))


@pytest.mark.parametrize(
    "answer",
    [
        lambda box: np.zeros(len(box)),
        lambda box: np.full(len(box), np.nan),
        lambda box: np.ones(len(box) + 1),
        lambda box: np.full(len(box), 1.5),
    ],
)
def test_a_quality_that_is_no_iou_is_refused(corpus, tmp_path, answer):
    with pytest.raises(
        BadInputError, match=r"quality predictor returned .* expected as many values in \(0, 1\]"
    ):
        made(corpus, tmp_path / "index", quality=Fit(answer))


def test_a_fenet_that_takes_features_needs_an_index_with_them(corpus, tmp_path, monkeypatch):
    run(corpus, tmp_path / "plain")
    made(corpus, tmp_path / "seeing")
    fenet = train_fenet(tmp_path / "plain", tmp_path / "a.safetensors")
    monkeypatch.setattr(Checkpoint, "feature_dim", 4)
    apply_fenet(tmp_path / "seeing", fenet)
    with pytest.raises(BadIndexError, match="trained with 4 features per region and the index has none"):
        apply_fenet(tmp_path / "plain", fenet)


def test_a_new_index_gets_the_packaged_fenet_and_an_old_one_keeps_its_own(corpus, tmp_path, monkeypatch):
    from felga.fenet import packaged

    out = tmp_path / "index"
    run(corpus, out)
    assert read_manifest(out).fenet is None
    (tmp_path / "weights").mkdir()
    fenet = train_fenet(out, tmp_path / "weights" / "toy.safetensors")
    monkeypatch.setattr(packaged, "WEIGHTS", tmp_path / "weights")
    run(corpus, out)
    assert read_manifest(out).fenet is None, "an index keeps what it has"
    run(corpus, tmp_path / "new")
    assert read_manifest(tmp_path / "new").fenet.source == "packaged"
    other = train_fenet(out, tmp_path / "other.safetensors", seed=1)
    run(corpus, tmp_path / "new", fenet=other)
    entry = read_manifest(tmp_path / "new").fenet
    assert entry.source == "other.safetensors"
    report = run(corpus, tmp_path / "new")
    assert counts(report.images) == {"unchanged": 10}
    assert read_manifest(tmp_path / "new").fenet == entry
    run(corpus, tmp_path / "new", fenet="none")
    assert read_manifest(tmp_path / "new").fenet is None
    run(corpus, tmp_path / "without", fenet="none")
    assert read_manifest(tmp_path / "without").fenet is None
    assert packaged.packaged({"name": "another"}) is None
    assert fenet.is_file()
    assert verify(tmp_path / "new")[1] == []


def test_verify_finds_qualities_and_features_out_of_range(corpus, tmp_path):
    from felga.store.commit import commit
    from felga.store.schema import ImageRow, image_table
    from felga.types import Region

    out = tmp_path / "index"
    stored = made(corpus, out, quality=Fit())
    before = read_manifest(out)
    vector = np.full((1, 8), 8**-0.5, np.float32)
    for quality, features, sentence in (
        (1.5, np.zeros((1, 4), np.float16), "1 qualities outside of (0, 1]"),
        (0.5, np.full((1, 4), np.inf, np.float16), "features that are not finite"),
    ):
        region = Region((0.0, 0.0, 5.0, 5.0), 1.0, quality=quality)
        row = ImageRow("z", b"z", 1, 1, "0" * 64, 10, 10, None, [region], vector, features)
        stored.images.append(image_table([row], 8, 4))
        commit(
            out, before.contract, before.corpus, stored.images, stored.texts, before.errors, None,
            encoder=before.encoder, before=read_manifest(out), broken={},
        )  # fmt: skip
        assert any(sentence in line for line in verify(out)[1])


def test_an_unfinished_index_of_another_format_is_refused(tmp_path, corpus):
    import json

    out = tmp_path / "index"
    made(corpus, out)
    contract = json.loads((out / "manifest.json").read_bytes())["contract"]
    (out / "manifest.json").unlink()
    (out / "building.json").write_text(json.dumps(contract))
    with pytest.raises(BadIndexError, match="format version None instead of 6.*: remove the folder"):
        run(corpus, out)
