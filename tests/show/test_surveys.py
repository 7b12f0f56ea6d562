"""Concepts and findings as text."""

from __future__ import annotations

import csv
import io
import json

from felga.show.surveys import render_audit, render_breakdown, render_concepts
from felga.survey.audit import Audit, Finding
from felga.survey.breakdown import Breakdown, ClassErrors, Mistake
from felga.survey.concepts import Concept, Exemplar

ODD = "/x/a\udce9\n.png"
CONCEPTS = [
    Concept(
        "boat",
        1200,
        1300,
        (
            Exemplar("[b]", "/x/[b]", (1.0, 2.0, 3.5, 4.0), 0.5, 0.75),
            Exemplar("c", ODD, (0.0, 0.0, 9.0, 9.0), 0.25, None),
        ),
    ),
    Concept("zebra", 1, 1, (Exemplar("d", "/x/d", (0.0, 0.0, 1.0, 1.0), 0.1, 0.5),)),
]
AUDIT = Audit(
    captions=(Finding("caption", 1, -0.5, "[b]", "/x/[b]", "boats", "t", "Two [boats].", (5, 10)),),
    keywords=(Finding("keyword", 1, -5.25, "c", ODD, "dog", "u", "A dog.", (2, 5)),),
    regions=(Finding("region", 1, 0.97, "d", "/x/d", "kite", box=(1.0, 2.0, 3.0, 4.0), quality=0.5),),
    texts=7,
)


def test_concepts_as_json_lines_and_csv_hold_the_same():
    whole = json.loads(render_concepts(CONCEPTS, "json"))
    assert [(one["name"], one["images"], one["regions"]) for one in whole] == [
        ("boat", 1200, 1300),
        ("zebra", 1, 1),
    ]
    assert whole[0]["exemplars"][1] == {
        "image_id": "c", "path": "/x/a\\xe9\n.png", "box": [0, 0, 9, 9], "score": 0.25, "quality": None,
    }  # fmt: skip
    assert [json.loads(line) for line in render_concepts(CONCEPTS, "jsonl").splitlines()] == whole
    rows = list(csv.DictReader(io.StringIO(render_concepts(CONCEPTS, "csv"))))
    assert [(row["name"], row["image_id"], row["x2"], row["quality"]) for row in rows] == [
        ("boat", "[b]", "3.5", "0.75"), ("boat", "c", "9.0", ""), ("zebra", "d", "1.0", "0.5"),
    ]  # fmt: skip


def test_the_table_of_concepts():
    text = render_concepts(CONCEPTS, "table")
    for part in ("boat", "1,200", "1,300", "[b], c", "zebra"):
        assert part in text
    assert "no region stands out" in render_concepts([], "table")


def test_findings_as_json_lines_and_csv_hold_the_same():
    whole = json.loads(render_audit(AUDIT, "json"))
    assert whole["texts"] == 7
    assert whole["captions"][0]["span"] == [5, 10]
    assert whole["keywords"][0]["path"] == "/x/a\\xe9\n.png"
    assert whole["regions"][0]["box"] == [1, 2, 3, 4]
    lines = [json.loads(line) for line in render_audit(AUDIT, "jsonl").splitlines()]
    assert lines == [*whole["captions"], *whole["keywords"], *whole["regions"]]
    rows = list(csv.DictReader(io.StringIO(render_audit(AUDIT, "csv"))))
    assert [(row["kind"], row["word"], row["start"], row["x1"], row["quality"]) for row in rows] == [
        ("caption", "boats", "5", "", ""), ("keyword", "dog", "2", "", ""),
        ("region", "kite", "", "1.0", "0.5"),
    ]  # fmt: skip
    assert rows[0]["text"] == "Two [boats]."
    assert rows[0]["score"] == "-0.5"


def test_the_tables_of_findings():
    text = render_audit(AUDIT, "table")
    for part in (
        "captions that do not fit",
        "Two [boats].",
        "-5.25",
        "no caption of the image mentions",
        "kite",
    ):
        assert part in text
    assert "1, 2, 3, 4" in text
    assert render_audit(Audit((), (), (), 0), "table").count("none") == 3


BREAKDOWN = Breakdown(
    images=1200,
    missing=3,
    unlabelled=4,
    total=ClassErrors("all", 10, 4, 3, 2, 1, 10, 3, 2, 1),
    classes=(ClassErrors("[cat]", 10, 4, 3, 2, 1, 10, 3, 2, 1, "dog"),),
    mistakes=(
        Mistake("other class", "[cat]", 1, 0.5, "[b]", "/x/[b]", (1.0, 2.0, 3.0, 4.5), "dog"),
        Mistake("background", "[cat]", 7, 0.25, "c", ODD, (0.0, 0.0, 9.0, 9.0), None),
    ),
)


def test_errors_as_json_lines_and_csv_hold_the_same():
    whole = json.loads(render_breakdown(BREAKDOWN, "json"))
    assert (whole["images"], whole["missing"], whole["unlabelled"]) == (1200, 3, 4)
    assert whole["mistakes"][1]["path"] == "/x/a\\xe9\n.png"
    assert whole["mistakes"][0]["box"] == [1, 2, 3, 4.5]
    rows = [json.loads(line) for line in render_breakdown(BREAKDOWN, "jsonl").splitlines()]
    assert rows == [whole["total"], *whole["classes"]]
    table = list(csv.DictReader(io.StringIO(render_breakdown(BREAKDOWN, "csv"))))
    assert [(row["name"], row["wrong_box"], row["taken_for"]) for row in table] == [
        ("all", "3", ""), ("[cat]", "3", "dog"),
    ]  # fmt: skip


def test_the_table_of_errors():
    text = render_breakdown(BREAKDOWN, "table")
    for part in (
        "[cat]",
        "40",
        "1,200 labelled images",
        "3 that are not",
        "4 images without",
        "other class: dog",
    ):
        assert part in text
    nothing = Breakdown(1, 0, 0, BREAKDOWN.total, BREAKDOWN.classes, ())
    assert "none" in render_breakdown(nothing, "table")
