"""``felga concepts`` and ``felga audit`` as a person or a program meets them."""

from __future__ import annotations

import csv
import io
import json

from PIL import Image

from tests.cli.calls import call


def test_concepts_of_an_index_and_their_sheet(capsys, demo, tmp_path):
    words = ["concepts", "--index", demo[0], "-k", 2]
    out, err = call(capsys, *words, "--format", "json", "--save-viz", tmp_path / "new" / "concepts.png")
    found = json.loads(out)
    assert 1 <= len(found) <= 2
    assert set(found[0]) == {"name", "images", "regions", "exemplars"}
    assert set(found[0]["exemplars"][0]) == {"image_id", "path", "box", "score", "quality"}
    assert "no FENet" in err
    assert "concepts.png" in err
    with Image.open(tmp_path / "new" / "concepts.png") as sheet:
        assert sheet.height > 100 * len(found)
    assert found[0]["name"] in call(capsys, *words)[0]
    _, err = call(capsys, *words[:3], "-k", 0, code=2)
    assert "top must be at least 1" in err
    _, err = call(capsys, *words, "--save-viz", tmp_path / "a.txt", code=2)
    assert "name an image file" in err


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
