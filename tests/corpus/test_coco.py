from __future__ import annotations

import json

import pytest

from felga.corpus.coco import CocoCorpus, read_instances
from felga.errors import BadInputError, NotFoundError

from .badpack import corners


@pytest.fixture
def coco(tmp_path):
    images = tmp_path / "val2017"
    images.mkdir()
    for name in ("000000000009.jpg", "000000000030.jpg"):
        corners().save(images / name)
    images = [{"id": i, "file_name": f"{i:012d}.jpg", "width": 96, "height": 64} for i in (30, 9, 77)]
    captions = [
        {"id": 5, "image_id": 9, "caption": "Second. "},
        {"id": 2, "image_id": 9, "caption": " First."},
        {"id": 3, "image_id": 77, "caption": "No file."},
    ]
    boxes = [
        {"id": 1, "image_id": 9, "category_id": 18, "bbox": [10, 20, 30, 5], "area": 99.5, "iscrowd": 0},
        {"id": 2, "image_id": 9, "category_id": 1, "bbox": [0, 0, 0.5, 9], "area": 4, "iscrowd": 0},
        {"id": 3, "image_id": 30, "category_id": 1, "bbox": [0, 0, 50, 50], "area": 700, "iscrowd": 1},
    ]
    names = [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}]
    (tmp_path / "captions.json").write_text(json.dumps({"images": images, "annotations": captions}))
    (tmp_path / "instances.json").write_text(
        json.dumps({"images": images, "annotations": boxes, "categories": names})
    )
    return tmp_path


def test_images_and_joined_captions_by_annotation_id(coco):
    listing = CocoCorpus(coco / "captions.json", coco / "val2017").scan()
    assert [(p.image_id, p.path) for p in listing.images] == [
        ("30", "000000000030.jpg"),
        ("9", "000000000009.jpg"),
    ]
    assert [(t.text_id, t.image_id, t.text) for t in listing.texts] == [
        ("77", "77", "No file."),
        ("9", "9", "First. Second."),
    ]
    assert [(b.item_id, b.reason) for b in listing.bad] == [
        ("77", "the file cannot be read: No such file or directory")
    ]


def test_a_subset_by_ids(coco):
    (coco / "ids.txt").write_text("9\n\n")
    listing = CocoCorpus(coco / "captions.json", coco / "val2017", ids=coco / "ids.txt", texts="each").scan()
    assert [p.image_id for p in listing.images] == ["9"]
    assert [t.text_id for t in listing.texts] == ["9#0", "9#1"]
    (coco / "ids.txt").write_text("9\n8\n")
    with pytest.raises(BadInputError, match="1 of the requested ids are not in captions.json, such as '8'"):
        CocoCorpus(coco / "captions.json", coco / "val2017", ids=coco / "ids.txt").scan()


def test_ground_truth(coco):
    found = read_instances(coco / "instances.json")
    assert found.categories == {1: "person", 18: "dog"}
    assert found.thin == 1
    (dog,) = found.truths["9"]
    assert (dog.box, dog.category_id, dog.crowd, dog.area) == ((10.0, 20.0, 40.0, 25.0), 18, False, 99.5)
    assert found.truths["30"][0].crowd
    assert found.truths["77"] == []


@pytest.mark.parametrize("text", ["{nonsense", "[]", '{"images": []}', '{"images": [{}], "annotations": []}'])
def test_another_json_is_refused_in_one_sentence(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(BadInputError, match="COCO"):
        CocoCorpus(path).scan()


def test_what_is_not_there(coco):
    with pytest.raises(NotFoundError, match="--images"):
        CocoCorpus(coco / "captions.json", coco / "gone")
    with pytest.raises(NotFoundError, match="name a COCO annotation json"):
        CocoCorpus(coco / "gone.json").scan()
    with pytest.raises(BadInputError, match="expected a COCO instances json"):
        read_instances(coco / "captions.json")


def test_the_real_files(coco_mini):
    found = read_instances(coco_mini / "annotations" / "instances_val2017.json")
    assert len(found.categories) == 80
    assert len(found.truths) == 300
    listing = CocoCorpus(coco_mini / "annotations" / "captions_val2017.json", coco_mini / "val2017").scan()
    assert len(listing.images) == len(listing.texts) == 300
    assert not listing.bad
