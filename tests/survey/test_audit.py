"""The audit of a real small index in which two captions were exchanged, against plain loops."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from felga.corpus.folder import FolderCorpus
from felga.engine import Engine
from felga.errors import BadInputError
from felga.indexing import Options, index
from felga.models.wordlist import names_a_thing
from felga.proposals.inflection import singular
from felga.search.confidence import SURE, confidence, total
from felga.survey import audit as module
from felga.survey.audit import FITS, SUPPORTED, audit
from felga.survey.names import Surveyed
from tests.survey.conftest import SWAPPED


def score(word, regions, columns):
    """What an image scores for a word, by loops (felga.search.rules)."""
    own = [float(word @ region) for region in regions]
    best = max(cos + 0.1 * math.log(q) for cos, q in zip(own, columns["quality"], strict=True))
    whole = own[columns["whole"].tolist().index(True)]
    return (best + 0.5 * whole) / 1.5


def by_loops(engine):
    """(kind, image, word) -> score of all findings."""
    seen = Surveyed(engine)
    images = engine.index.images.read(["image_id"]).column("image_id").to_pylist()
    back, names = seen.queries.background(), seen.names()
    found, row = {}, 0
    regions_of = [seen.regions(at) for at in range(len(images))]
    for text in engine.index.texts.read(["image_id", "text", "keywords", "whole"]).to_pylist():
        image = images.index(text["image_id"])
        regions, columns = regions_of[image]
        standings, support, rows = [], [], []
        for word, whole in zip(text["keywords"], text["whole"], strict=True):
            (vector,) = engine.index.keywords.vectors(row, row + 1)
            row += 1
            scores = [score(vector, *own) for own in regions_of]
            standings.append((scores[image] - np.mean(scores)) / np.std(scores))
            if not whole:
                rows.append(vector)
                if names_a_thing(singular(word)):
                    support.append((total(back.query(vector).evidence(regions, columns)), word))
        if support and (fit := float(np.mean(standings))) < FITS:
            found["caption", text["image_id"], min(support)[1]] = fit
        elif support:
            found |= {("keyword", text["image_id"], word): high for high, word in support if high < SUPPORTED}
        said = {singular(word) for word in re.findall("[a-z]+", text["text"].lower())}
        for at in np.flatnonzero((columns["quality"] >= 0.3) & ~columns["whole"]):
            (best,), _ = names.of(regions[at : at + 1])
            word, vector = names.words[best], names.vectors[best]
            sure = confidence(back.query(vector).evidence(regions, columns))
            if word not in said and max(float(one @ vector) for one in rows) < 0.5 and sure >= SURE:
                found["region", text["image_id"], word] = sure
    return found


def test_findings_are_those_of_plain_loops(engine, exchanged, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 5)
    expected = by_loops(engine)
    result = audit(engine, 1000)
    found = (*result.captions, *result.keywords, *result.regions)
    assert {(one.kind, one.image_id, one.word): one.score for one in found} == pytest.approx(
        expected, abs=1e-3
    )
    assert len(found) == len(expected)
    assert {one.kind for one in found} == {"caption", "keyword", "region"}
    assert result.texts == 16
    for own in (result.captions, result.keywords, result.regions):
        assert [one.rank for one in own] == list(range(1, len(own) + 1))
        scores = [one.score for one in own]
        assert scores == sorted(scores, reverse=own is result.regions)
    assert all(one.path == str(exchanged[1] / one.image_id) for one in found)


def test_captions_that_were_exchanged_are_found(engine):
    found = audit(engine).captions
    assert len(found) <= 4
    assert {f"{name}.png" for name in SWAPPED} <= {one.image_id for one in found}
    assert audit(engine, 2).captions == found[:2]
    for one in found:
        start, end = one.span
        assert one.text[start:end].lower() == one.word.lower()
        assert one.text_id.startswith(one.image_id.removesuffix(".png"))
        assert one.box is None


def test_a_region_that_is_reported_has_a_box_of_its_image(engine):
    rows = {
        row["image_id"]: row for row in engine.index.images.read(["image_id", "boxes", "whole"]).to_pylist()
    }
    found = audit(engine).regions
    assert found
    for one in found:
        at = rows[one.image_id]["boxes"].index(list(one.box))
        assert not rows[one.image_id]["whole"][at]
        assert one.text is None
        assert one.quality >= 0.3


def test_of_equal_words_only_some_are_kept(engine, monkeypatch):
    everything = audit(engine)
    monkeypatch.setattr(module, "CACHED", 1)
    assert audit(engine) == everything


def test_an_index_without_captions_is_said_in_a_sentence(demo, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes((demo[1].folder / "scene-01.png").read_bytes())
    options = Options(device="cpu", regions="grid", quality=False)
    index(FolderCorpus(tmp_path / "photos"), tmp_path / "index", options)
    with Engine.open(tmp_path / "index", device="cpu") as engine:
        with pytest.raises(
            BadInputError, match="no image of .* has a caption to audit: put captions in NAME"
        ):
            audit(engine)
        with pytest.raises(BadInputError, match="k must be at least 1"):
            audit(engine, 0)
