"""Concepts of a real small index against plain loops over what it stores."""

from __future__ import annotations

import math

import pytest

from felga.corpus.folder import FolderCorpus
from felga.engine import Engine
from felga.errors import BadInputError
from felga.indexing import Options, index
from felga.survey import concepts as module
from felga.survey.concepts import concepts
from felga.survey.names import Surveyed


def counted(engine, standing, least):
    """name -> [(score, image, region)] of the regions that count, by loops."""
    names = Surveyed(engine).names()
    found, row = {}, 0
    for image in engine.index.images.read(["image_id", "whole", "quality"]).to_pylist():
        for at, (whole, quality) in enumerate(zip(image["whole"], image["quality"], strict=True)):
            vector = engine.index.regions.vectors(row, row + 1)
            row += 1
            (best,), (high,) = names.of(vector)
            if not whole and quality >= least and high >= standing:
                score = float(vector[0] @ names.vectors[best]) + 0.1 * math.log(quality)
                found.setdefault(names.words[best], []).append((score, image["image_id"], at))
    return found


@pytest.mark.parametrize(("standing", "least"), [(3.0, 0.4), (1.0, 0.1)])
@pytest.mark.parametrize("images", [512, 3])
def test_concepts_are_counted_and_shown_as_a_plain_loop_does(
    engine, exchanged, monkeypatch, standing, least, images
):
    monkeypatch.setattr(module, "STANDING", standing)
    monkeypatch.setattr(module, "QUALITY", least)
    monkeypatch.setattr(module, "IMAGES", images)
    expected = counted(engine, standing, least)
    twice = any(len({image for _, image, _ in own}) < len(own) for own in expected.values())
    assert twice == (least == 0.1), "an image with two regions of one name"
    found = concepts(engine, 1000, exemplars=2)
    assert {one.name: (one.images, one.regions) for one in found} == {
        name: (len({image for _, image, _ in own}), len(own)) for name, own in expected.items()
    }
    order = [(-one.images, -one.regions, one.name) for one in found]
    assert order == sorted(order)
    boxes = {
        row["image_id"]: row for row in engine.index.images.read(["image_id", "boxes", "quality"]).to_pylist()
    }
    for one in found:
        best = {}
        for score, image, at in sorted(expected[one.name], reverse=True):
            best.setdefault(image, (score, image, at))
        assert len(one.exemplars) == min(2, len(best))
        for exemplar, (score, image, at) in zip(one.exemplars, best.values(), strict=False):
            assert exemplar.score == pytest.approx(score, abs=1e-5)
            assert exemplar.image_id == image
            assert list(exemplar.box) == boxes[image]["boxes"][at]
            assert exemplar.quality == boxes[image]["quality"][at]
            assert exemplar.path == str(exchanged[1] / image)
    assert concepts(engine, 2) == concepts(engine, 1000)[:2]


def test_the_demo_has_cats(engine):
    best = concepts(engine, 1)[0]
    assert best.name == "cat"
    texts = engine.index.texts.read(["image_id", "text"]).to_pylist()
    said = {row["image_id"]: row["text"] for row in texts}
    assert all("cat" in said[one.image_id] or "scene-08" in one.image_id for one in best.exemplars)


def test_numbers_below_one_are_refused(engine):
    for more in ({"k": 0}, {"exemplars": 0}):
        with pytest.raises(BadInputError, match="must be at least 1"):
            concepts(engine, **more)


def test_regions_of_unknown_quality_count(demo, tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    for name in ("scene-01.png", "scene-04.png", "scene-08.png"):
        (tmp_path / "photos" / name).write_bytes((demo[1].folder / name).read_bytes())
    options = Options(device="cpu", regions="grid", quality=False)
    index(FolderCorpus(tmp_path / "photos"), tmp_path / "index", options)
    monkeypatch.setattr(module, "STANDING", 0.0)
    with Engine.open(tmp_path / "index", device="cpu") as engine:
        found = concepts(engine, 1000)
        whole = engine.index.images.whole()
    assert sum(one.regions for one in found) == (~whole).sum() > 0
    assert {exemplar.quality for one in found for exemplar in one.exemplars} == {None}


def test_an_index_without_readable_images_is_said_in_a_sentence(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "broken.png").write_bytes(b"no image")
    index(
        FolderCorpus(tmp_path / "photos"),
        tmp_path / "index",
        Options(device="cpu", regions="grid", quality=False),
    )
    with (
        Engine.open(tmp_path / "index", device="cpu") as engine,
        pytest.raises(BadInputError, match="holds no image that can be read"),
    ):
        concepts(engine)
