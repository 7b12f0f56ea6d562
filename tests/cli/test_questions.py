"""`felga search` with AND and NOT, as a person and as a program sees the answer."""

from __future__ import annotations

import csv
import io
import json

import pytest

from tests.cli.calls import call

BOTH = "cat AND rocket"


def test_each_form_says_which_box_shows_what(capsys, demo):
    words = ["search", BOTH, "--index", demo[0], "-k", 2]
    out, _ = call(capsys, *words, "--format", "json")
    answer = json.loads(out)
    assert answer["query"] == BOTH
    assert [[region["term"] for region in hit["regions"]] for hit in answer["hits"]] == [
        ["cat", "rocket"]
    ] * 2
    out, _ = call(capsys, *words, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["term"] for row in rows] == ["cat", "rocket"] * 2
    assert [float(row["x1"]) for row in rows[:2]] == [
        region["box"][0] for region in answer["hits"][0]["regions"]
    ]
    out, _ = call(capsys, *words)
    assert out.count("cat:") == out.count("rocket:") == 2


def test_one_term_is_not_named(capsys, demo):
    out, _ = call(capsys, "search", "cat", "--index", demo[0], "--format", "json")
    assert all("term" not in region for hit in json.loads(out)["hits"] for region in hit["regions"])
    out, _ = call(capsys, "search", "cat", "--index", demo[0], "--format", "csv")
    assert {row["term"] for row in csv.DictReader(io.StringIO(out))} == {""}
    out, _ = call(capsys, "search", "cat", "--index", demo[0])
    assert "cat:" not in out


def test_one_box_for_all(capsys, demo):
    out, _ = call(capsys, "search", BOTH, "--index", demo[0], "--same-region", "--format", "json")
    for hit in json.loads(out)["hits"]:
        first, second = hit["regions"]
        assert first["box"] == second["box"]
        assert not first["whole"]
    image = demo[1].folder / "scene-04.png"
    _, err = call(capsys, "search", "--image", image, "--same-region", "--index", demo[0], code=2)
    assert "--same-region are for words, not for an image" in err


def test_the_least_sure_term_is_explained(capsys, demo):
    words = ["search", BOTH, "--index", demo[0], "-k", 1, "--explain", "--min-confidence", 0]
    out, _ = call(capsys, *words, "--format", "json")
    (hit,) = json.loads(out)["hits"]
    term = hit["explanation"]["term"]
    region = next(region for region in hit["regions"] if region["term"] == term)
    out, _ = call(capsys, *words)
    assert f"cosine {region['similarity']:.3f}, above" in out
    out, _ = call(capsys, *words[:1], "cat", *words[2:], "--format", "json")
    assert "term" not in json.loads(out)["hits"][0]["explanation"]


@pytest.mark.parametrize("query", ["AND", "NOT car", "0:boat", "boat AND"])
def test_a_malformed_question_is_one_sentence(capsys, demo, query):
    out, err = call(capsys, "search", query, "--index", demo[0], code=2)
    assert out == ""
    assert err.count("\n") == 1
    assert repr(query) in err
