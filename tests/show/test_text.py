"""Hits as text."""

from __future__ import annotations

import csv
import io
import json

from felga.show.text import Answer, render
from felga.types import Explanation, ImageHit, RegionHit, TextHit

IMAGES = Answer(
    "boat",
    "photos",
    [ImageHit(1, "a", "/x/a\udce9.png", 0.123456789, (RegionHit((1, 2, 3, 4), 0.123456789, label="[b]"),))],
    "images",
)
TEXTS = Answer("a.png", "photos", [TextHit(1, "t", "A [boat]", 0.5, "boat", (3, 7))], "texts")


def test_csv_without_hits_has_the_header_of_its_kind():
    header = render([Answer("a.png", "photos", [], "texts")], "csv", many=False)
    assert header == "query,rank,text_id,text,score,keyword,start,end\n"
    assert header == render([TEXTS], "csv", many=False).splitlines(keepends=True)[0]
    header = render([Answer("boat", "photos", [], "images")], "csv", many=False)
    assert header == (
        "query,rank,image_id,path,score,confidence,region_score,x1,y1,x2,y2,label,similarity,quality,term\n"
    )


def test_a_table_without_hits_has_the_columns_of_its_kind():
    assert "keyword" in render([Answer("a.png", "photos", [], "texts")], "table", many=False)
    assert "box (x1" in render([Answer("boat", "photos", [], "images")], "table", many=False)


def test_tables_round_scores_and_json_does_not():
    assert " 0.123 " in render([IMAGES], "table", many=False)
    assert json.loads(render([IMAGES], "json", many=False))["hits"][0]["score"] == 0.123456789


def test_square_brackets_are_no_markup():
    assert "A [boat]" in render([TEXTS], "table", many=False)
    assert "[b]" in render([IMAGES], "table", many=False)


def test_undecodable_paths_are_escaped_everywhere():
    assert json.loads(render([IMAGES], "jsonl", many=False))["hits"][0]["path"] == "/x/a\\xe9.png"
    (row,) = csv.DictReader(io.StringIO(render([IMAGES], "csv", many=False)))
    assert (row["path"], row["label"]) == ("/x/a\\xe9.png", "[b]")


def test_json_can_be_ascii_alone():
    answer = Answer("猫", "photos", [], "images")
    assert json.loads(render([answer], "json", many=False, only_ascii=True))["query"] == "猫"
    assert render([answer], "jsonl", many=False, only_ascii=True).isascii()


def test_confidence_and_explanation_are_shown_where_there_are_any():
    why = Explanation(93.75, ("submarine", "whale"), ("boat", "harbor"))
    region = RegionHit((1, 2, 3, 4), 0.1, similarity=0.2, quality=0.5)
    hit = ImageHit(1, "a", "/a.png", 0.1, (region,), confidence=0.97, explanation=why)
    judged = Answer("boat", "photos", [hit], "images")
    table = render([judged], "table", many=False)
    for text in ("confidence", "0.97", "93.8 % of", "submarine, whale", "boat, harbor", "0.50"):
        assert text in table
    read = json.loads(render([judged], "json", many=False))["hits"][0]
    assert read["confidence"] == 0.97
    assert read["explanation"]["rivals"] == ["submarine", "whale"]
    (row,) = csv.DictReader(io.StringIO(render([judged], "csv", many=False)))
    assert row["confidence"] == "0.97"
    assert "confidence" not in render([IMAGES], "table", many=False)
    assert "confidence" not in json.loads(render([IMAGES], "json", many=False))["hits"][0]


def test_images_without_hits_are_no_match():
    assert "no match" in render([Answer("boat", "photos", [], "images")], "table", many=False)
