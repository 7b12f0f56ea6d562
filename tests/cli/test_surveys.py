"""``felga concepts`` and ``felga audit`` as a person or a program meets them."""

from __future__ import annotations

import csv
import io
import json

from PIL import Image

from tests.cli.calls import call


def test_concepts_of_an_index_and_their_sheet(capsys, believed, tmp_path):
    words = ["concepts", "--index", believed, "-k", 2]
    out, err = call(capsys, *words, "--format", "json", "--save-viz", tmp_path / "new" / "concepts.png")
    found = json.loads(out)
    assert 1 <= len(found) <= 2
    assert set(found[0]) == {"name", "images", "regions", "exemplars"}
    assert set(found[0]["exemplars"][0]) == {"image_id", "path", "box", "score", "quality"}
    assert "no FENet" not in err
    assert "concepts.png" in err
    with Image.open(tmp_path / "new" / "concepts.png") as sheet:
        assert sheet.height > 100 * len(found)
    assert found[0]["name"] in call(capsys, *words)[0]
    _, err = call(capsys, *words[:3], "-k", 0, code=2)
    assert "top must be at least 1" in err
    _, err = call(capsys, *words, "--save-viz", tmp_path / "a.txt", code=2)
    assert "name an image file" in err


def test_concepts_without_a_fenet_are_rough(capsys, demo):
    assert "no FENet" in call(capsys, "concepts", "--index", demo[0])[1]


def test_findings_of_an_index(capsys, demo):
    words = ["audit", "--index", demo[0], "-k", 3]
    out, err = call(capsys, *words, "--format", "json")
    found = json.loads(out)
    assert set(found) == {"texts", "captions", "keywords", "regions"}
    assert found["texts"] == 16
    assert all(len(found[kind]) <= 3 for kind in ("captions", "keywords", "regions"))
    assert "findings are guesses" in err
    rows = list(csv.DictReader(io.StringIO(call(capsys, *words, "--format", "csv")[0])))
    assert [row["word"] for row in rows] == [
        one["word"] for kind in ("captions", "keywords", "regions") for one in found[kind]
    ]
    assert "captions that do not fit" in call(capsys, *words)[0]
    _, err = call(capsys, *words[:3], "-k", 0, code=2)
    assert "top must be at least 1" in err


def test_errors_of_a_labelled_set(capsys, demo, tmp_path):
    content = {
        "images": [{"id": 1, "file_name": "scene-01.png"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [0, 0, 90, 90]}],
        "categories": [{"id": 3, "name": "cat"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    words = ["audit", "--index", demo[0], "--labels", tmp_path / "instances.json"]
    found = json.loads(call(capsys, *words, "--format", "json")[0])
    assert (found["images"], found["missing"], found["unlabelled"]) == (1, 0, 15)
    (cat,) = found["classes"]
    assert cat["found"] + cat["wrong_box"] + cat["wrong_concept"] + cat["no_box"] == cat["images"] == 1
    assert found["total"] == {**cat, "name": "all", "taken_for": None}
    assert len(found["mistakes"]) == 1 - cat["found"]
    assert "wrong concept" in call(capsys, *words)[0]
    _, err = call(capsys, *words[:3], "--labels", tmp_path / "none.json", code=3)
    assert "none.json does not exist: name a COCO annotation json" in err
    (tmp_path / "captions.json").write_text(json.dumps({"images": [], "annotations": []}))
    _, err = call(capsys, *words[:3], "--labels", tmp_path / "captions.json", code=2)
    assert "has no categories and boxes: expected a COCO instances json" in err
