from __future__ import annotations

import json
import os

import pytest

from felga.corpus.coco import CocoCorpus, coco_files, read_instances
from felga.errors import BadInputError, NotFoundError
from felga.registry import make_corpus
from felga.testing.corpus import CorpusContract

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


def test_captions_are_joined_in_the_order_of_annotation_ids(coco):
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


def test_ground_truth_boxes(coco):
    found = read_instances(coco / "instances.json")
    assert found.categories == {1: "person", 18: "dog"}
    assert found.thin == 1
    (dog,) = found.truths["9"]
    assert (dog.box, dog.category_id, dog.crowd, dog.area) == ((10.0, 20.0, 40.0, 25.0), 18, False, 99.5)
    assert found.truths["30"][0].crowd
    assert found.truths["77"] == []


@pytest.mark.parametrize("text", ["{nonsense", "[]", '{"images": []}', '{"images": [{}], "annotations": []}'])
def test_a_json_of_another_kind_is_refused(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(BadInputError, match="COCO"):
        CocoCorpus(path).scan()


def test_missing_files_and_folders(coco):
    with pytest.raises(NotFoundError, match="--images"):
        CocoCorpus(coco / "captions.json", coco / "gone")
    with pytest.raises(NotFoundError, match="name a COCO annotation json"):
        CocoCorpus(coco / "gone.json").scan()
    with pytest.raises(BadInputError, match="expected a COCO instances json"):
        read_instances(coco / "captions.json")


def test_official_files(coco_mini):
    found = read_instances(coco_mini / "annotations" / "instances_val2017.json")
    assert len(found.categories) == 80
    assert len(found.truths) == 300
    listing = CocoCorpus(coco_mini / "annotations" / "captions_val2017.json", coco_mini / "val2017").scan()
    assert len(listing.images) == len(listing.texts) == 300
    assert not listing.bad


class TestContract(CorpusContract):
    @pytest.fixture
    def corpus(self, coco):
        return make_corpus(f"coco:{coco}/captions.json@{coco}/val2017")


def test_a_name_gives_the_annotations_and_the_folder(coco, tmp_path):
    assert len(make_corpus(f"coco:{coco}/captions.json@{coco}/val2017").scan().images) == 2
    texts = make_corpus(f"coco:{coco}/captions.json", texts="each").scan()
    assert not texts.images
    assert [text.text_id for text in texts.texts] == ["77#0", "9#0", "9#1"]
    (tmp_path / "a@b.json").write_bytes((coco / "captions.json").read_bytes())
    assert make_corpus(f"coco:{tmp_path}/a@b.json").scan().texts
    with pytest.raises(BadInputError, match="coco:CAPTIONS.json@IMAGES"):
        make_corpus("coco")


def listing_of(folder, names, annotations=()):
    images = [{"id": n, "file_name": name} for n, name in enumerate(names)]
    (folder / "x.json").write_text(json.dumps({"images": images, "annotations": list(annotations)}))
    return CocoCorpus(folder / "x.json", folder / "val2017").scan()


def test_no_name_leaves_the_folder_of_images(coco):
    """The annotations may come from a stranger."""
    secret = coco / "secret.jpg"
    corners().save(secret)
    images = coco / "val2017"
    (images / "in.jpg").symlink_to(images / "000000000009.jpg")
    (images / "out.jpg").symlink_to(secret)
    (images / "up").symlink_to(coco)
    (images / "loop.jpg").symlink_to(images / "loop.jpg")
    names = [
        "../secret.jpg",
        str(secret),
        "up/secret.jpg",
        "out.jpg",
        "x/../../secret.jpg",
        "..",
        "",
        "loop.jpg",
    ]
    listing = listing_of(coco, [*names, "in.jpg", "./000000000030.jpg"])
    assert [image.path for image in listing.images] == ["in.jpg", "./000000000030.jpg"]
    reasons = [item.reason for item in listing.bad]
    assert len(reasons) == len(names)
    assert sum("leaves the folder of images" in reason for reason in reasons) == 6
    assert "file_name is empty" in reasons


def test_a_name_that_is_not_utf8_is_listed_as_python_writes_it(coco):
    odd = os.fsdecode(b"latin-\xe9.jpg")
    corners().save(coco / "val2017" / odd, "JPEG")
    listing = listing_of(coco, [odd, "\ud800.jpg", "nul\0.jpg"])
    assert [image.path for image in listing.images] == [odd]
    assert [item.reason for item in listing.bad] == [
        r"file_name is not valid Unicode: \ud800 stands alone",
        "file_name contains a NUL character",
    ]


def test_annotation_ids_of_any_type_are_ordered(coco):
    ids = ["x", 10, None, 9, 2**70, "b", 9.5, [1]]
    rows = [{"id": n, "image_id": 0, "caption": f"<{n}>"} for n in ids]
    (text,) = listing_of(coco, ["000000000009.jpg"], rows).texts
    assert text.text == f"<9> <9.5> <10> <{2**70}> <b> <x> <None> <[1]>"


def test_ids_may_be_floats_or_strings_and_doubles_are_listed_as_bad(coco):
    images = [{"id": n, "file_name": "000000000009.jpg"} for n in (9.0, "a", 9, 1.5, True, None)]
    rows = [{"id": 1, "image_id": "9", "caption": "Nine."}, {"id": 2, "image_id": 8, "caption": "Eight."}]
    (coco / "x.json").write_text(json.dumps({"images": images, "annotations": rows}))
    listing = CocoCorpus(coco / "x.json", coco / "val2017").scan()
    assert [image.image_id for image in listing.images] == ["9", "a"]
    assert [(text.image_id, text.text) for text in listing.texts] == [("9", "Nine.")]
    assert [(item.item_id, item.reason) for item in listing.bad] == [
        ("9", "another image has the same id"),
        ("x.json:images[3]", "id is 1.5, expected a number or a string"),
        ("x.json:images[4]", "id is True, expected a number or a string"),
        ("x.json:images[5]", "id is None, expected a number or a string"),
        ("8", "its image is not in the file"),
    ]


def test_ids_with_a_bom_and_windows_line_ends(coco):
    (coco / "ids.txt").write_bytes(b"\xef\xbb\xbf9\r\n30\r\n")
    listing = CocoCorpus(coco / "captions.json", coco / "val2017", ids=coco / "ids.txt").scan()
    assert [image.image_id for image in listing.images] == ["30", "9"]


def test_the_official_layout(tmp_path):
    with pytest.raises(BadInputError, match="no split 'test2017': expected train2017"):
        coco_files(tmp_path, "test2017")
    with pytest.raises(NotFoundError, match="captions_val2014.json, .*val2014 not found: .*coco2014"):
        coco_files(tmp_path, "val2014")
