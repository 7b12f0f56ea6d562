"""Whatever a corpus holds: one malformed row costs that row, and nothing but a FelgaError comes out."""

from __future__ import annotations

import copy
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from felga.corpus.coco import CocoCorpus, Instances, read_coco, read_instances
from felga.corpus.folder import FolderCorpus
from felga.errors import BadInputError, FelgaError
from felga.testing.corpus import check_bad, check_images, check_texts

DEEP: Any = []
for _ in range(300):
    DEEP = [DEEP]
HOSTILE = [
    None, True, 0, -1, 1.5, math.nan, math.inf, 2**70, 10**400, "", " ", "\ud800", "\udce9", "a\0b", "\u2028",
    "../0.png", "/etc/hostname", "x" * 5000, "-", [], [1], ["\ud800"], {}, {"a": [1]}, {"caption": {}}, DEEP,
]  # fmt: skip
ROWS = 5


def names() -> list[str]:
    return [f"{n}.png" for n in range(ROWS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images that are listed, never decoded."""
    folder = tmp_path_factory.mktemp("images")
    for name in names():
        (folder / name).write_bytes(name.encode())
    return folder


def check(listing):
    check_images(listing.images)
    check_texts(listing.texts)
    check_bad(listing.bad)


def mutated(row: dict[str, Any], data: st.DataObject) -> Any:
    """A row with one field replaced, removed or added, or something else in its place."""
    how = data.draw(st.sampled_from(["replace", "replace", "remove", "add", "whole"]))
    value = data.draw(st.sampled_from(HOSTILE))
    key = data.draw(st.sampled_from(sorted(row)))
    if how == "whole":
        return value
    row = copy.deepcopy(row)
    if how == "remove":
        del row[key]
    elif isinstance(row[key], list) and row[key] and data.draw(st.booleans()):
        row[key][data.draw(st.integers(0, len(row[key]) - 1))] = value
    else:
        row[key if how == "replace" else "extra"] = value
    return row


@settings(max_examples=300, deadline=None)
@given(bad=st.integers(0, ROWS - 1), data=st.data(), each=st.booleans())
def test_a_mutated_metadata_row_costs_that_row(folder, bad, data, each):
    rows: list[Any] = [{"file_name": name, "text": [f"Caption {name}", "More."]} for name in names()]
    rows[bad] = mutated(rows[bad], data)
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    listing = FolderCorpus(folder, "each" if each else "joined").scan()
    check(listing)
    assert [image.image_id for image in listing.images] == names()
    texts = " ".join(text.text for text in listing.texts)
    assert all(f"Caption {name}" in texts for n, name in enumerate(names()) if n != bad)
    assert FolderCorpus(folder, "each" if each else "joined").scan() == listing


@settings(max_examples=200, deadline=None)
@given(bad=st.integers(0, ROWS - 1), line=st.binary(max_size=60).map(lambda line: line.replace(b"\n", b"")))
@example(bad=2, line=b"[" * 200_000)
@example(bad=2, line=b'{"file_name": ' + b"9" * 5000 + b"}")
@example(bad=0, line=b"\xff\xfe\x00")
@example(bad=1, line=b'{"text": "\xed\xa0\x80"}')
@example(bad=1, line=b'{"text": "x\x00"}')
@example(bad=1, line=b'{"text": ' + b'"x' * 2**20 + b'"}')
def test_a_line_of_any_bytes_costs_that_line(folder, bad, line):
    lines = [json.dumps({"file_name": name, "text": f"Caption {name}"}).encode() for name in names()]
    lines[bad] = line
    (folder / "metadata.jsonl").write_bytes(b"\r\n".join(lines))
    listing = FolderCorpus(folder).scan()
    check(listing)
    captions = {text.text for text in listing.texts}
    assert captions >= {f"Caption {name}" for n, name in enumerate(names()) if n != bad}


def captions_json() -> dict[str, Any]:
    return {
        "images": [{"id": n, "file_name": name, "width": 9} for n, name in enumerate(names(), 100)],
        "annotations": [
            {"id": 7 + n, "image_id": 100 + n, "caption": f"Caption {name}"} for n, name in enumerate(names())
        ],
    }


@settings(max_examples=400, deadline=None)
@given(bad=st.integers(0, ROWS - 1), table=st.sampled_from(["images", "annotations"]), data=st.data())
def test_a_mutated_coco_row_costs_that_row(folder, tmp_path_factory, bad, table, data):
    content = captions_json()
    content[table][bad] = mutated(content[table][bad], data)
    listing = scanned(content, folder)
    check(listing)
    kept = {image.image_id: image.path for image in listing.images}
    texts = {text.image_id: text.text for text in listing.texts}
    for n, name in enumerate(names()):
        if table == "annotations" or n != bad:
            assert kept[str(100 + n)] == name
        if n != bad:
            assert texts[str(100 + n)] == f"Caption {name}"


def scanned(content: Any, folder: Path):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(content, file)
        file.flush()
        return CocoCorpus(file.name, folder).scan()


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_mutated_ground_truth_is_read_or_refused_in_a_sentence(data):
    """A row is never skipped: it would change every measurement."""
    content = instances_json()
    table = data.draw(st.sampled_from(["images", "annotations", "categories", "top"]))
    if table == "top":
        content = mutated(content, data)
    else:
        bad = data.draw(st.integers(0, len(content[table]) - 1))
        content[table][bad] = mutated(content[table][bad], data)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(content, file)
        file.flush()
        for read in (read_instances, read_coco):
            found = result_or_sentence(read, Path(file.name))
            if isinstance(found, str):
                assert "\n" not in found
                found.encode()
            elif isinstance(found, Instances):
                boxes = [truth.box for truths in found.truths.values() for truth in truths]
                assert found.thin + len(boxes) == len(content["annotations"])
                assert all(math.isfinite(value) for box in boxes for value in box)


def result_or_sentence(read, path: Path) -> Any:
    try:
        return read(path)
    except FelgaError as error:
        return str(error)


def instances_json() -> dict[str, Any]:
    return {
        "images": [{"id": n, "file_name": f"{n}.png"} for n in range(3)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 9, "iscrowd": 0}
            for n in range(3)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


@pytest.mark.parametrize(
    ("table", "n", "row", "sentence"),
    [
        ("annotations", 1, {"bbox": [1, 2, 3]}, r"annotations\[1\]: bbox is \[1, 2, 3\]"),
        ("annotations", 1, {"bbox": [1, 2, 3, math.nan]}, r"annotations\[1\]: bbox is"),
        ("annotations", 1, {"bbox": [1, 2, 3, 10**400]}, r"annotations\[1\]: bbox is"),
        ("annotations", 1, {"category_id": [1]}, r"category_id is \[1\], expected an integer"),
        ("annotations", 1, {"category_id": 3}, "its category 3 is not in the file"),
        ("annotations", 1, {"image_id": 9}, "its image '9' is not in the file"),
        ("annotations", 1, {"iscrowd": [1]}, r"iscrowd is \[1\]"),
        ("annotations", 1, {"area": "big"}, "area is 'big', expected a number"),
        ("annotations", 1, {"id": None}, r"annotations\[1\]: no usable id"),
        ("categories", 0, {"id": {}}, r"categories\[0\]: expected an integer id and a name"),
        ("images", 0, {"file_name": "../0.png"}, "'../0.png' leaves the folder of images"),
        ("images", 0, {"id": None}, r"images\[0\]: id is None"),
    ],
)
def test_a_malformed_row_of_ground_truth_is_named(tmp_path, table, n, row, sentence):
    content = instances_json()
    content[table][n].update(row)
    (tmp_path / "instances.json").write_text(json.dumps(content))
    with pytest.raises(BadInputError, match=sentence):
        read_instances(tmp_path / "instances.json")


@pytest.mark.parametrize(
    "content",
    ["[" * 200_000, '{"images": ' + "9" * 5000, "\udcff", "null", "[]", "5", "", "{}", '{"images": 5}',
     '{"images": [], "annotations": null}', '{"images": [[]], "annotations": []}', "\ufeff{", "\0"],
)  # fmt: skip
def test_a_file_that_is_no_coco_file_is_one_sentence(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    for read in (read_coco, read_instances, lambda path: CocoCorpus(path, tmp_path).scan()):
        with pytest.raises(BadInputError, match="COCO"):
            read(tmp_path / "x.json")


def test_a_pipe_in_place_of_a_text_file_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(BadInputError, match="not a regular file"):
        CocoCorpus(tmp_path / "x.json").scan()
    os.mkfifo(tmp_path / "a.txt")
    os.mkfifo(tmp_path / "metadata.jsonl")
    reasons = [item.reason for item in FolderCorpus(tmp_path).scan().bad]
    assert reasons == ["the file cannot be read: not a regular file"] * 2
