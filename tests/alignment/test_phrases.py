"""Which noun phrase describes an object, and which boxes have one for certain."""

from __future__ import annotations

import json

import numpy as np
import pytest

from felga.alignment.phrases import region_phrase
from felga.alignment.region_texts import read_region_texts
from felga.alignment.tag_words import tag_words, tags_of
from felga.errors import BadInputError, NotFoundError
from tests.alignment.made import edited, tiny_coco


@pytest.mark.parametrize(
    ("caption", "name", "phrase"),
    [
        ("A big red bus driving down a street.", "bus", "big red bus"),
        ("Large brown bear on the green grass next to a log.", "bear", "large brown bear on the green grass"),
        ("A woman holding an umbrella in the rain", "person", "woman holding an umbrella"),
        ("There is a cat in a white sink near soap", "cat", "cat in a white sink"),
        ("A cat in a sink looks up", "cat", "cat in a sink"),
        ("A man on a couch playing with a wii", "couch", "couch"),
        ("A man riding horses", "horse", "horses"),
        ("A dog standing next to a car", "dog", "dog"),
        ("A hot dog on a plate", "dog", None),
        ("A dog.", "dog", "dog"),
        ("dog", "dog", "dog"),
        ("A person and a small white dog with", "dog", "small white dog"),
        ("", "dog", None),
    ],
)
def test_the_phrase_around_a_mention(caption, name, phrase):
    assert region_phrase(caption, name) == phrase


def test_only_an_object_that_is_alone_of_its_class_is_described(tmp_path):
    texts = read_region_texts(*tiny_coco(tmp_path, 3))
    assert texts.class_names == ["bus", "dog", "bottle"]  # by their ids
    assert texts.phrases == [
        ["red dog lying on the grass"], [], [],
        ["blue bus in a street"], [], [],
        ["blue dog lying on the grass"], [], [],
    ]  # fmt: skip
    assert texts.described.tolist() == [0, 3, 6]
    assert texts.box_image.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    np.testing.assert_array_equal(texts.boxes[0], [8, 8, 58, 48])


def test_a_crowd_of_its_class_leaves_a_box_undescribed(tmp_path):
    instances, captions, images = tiny_coco(tmp_path, 3)
    crowd = {"id": 99, "image_id": 1, "category_id": 18, "bbox": [0, 0, 9, 9], "iscrowd": 1}
    edited(instances, lambda data: data["annotations"].append(crowd))
    texts = read_region_texts(instances, captions, images)
    assert texts.described.tolist() == [3, 6]
    assert len(texts.boxes) == 9


def test_held_out_images_are_all_others(tmp_path):
    paths = tiny_coco(tmp_path, 8)
    parts = [read_region_texts(*paths, leave_out=(3, 1), only=only) for only in (False, True)]
    ids = [[one for one, _ in part.images] for part in parts]
    assert ids == [["1", "3", "4", "6", "7"], ["2", "5", "8"]]


def test_files_that_describe_nothing_are_refused(tmp_path):
    instances, captions, images = tiny_coco(tmp_path, 3)
    with pytest.raises(NotFoundError, match="absent.json does not exist"):
        read_region_texts(instances, tmp_path / "absent.json", images)
    with pytest.raises(BadInputError, match="has no captions"):
        read_region_texts(instances, instances, images)
    edited(captions, lambda data: [row.update(caption="Nothing.") for row in data["annotations"]])
    with pytest.raises(BadInputError, match="no caption of .* alone of its class"):
        read_region_texts(instances, captions, images)
    captions.write_text(json.dumps([1]))
    with pytest.raises(BadInputError, match="has no list 'images'"):
        read_region_texts(instances, captions, images)


def test_tags_are_class_names_and_frequent_words_known_where_described(tmp_path, monkeypatch):
    monkeypatch.setattr("felga.alignment.tag_words.OFTEN", 4)
    texts = read_region_texts(*tiny_coco(tmp_path, 8))
    tags = tag_words(texts)
    assert tags[:3] == texts.class_names
    assert sorted(tags[3:]) == ["grass", "lying", "street"]  # no color in 4 of 8 phrases; no preposition
    fits, known = tags_of(texts, tags)
    assert fits[0].tolist() == [tag in ("dog", "grass", "lying") for tag in tags]
    assert known[0].all()
    assert fits[1].tolist() == [tag == "bottle" for tag in tags]
    assert known[1].tolist() == [True] * 3 + [False] * 3
