"""boxes: three forms, and each bad entry as one sentence."""

from __future__ import annotations

import json

import numpy as np
import pytest

from felga.errors import BadInputError, NotFoundError
from felga.registry import make_regions
from felga.types import DecodedImage, Region

from .contract import IMAGES, ProposerContract

OWN = {
    p.image_id: [
        {"box": [5, 5, 30, 40], "score": 0.5, "label": "bus"},
        {"box": [-3, 10, 500, 60], "score": 0.9},
        [1, 2, 3, 4],
        {"box": [200, 200, 400, 500], "score": 0.95},
        {"box": [-1, -1, 999, 999], "score": 1.5},
    ]
    for p in IMAGES
}


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return make_regions(f"boxes:{path}")


def blank(image_id, width=100, height=80):
    return DecodedImage(image_id, np.zeros((height, width, 3), np.uint8), width, height)


class TestGiven(ProposerContract):
    @pytest.fixture(scope="class")
    @classmethod
    def proposer(cls, tmp_path_factory):
        return write(tmp_path_factory.mktemp("given") / "boxes.json", OWN)


def test_own_form(tmp_path):
    proposer = write(tmp_path / "b.json", OWN)
    (found,) = proposer.propose([blank("a")], 10)
    assert found == [
        Region((1.0, 2.0, 3.0, 4.0), 1.0),
        Region((0.0, 10.0, 100.0, 60.0), 0.9),
        Region((5.0, 5.0, 30.0, 40.0), 0.5, label="bus"),
    ]
    assert proposer.propose([blank("nobody")], 10) == [[]]
    assert proposer.settings()["form"] == "felga"


def test_coco_instances(tmp_path):
    content = {
        "images": [{"id": 7, "file_name": "train/000007.jpg"}],
        "categories": [{"id": 3, "name": "car"}],
        "annotations": [
            {"image_id": 7, "bbox": [10, 20, 30, 40], "category_id": 3, "iscrowd": 0},
            {"image_id": 7, "bbox": [0, 0, 50, 50], "category_id": 3, "iscrowd": 1},
        ],
    }
    proposer = write(tmp_path / "b.json", content)
    for name in ("7", "000007", "000007.jpg", "train/000007.jpg"):
        assert proposer.propose([blank(name)], 10) == [[Region((10.0, 20.0, 40.0, 60.0), 1.0, label="car")]]
    assert proposer.settings()["form"] == "coco"


def test_coco_results(tmp_path):
    content = [
        {"image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.2},
        {"image_id": "7", "category_id": "dog", "bbox": [1.5, 2, 3, 4], "score": 0.8},
        {"image_id": 8, "bbox": [1, 2, 3, 4], "score": 0.8},
    ]
    proposer = write(tmp_path / "b.json", content)
    found = proposer.propose([blank("7"), blank("8")], 10)
    assert found[0] == [
        Region((1.5, 2.0, 4.5, 6.0), 0.8, label="dog"),
        Region((1.0, 2.0, 4.0, 6.0), 0.2, label="2"),
    ]
    assert found[1] == [Region((1.0, 2.0, 4.0, 6.0), 0.8)]


def test_settings_tell_files_apart(tmp_path):
    a, b = write(tmp_path / "a.json", OWN), write(tmp_path / "b.json", {"a": []})
    assert a.settings() != b.settings()
    assert a.settings() == write(tmp_path / "c.json", OWN).settings()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is no json"),
        ("3", "holds no boxes"),
        ({"a": 3}, "holds no boxes"),
        ({"a": [{"bbox": [1, 2, 3, 4]}]}, "box 0 of 'a' .* has no 'box'"),
        ({"a": [[1, 2, 3]]}, "wanted .x1, y1, x2, y2."),
        ({"a": [[1, 2, "3", 4]]}, "wanted .x1, y1, x2, y2."),
        ({"a": ["1234"]}, "wanted .x1, y1, x2, y2."),
        ({"a": [[1, 2, True, 4]]}, "wanted .x1, y1, x2, y2."),
        ('{"a": [[1, 2, NaN, 4]]}', "wanted .x1, y1, x2, y2."),
        ({"a": [[5, 5, 5, 9]]}, "encloses nothing"),
        ({"a": [{"box": [1, 2, 3, 4], "score": "high"}]}, "score 'high'"),
        ('{"a": [{"box": [1, 2, 3, 4], "score": Infinity}]}', "score inf"),
        ([{"image_id": 3}], "entry 0 of .* has no 'image_id' or no 'bbox'"),
        ([3], "entry 0"),
        ([{"image_id": 3, "bbox": [1, 2, 0, 4]}], "entry 0 .* encloses nothing"),
        ({"annotations": [{}]}, "annotation 0"),
        ({"annotations": [], "categories": [{"id": 3}]}, "category"),
    ],
)
def test_bad_files(tmp_path, content, words):
    with pytest.raises(BadInputError, match=words) as told:
        write(tmp_path / "b.json", content)
    assert "\n" not in str(told.value)


def test_no_file(tmp_path):
    with pytest.raises(NotFoundError, match=r"none\.json"):
        make_regions(f"boxes:{tmp_path}/none.json")
    with pytest.raises(BadInputError, match="boxes:FILE"):
        make_regions("boxes")
