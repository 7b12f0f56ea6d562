"""boxes:FILE reads three forms; every malformed file is one sentence."""

from __future__ import annotations

import copy
import json
import os
import random

import numpy as np
import pytest

from felga.errors import BadInputError, FelgaError, NotFoundError
from felga.registry import make_regions
from felga.testing import ProposerContract
from felga.testing.proposer import IMAGES, check_regions
from felga.types import DecodedImage, Region

FELGA = {
    image.image_id: [
        {"box": [5, 5, 30, 40], "score": 0.5, "label": "bus"},
        {"box": [-3, 10, 500, 60], "score": 0.9},
        {"box": [5, 5, 30, 40], "score": 0.4, "label": "the same box"},
        {"box": [-9, 10, 900, 60], "score": 0.8},
        [1, 2, 3, 4],
        {"box": [200, 200, 400, 500], "score": 0.95},
        {"box": [-1, -1, 999, 999], "score": 1.5},
        {"box": [0, 0, image.width, image.height - 0.01], "score": 1.4},
    ]
    for image in IMAGES
}
COCO = {
    "images": [{"id": 7, "file_name": "train/000007.jpg", "width": 100, "height": 80}],
    "categories": [{"id": 3, "name": "car"}],
    "annotations": [
        {"image_id": 7, "bbox": [10, 20, 30, 40], "category_id": 3, "iscrowd": 0},
        {"image_id": 7, "bbox": [0, 0, 50, 50], "category_id": 3, "iscrowd": 1},
    ],
}
RESULTS = [
    {"image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.2},
    {"image_id": "7", "category_id": "dog", "bbox": [1.5, 2, 3, 4], "score": 0.8},
    {"image_id": 8, "bbox": [1, 2, 3, 4], "score": 0.8},
]


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return make_regions(f"boxes:{path}")


def blank(image_id, width=100, height=80):
    return DecodedImage(image_id, np.zeros((height, width, 3), np.uint8), width, height)


class TestBoxFile(ProposerContract):
    @pytest.fixture(scope="class")
    @classmethod
    def proposer(cls, tmp_path_factory):
        return write(tmp_path_factory.mktemp("boxes") / "boxes.json", FELGA)


def test_felgas_form(tmp_path):
    proposer = write(tmp_path / "b.json", FELGA)
    (regions,) = proposer.propose([blank("a")], 10)
    assert regions == [
        Region((1.0, 2.0, 3.0, 4.0), 1.0),
        Region((0.0, 10.0, 100.0, 60.0), 0.9),
        Region((5.0, 5.0, 30.0, 40.0), 0.5, label="bus"),
    ]
    assert proposer.propose([blank("nobody")], 10) == [[]]
    assert proposer.settings()["form"] == "felga"


def test_duplicates_and_whole_images_are_dropped(tmp_path):
    boxes = [[5, 5, 30, 40], [5, 5, 30, 40], [0, 0, 100, 79.5], [0, 0, 99.99, 80], [-9, 5, 200, 79]]
    (regions,) = write(tmp_path / "b.json", {"a": boxes}).propose([blank("a")], 10)
    assert [region.box for region in regions] == [(5.0, 5.0, 30.0, 40.0), (0.0, 5.0, 100.0, 79.0)]


def test_coco_instances(tmp_path):
    proposer = write(tmp_path / "b.json", COCO)
    for name in ("7", "000007", "000007.jpg", "train/000007.jpg"):
        assert proposer.propose([blank(name)], 10) == [[Region((10.0, 20.0, 40.0, 60.0), 1.0, label="car")]]
    assert proposer.settings()["form"] == "coco"


def test_coco_images_of_one_name_in_two_folders_are_told_apart(tmp_path):
    images = [{"id": 1, "file_name": "a/x.jpg"}, {"id": 2, "file_name": "b/x.jpg"}]
    annotations = [{"image_id": i, "bbox": [10 * i, 0, 5, 5]} for i in (1, 2)]
    proposer = write(tmp_path / "b.json", {"images": images, "annotations": annotations})
    first, second, neither = proposer.propose([blank("a/x.jpg"), blank("b/x.jpg"), blank("x.jpg")], 10)
    assert [region.box[0] for region in first + second] == [10, 20]
    assert neither == []


def test_coco_categories_are_compared_as_text(tmp_path):
    content = copy.deepcopy(COCO)
    content["annotations"][0]["category_id"] = "3"
    ((region,),) = write(tmp_path / "b.json", content).propose([blank("7")], 10)
    assert region.label == "car"


def test_coco_results(tmp_path):
    first, second = write(tmp_path / "b.json", RESULTS).propose([blank("7"), blank("8")], 10)
    assert first == [
        Region((1.5, 2.0, 4.5, 6.0), 0.8, label="dog"),
        Region((1.0, 2.0, 4.0, 6.0), 0.2, label="2"),
    ]
    assert second == [Region((1.0, 2.0, 4.0, 6.0), 0.8)]


def test_settings_depend_on_the_content_only(tmp_path):
    a, b = write(tmp_path / "a.json", FELGA), write(tmp_path / "b.json", {"a": []})
    assert a.settings() != b.settings()
    assert a.settings() == write(tmp_path / "c.json", FELGA).settings()


HUGE = "1" + "0" * 399
CAR = '"image_id": 7, "bbox": [1, 2, 3, 4]'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not json"),
        ("", "is not json"),
        ("3", "is not a box file"),
        ({"a": 3}, "is not a box file"),
        ("[" * 200_000, "nested too deeply"),
        ('{"a": ' * 200_000, "nested too deeply"),
        ({"a": [{"bbox": [1, 2, 3, 4]}]}, "box 0 of image 'a' .* has no 'box'"),
        ({"a": [[1, 2, 3, 4], [1, 2, 3]]}, "box 1 of image 'a' .* expected .x1, y1, x2, y2."),
        ({"a": [[1, 2, "3", 4]]}, "expected .x1, y1, x2, y2."),
        ({"a": ["1234"]}, "expected .x1, y1, x2, y2."),
        ({"a": [None]}, "expected .x1, y1, x2, y2."),
        ({"a": [[1, 2, True, 4]]}, "expected .x1, y1, x2, y2."),
        ({"a": [[1, 2, [3], {}]]}, "expected .x1, y1, x2, y2."),
        ('{"a": [[1, 2, NaN, 4]]}', "expected .x1, y1, x2, y2."),
        ('{"a": [[1, 2, Infinity, 4]]}', "expected .x1, y1, x2, y2."),
        (f'{{"a": [[1, 2, {HUGE}, 4]]}}', "expected .x1, y1, x2, y2., finite"),
        ({"a": [[5, 5, 5, 9]]}, "encloses nothing"),
        ({"a": [[30, 5, 5, 9]]}, "encloses nothing"),
        ({"a": [{"box": [1, 2, 3, 4], "score": "high"}]}, "score 'high'"),
        ({"a": [{"box": [1, 2, 3, 4], "score": None}]}, "score None"),
        ({"a": [{"box": [1, 2, 3, 4], "score": 1e39}]}, "score 1e.39: expected a finite number"),
        ('{"a": [{"box": [1, 2, 3, 4], "score": Infinity}]}', "score inf"),
        (f'{{"a": [{{"box": [1, 2, 3, 4], "score": {HUGE}}}]}}', "expected a finite number"),
        ({"a": [{"box": [1, 2, 3, 4], "label": ["car"]}]}, "label .'car'.: expected a string"),
        ('{"a": [{"box": [1, 2, 3, 4], "label": "\\ud800"}]}', "label .* not valid Unicode"),
        ('{"\\ud800": [[1, 2, 3, 4]]}', "image id .* not valid Unicode"),
        ([{"image_id": 3}], "entry 0 of .* has no 'image_id' or no 'bbox'"),
        ([3], "entry 0"),
        ([{"image_id": 3, "bbox": [1, 2, 0, 4]}], "entry 0 .* .image '3'. encloses nothing"),
        ([{"image_id": [3], "bbox": [1, 2, 3, 4]}], "image_id .3.: expected a string or an integer"),
        ([{"image_id": True, "bbox": [1, 2, 3, 4]}], "image_id True: expected a string or an integer"),
        (f'[{{{CAR}, "category_id": [1]}}]', "category_id .1.: expected a string or an integer"),
        (f'[{{{CAR}, "category_id": "\\ud800"}}]', "category_id .* not valid Unicode"),
        ({"annotations": [{}]}, "annotation 0"),
        (f'{{"annotations": [{{{CAR}, "iscrowd": [0]}}]}}', "iscrowd .0.: expected 0 or 1"),
        (f'{{"annotations": [{{{CAR}, "category_id": [1]}}], "categories": []}}', "category_id .1."),
        ({"annotations": [], "images": 5}, "'images' of .* is 5: expected a list of objects"),
        ({"annotations": [], "images": None}, "'images' of .* is None: expected a list of objects"),
        ({"annotations": [], "images": [5]}, "images.0. of .* is 5: expected an object"),
        ({"annotations": [], "images": [{"id": {}, "file_name": "x"}]}, "images.0. .* has the id"),
        ({"annotations": [], "images": [{"id": 1, "file_name": 1.5}]}, "has the file_name 1.5"),
        ({"annotations": [], "categories": [{"id": 3}]}, "categories.0. .* no 'id' or no 'name'"),
        ({"annotations": [], "categories": [{"id": [3], "name": "a"}]}, "categories.0. .* has the id"),
        ({"annotations": [], "categories": 3}, "'categories' of .* is 3"),
    ],
    ids=lambda value: str(value)[:40].encode("ascii", "backslashreplace").decode(),
)
def test_a_malformed_file_is_one_sentence(tmp_path, content, words):
    with pytest.raises(BadInputError, match=words) as error:
        write(tmp_path / "b.json", content)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 600
    message.encode()  # printable anywhere


