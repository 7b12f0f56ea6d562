"""`felga search` says "no match" where nothing holds, and why a hit is one."""

from __future__ import annotations

import json

import pytest

from felga.errors import BadInputError
from tests.cli.calls import call


def test_what_is_there_is_found_with_its_confidence(capsys, believed):
    out, err = call(capsys, "search", "cat", "--index", believed, "-k", 3, "--format", "json")
    hits = json.loads(out)["hits"]
    assert len(hits) == 3
    assert hits[0]["confidence"] >= 0.95
    assert err == ""


def test_what_is_not_there_is_no_match(capsys, believed):
    out, err = call(capsys, "search", "submarine", "--index", believed, "-k", 3, "--format", "json")
    assert json.loads(out)["hits"] == []
    assert "no match for 'submarine': the best image has a confidence of 0." in err
    assert "--min-confidence 0 shows it" in err
    out, err = call(capsys, "search", "submarine", "--index", believed, "-k", 3, "--min-confidence", 0)
    assert out.count("scene-") == 3
    assert err == ""


def test_a_word_that_nothing_knows_has_confidence_0(capsys, believed):
    out, err = call(capsys, "search", "zerba", "--index", believed, "--min-confidence", 0, "--format", "json")
    assert {hit["confidence"] for hit in json.loads(out)["hits"]} == {0.0}
    assert "zerba" in err


def test_hits_below_the_limit_are_left_out(capsys, believed):
    words = ["search", "cat", "--index", believed, "-k", 16, "--format", "json", "--min-confidence"]
    everything = json.loads(call(capsys, *words, 0)[0])["hits"]
    some = json.loads(call(capsys, *words, 0.99)[0])["hits"]
    assert len(everything) == 16
    assert 0 < len(some) < 16
    assert some == [hit for hit in everything if hit["confidence"] >= 0.99]


def test_an_explanation_says_what_a_region_looks_like(capsys, believed):
    out, _ = call(capsys, "search", "cat", "--index", believed, "-k", 1, "--explain", "--format", "json")
    (hit,) = json.loads(out)["hits"]
    assert 50 < hit["explanation"]["percentile"] < 100
    assert "cat" in hit["explanation"]["keywords"]
    assert "cosine" in call(capsys, "search", "cat", "--index", believed, "-k", 1, "--explain")[0]


def test_without_a_fenet_hits_are_never_hidden(capsys, demo):
    words = ["search", "submarine", "--index", demo[0], "-k", 3, "--format", "json"]
    out, err = call(capsys, *words)
    assert [hit.get("confidence") for hit in json.loads(out)["hits"]] == [None] * 3
    assert err == ""
    out, err = call(capsys, *words, "--explain")
    hits = json.loads(out)["hits"]
    assert len(hits) == 3
    assert hits[0]["confidence"] < 0.95, "it would be hidden, had it been measured"
    assert err == ""


def test_and_has_no_match_if_no_image_surely_shows_a_term(capsys, believed):
    words = ["--index", believed, "-k", 3, "--format", "json"]
    out, err = call(capsys, "search", "cat AND submarine", *words)
    assert json.loads(out)["hits"] == []
    assert "no match for 'cat AND submarine': the best image for 'submarine' has a confidence of 0." in err
    out, err = call(capsys, "search", "cat AND rocket", *words)
    assert len(json.loads(out)["hits"]) == 3
    assert err == ""


@pytest.mark.parametrize("value", ["-0.1", "1.5", "nan"])
def test_a_confidence_lies_between_0_and_1(believed, value):
    from felga.engine import Engine

    with Engine.open(believed) as engine, pytest.raises(BadInputError, match="between 0 and 1"):
        engine.search("cat", min_confidence=float(value))
