import csv
import io
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from felga.errors import BadInputError
from felga.evaluation.results import read_results
from felga.evaluation.tables import PAPER, TITLES, render_tables, table_rows
from felga.evaluation.task_results import METHODS

from .test_results import make_results


def test_the_papers_tables_agree_with_each_other():
    by_method = {row.method: row for row in PAPER[1]}
    for number in (4, 5):  # ablations repeat rows of Table 1
        for row in PAPER[number]:
            if row.method in by_method:
                assert (row.coco2017, row.coco2014) == (
                    by_method[row.method].coco2017,
                    by_method[row.method].coco2014,
                )
    assert set(PAPER) == set(TITLES) == {1, 2, 3, 4, 5}
    ours = {"random", "felga+owner"}
    assert {row.method for rows in PAPER.values() for row in rows} == set(METHODS) - ours


def test_sums_of_the_transcribed_columns():
    sums = {
        number: [
            round(sum(column), 1)
            for column in zip(*((*row.coco2017, *row.coco2014) for row in rows), strict=True)
        ]
        for number, rows in PAPER.items()
    }
    # added up from the columns of the paper's text, apart from the table in the code
    assert sums == {
        1: [332.3, 236.9, 327.1, 240.5],
        2: [320.3, 249.1, 315.2, 251.7],
        3: [361.3, 248.3, 356.5, 250.8],
        4: [180.4, 117.8, 179.4, 120.2],
        5: [351.5, 245.4, 346.0, 248.3],
    }


def test_rows_hold_paper_ours_and_difference():
    content = make_results()
    rows = table_rows(content)
    assert len(rows) == 2 * sum(map(len, PAPER.values()))
    row = next(r for r in rows if (r.table, r.method, r.task) == (2, "felga", "object_discovery"))
    ours = 100 * content.results["felga"].object_discovery.map
    assert row.paper == 66.4
    assert row.ours == pytest.approx(ours)
    assert row.difference == pytest.approx(ours - 66.4)
    assert row.std == pytest.approx(5.0)
    assert row.ceiling == pytest.approx(90.0)
    assert row.seeds == 3
    lacking = next(r for r in rows if r.method == "sparse+global")
    assert lacking.ours is None
    assert lacking.difference is None


def test_the_year_chooses_the_papers_column():
    rows = table_rows(replace(make_results(), year=2014), tables=[3])
    assert [row.paper for row in rows[-2:]] == [69.9, 46.3]


def test_formats():
    content = make_results()
    rows = table_rows(content)
    assert json.loads(render_tables(content, "json")) == [asdict(row) for row in rows]
    read = list(csv.DictReader(io.StringIO(render_tables(content, "csv"))))
    assert len(read) == len(rows)
    assert read[0]["paper"] == "50.7"
    text = render_tables(content)
    assert [f"**Table {i}.**" in text for i in range(1, 6)] == [True] * 5
    assert "Dense" not in text, "it was not measured"
    assert "± 5.0" in text
    assert text.count("*proposal ceiling* | | 90.0") == 5
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.count("|") == 8, line


def test_unknown_tables_and_formats_are_refused():
    with pytest.raises(BadInputError, match="no table 6"):
        render_tables(make_results(), tables=[6])
    with pytest.raises(BadInputError, match="format"):
        render_tables(make_results(), "html")


def test_a_table_without_a_measured_row_is_left_out():
    results = make_results()
    only = replace(results, results={"entire": results.results["entire"]})
    text = render_tables(only)
    assert [f"**Table {i}.**" in text for i in range(1, 6)] == [True, True, True, False, False]
    assert "entire image/sentence" in text
    assert "| FELGA" not in text


def test_committed_results_render_to_the_committed_tables():
    folder = Path(__file__).parents[2] / "bench" / "results"
    committed = (folder / "coco-mini-conse.md").read_text()
    text = render_tables(read_results(folder / "coco-mini-conse.json"))
    assert text.replace("percent", "per cent") == committed.replace("percent", "per cent")
    assert "| FELGA |" in render_tables(read_results(folder / "coco-mini-conse-all-pairs.json"))
