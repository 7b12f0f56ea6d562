"""The errors of a labelled set, of a real small index and labels at random places, against plain loops."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest

from felga.corpus.coco import read_instances
from felga.errors import BadInputError
from felga.survey.breakdown import breakdown
from felga.survey.names import Surveyed

NAMES = {3: "cat", 5: "cup", 7: "rocket", 9: "person", 11: "motorcycle", 12: "zebra"}


@pytest.fixture(scope="module")
def images(engine):
    """What the index holds of each image."""
    return engine.index.images.read(["image_id", "path", "boxes", "whole", "quality"]).to_pylist()


def write(path, images, objects, names=NAMES):
    """A COCO instances json; objects: (image id, category, (x1, y1, x2, y2), crowd)."""
    rows = [
        {
            "id": n,
            "image_id": image,
            "category_id": category,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "iscrowd": crowd,
        }
        for n, (image, category, (x1, y1, x2, y2), crowd) in enumerate(objects)
    ]
    content = {
        "images": [{"id": number, "file_name": name} for number, name in images],
        "annotations": rows,
        "categories": [{"id": number, "name": name} for number, name in names.items()],
    }
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module", params=[0, 1, 2])
def labels(request, images, tmp_path_factory):
    """Objects near regions and elsewhere; an image without labels, and labels without an image."""
    rng = np.random.default_rng(request.param)
    listed = [*((n, row["image_id"]) for n, row in enumerate(images) if n), (100, "gone.png")]
    objects = [(100, 5, (0, 0, 50, 50), 0)]
    for n, _ in listed[:-1]:
        for _ in range(rng.integers(0, 6)):
            boxes = images[n]["boxes"]
            box = np.array(boxes[rng.integers(len(boxes))])
            moved = box + rng.choice([0, 0.1, 0.6]) * (box[2] - box[0]) * np.array([1, 0, 1, 0])
            objects.append((n, int(rng.choice(list(NAMES))), tuple(moved.tolist()), int(rng.random() < 0.15)))
    return read_instances(write(tmp_path_factory.mktemp("labels") / "instances.json", listed, objects))


def overlap(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    sizes = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(sizes) - width * height)


def by_loops(engine, images, labels):
    """(counts of each class, all mistakes), by the definition."""
    seen, places = Surveyed(engine), {row["image_id"]: n for n, row in enumerate(images)}
    objects = {places[name]: labels.truths[i] for i, name in labels.files.items() if name in places}
    regions = [seen.regions(n)[0] for n in range(len(images))]
    found, mistakes = {}, []
    for category, name in labels.categories.items():
        own = {
            n: [one.box for one in rows if one.category_id == category and not one.crowd]
            for n, rows in objects.items()
        }
        shows = {n for n, boxes in own.items() if boxes}
        if not shows:
            continue
        left_out = {
            n
            for n, rows in objects.items()
            if n not in shows and any(one.category_id == category for one in rows)
        }
        (vector,) = seen.queries.vectors([name])
        ranked = []
        for n in objects.keys() - left_out:
            cosines = [float(vector @ region) for region in regions[n]]
            scores = [c + 0.1 * math.log(q) for c, q in zip(cosines, images[n]["quality"], strict=True)]
            whole = cosines[images[n]["whole"].index(True)]
            ranked.append(
                ((max(scores) + 0.5 * whole) / 1.5, n, images[n]["boxes"][scores.index(max(scores))])
            )
        ranked.sort(key=lambda row: -row[0])
        answer = {n: (rank, box) for rank, (_, n, box) in enumerate(ranked[: len(shows)], 1)}
        groups = dict.fromkeys(
            ("found", "wrong_box", "wrong_concept", "no_box", "misplaced", "other_class", "background"), 0
        )
        for n in shows:
            possible = any(overlap(b, box) >= 0.5 for b in images[n]["boxes"] for box in own[n])
            right = n in answer and any(overlap(answer[n][1], box) >= 0.5 for box in own[n])
            if not possible:
                groups["no_box"] += 1
            elif n not in answer:
                groups["wrong_concept"] += 1
            else:
                groups["found" if right else "wrong_box"] += 1
            if n in answer and not right:
                groups["misplaced"] += 1
                kind = "wrong box" if possible else "no box"
                mistakes.append((answer[n][0], name, kind, images[n]["image_id"], None))
        for n in answer.keys() - shows:
            rank, box = answer[n]
            fits = [
                (overlap(box, one.box), labels.categories[one.category_id])
                for one in objects[n]
                if not one.crowd and overlap(box, one.box) >= 0.5
            ]
            groups["other_class" if fits else "background"] += 1
            kind, other = ("other class", max(fits)[1]) if fits else ("background", None)
            mistakes.append((rank, name, kind, images[n]["image_id"], other))
        found[name] = {"images": len(shows), "answers": len(answer), **groups}
    return found, mistakes


def test_errors_are_those_of_plain_loops(engine, exchanged, images, labels):
    expected, mistakes = by_loops(engine, images, labels)
    result = breakdown(engine, labels, 1000)
    counts = {one.name: asdict(one) for one in result.classes}
    others = {name: row.pop("taken_for") for name, row in counts.items()}
    for name, row in counts.items():
        assert row.pop("name") == name
    assert counts == expected
    ours = [(one.rank, one.name, one.kind, one.image_id, one.shows) for one in result.mistakes]
    assert sorted(ours, key=str) == sorted(mistakes, key=str)
    assert [one.rank for one in result.mistakes] == sorted(one.rank for one in result.mistakes)
    assert breakdown(engine, labels, 3).mistakes == result.mistakes[:3]
    for one in result.mistakes:
        assert list(one.box) in next(row["boxes"] for row in images if row["image_id"] == one.image_id)
        assert one.path == str(exchanged[1] / one.image_id)
    for name, other in others.items():
        seen = [row[4] for row in mistakes if row[1] == name and row[4]]
        assert other is None if not seen else seen.count(other) == max(map(seen.count, seen))


def test_groups_are_exclusive_and_sum_up(engine, labels):
    result = breakdown(engine, labels)
    for one in (result.total, *result.classes):
        assert one.found + one.wrong_box + one.wrong_concept + one.no_box == one.images > 0
        assert one.found + one.misplaced + one.other_class + one.background == one.answers == one.images
    assert result.total.images == sum(one.images for one in result.classes)
    sizes = [one.images for one in result.classes]
    assert sizes == sorted(sizes, reverse=True)
    assert (result.images, result.missing, result.unlabelled) == (15, 1, 1)


def test_the_answer_is_that_of_a_search(engine, images, labels):
    """Its mistakes stand at the rank where a search has them, among the images that are judged."""
    own = {one.image_id: one for one in breakdown(engine, labels, 1000).mistakes if one.name == "cat"}
    hits = engine.search("cat", k=len(images))
    scores = {hit.image_id: (hit.score, hit.regions[0].box) for hit in hits}
    assert {image: (one.score, one.box) for image, one in own.items()} == {
        image: scores[image] for image in own
    }


def test_every_kind_of_error_occurs_in_these_labels(engine, images, tmp_path):
    """Objects where the best region is, where another one is, and where none is."""
    cat = {hit.image_id: hit.regions[0].box for hit in engine.search("cat", k=len(images))}
    ids = {row["image_id"]: n for n, row in enumerate(images)}
    best, *_, worst = cat
    elsewhere = next(
        tuple(box)
        for box in images[ids[best]]["boxes"]
        if overlap(box, cat[best]) < 0.5 and (box[2] - box[0]) > 2
    )
    listed = [(n, name) for name, n in ids.items()]

    def of(*objects):
        labels = read_instances(write(tmp_path / "a.json", listed, objects))
        (one,) = (one for one in breakdown(engine, labels).classes if one.name == "cat")
        return {key: value for key, value in asdict(one).items() if isinstance(value, int) and value}

    sure = {"images": 1, "answers": 1}
    assert of((ids[best], 3, cat[best], 0)) == {**sure, "found": 1}
    assert of((ids[best], 3, elsewhere, 0)) == {**sure, "wrong_box": 1, "misplaced": 1}
    assert of((ids[best], 3, (0, 0, 2, 2), 0)) == {**sure, "no_box": 1, "misplaced": 1}
    assert of((ids[worst], 3, cat[worst], 0)) == {**sure, "wrong_concept": 1, "background": 1}
    other = (ids[best], 5, cat[best], 0)
    assert of((ids[worst], 3, cat[worst], 0), other) == {**sure, "wrong_concept": 1, "other_class": 1}
    crowd = (ids[best], 3, cat[best], 1)
    second = list(cat)[1]
    assert of((ids[second], 3, cat[second], 0), crowd) == {**sure, "found": 1}


def test_images_are_found_by_id_where_no_path_is_known(engine, images, tmp_path):
    listed = [(row["image_id"], f"elsewhere/{n}.jpg") for n, row in enumerate(images)]
    objects = [(images[0]["image_id"], 3, images[0]["boxes"][0], 0)]
    labels = read_instances(write(tmp_path / "a.json", listed, objects))
    assert breakdown(engine, labels).images == len(images)


def test_labels_that_cannot_be_used(engine, images, tmp_path):
    box, listed = (0, 0, 50, 50), [(n, row["image_id"]) for n, row in enumerate(images)]

    def refused(match, *arguments, k=50):
        labels = read_instances(write(tmp_path / "a.json", *arguments))
        with pytest.raises(BadInputError, match=match):
            breakdown(engine, labels, k)

    refused(
        "none of the 1 labelled images is in .*, by path or by id", [(100, "gone.png")], [(100, 3, box, 0)]
    )
    refused("the labels hold no object in an image of the index", listed, [])
    refused("the labels hold no object in an image of the index", listed, [(0, 3, box, 1)])
    refused("the category 3 of the labels has no name", listed, [(0, 3, box, 0)], {3: " "})
    refused("k must be at least 1, got 0", listed, [(0, 3, box, 0)], k=0)
