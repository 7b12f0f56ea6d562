"""Hits as COCO json."""

from __future__ import annotations

import json

import pytest

from felga.show.detections import coco
from felga.show.text import Answer, paths, render
from felga.types import ImageHit, RegionHit


def hit(image_id, *boxes, path="a.jpg"):
    regions = tuple(RegionHit(box, 0.9 - n / 10) for n, box in enumerate(boxes))
    return ImageHit(1, image_id, path, 0.5, regions, 60, 40)


def test_pycocotools_loads_the_hits(tmp_path):
    tools = pytest.importorskip("pycocotools.coco")
    hits = [[hit("139", (1, 2, 11, 7), (0, 0, 60, 40)), hit("7", (3, 3, 5, 5))], [hit("139", (2, 2, 4, 4))]]
    answers = [Answer(query, "i", own, "images") for query, own in zip(("boat", "猫"), hits, strict=True)]
    (tmp_path / "hits.json").write_text(render(answers, "coco", many=True, only_ascii=True))
    loaded = tools.COCO(str(tmp_path / "hits.json"))
    assert sorted(loaded.getImgIds()) == [7, 139]
    assert [category["name"] for category in loaded.loadCats(loaded.getCatIds())] == ["boat", "猫"]
    boats = loaded.loadAnns(loaded.getAnnIds(imgIds=[139], catIds=loaded.getCatIds(catNms=["boat"])))
    assert [(one["bbox"], one["area"], one["score"]) for one in boats] == [
        ([1, 2, 10, 5], 50, 0.9),
        ([0, 0, 60, 40], 2400, 0.8),
    ]
    (about,) = loaded.loadImgs([139])
    assert (about["file_name"], about["width"], about["height"]) == ("a.jpg", 60, 40)
    results = [{name: one[name] for name in ("image_id", "category_id", "bbox", "score")} for one in boats]
    assert len(loaded.loadRes(results).getAnnIds()) == 2


@pytest.mark.parametrize("odd", ["a.jpg", "007", "+7", "٣", "1.0", "-1", ""])
def test_images_are_numbered_unless_every_id_is_a_whole_number(odd):
    found = coco(["boat"], [[hit("12", (0, 0, 1, 1)), hit(odd, (0, 0, 1, 1))]])
    assert [(image["id"], image["felga_id"]) for image in found["images"]] == [(1, "12"), (2, odd)]
    assert [one["image_id"] for one in found["annotations"]] == [1, 2]
    assert len({one["id"] for one in found["annotations"]}) == 2


def test_no_hits_are_valid_coco_too():
    assert coco(["boat"], [[]])["categories"] == [{"id": 1, "name": "boat"}]


def test_undecodable_paths_are_escaped_in_coco_and_whole_in_lists():
    odd = hit("a", (0, 0, 1, 1), path="/x/a\udce9\n.png")
    answers = [Answer("boat", "i", [odd], "images"), Answer("ship", "i", [odd], "images")]
    assert json.loads(render(answers, "coco", many=True))["images"][0]["file_name"] == "/x/a\\xe9\n.png"
    assert paths(answers, b"\0") == b"/x/a\xe9\n.png\0", "each once, byte for byte"


def test_missing_images_are_in_no_list():
    answer = Answer("boat", "i", [hit("a", path="/a"), hit("b", path="/b")], "images", frozenset({"/a"}))
    assert paths([answer], b"\n") == b"/b\n"