def test_a_file_that_is_not_utf8_is_one_sentence(tmp_path):
    (tmp_path / "b.json").write_bytes(b'{"a\xff": []}')
    with pytest.raises(BadInputError, match="is not json"):
        make_regions(f"boxes:{tmp_path}/b.json")


def test_a_pipe_is_refused_instead_of_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInputError, match="not a regular file"):
        make_regions(f"boxes:{tmp_path}/pipe")


def test_a_missing_file_and_a_missing_argument(tmp_path):
    with pytest.raises(NotFoundError, match=r"none\.json"):
        make_regions(f"boxes:{tmp_path}/none.json")
    with pytest.raises(NotFoundError, match="~nobody"):
        make_regions("boxes:~nobody-of-this-name/b.json")
    with pytest.raises(BadInputError, match="boxes:FILE"):
        make_regions("boxes")


VALUES = [
    None, True, -1, 0, 10**400, 1e308, -1e308, float("nan"), float("inf"), "", "x", "\ud800", "a\0b",
    [], [[]], [1, 2, 3, 4], {}, {"a": [1]}, [None], "9" * 5000,
]  # fmt: skip


def places(node, path=()):
    """Paths of every value inside a json tree."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def mutated(content, rng):
    """A copy with one value replaced or removed, or one key renamed."""
    content = copy.deepcopy(content)
    *parents, key = rng.choice(list(places(content)))
    node = content
    for parent in parents:
        node = node[parent]
    action = rng.randrange(8)
    if action == 0:
        del node[key]
    elif action == 1 and isinstance(node, dict):
        node[rng.choice(["", "x", "\ud800"])] = node.pop(key)
    else:
        node[key] = copy.deepcopy(rng.choice(VALUES))
    return content


@pytest.mark.parametrize("content", [FELGA, COCO, RESULTS], ids=["felga", "coco", "results"])
def test_mutated_files_are_refused_or_keep_the_contract(tmp_path, content):
    rng = random.Random(0)
    images = [blank(name) for name in ("a", "7", "8", "000007.jpg")]
    refused: list[str] = []
    for _ in range(400):
        changed = mutated(content, rng)
        try:
            proposer = write(tmp_path / "b.json", changed)
        except FelgaError as error:
            refused.append(str(error))
            continue
        for image, regions in zip(images, proposer.propose(images, 10), strict=True):
            check_regions(image, regions, 10)
    assert 100 < len(refused) < 400
    assert all("\n" not in message and message.encode() for message in refused)
