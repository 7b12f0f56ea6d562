import csv
import io
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from felga.errors import BadInputError
from felga.evaluation.paper_numbers import PAPER, TITLES, comparable, fine_tuned_on_coco
from felga.evaluation.results import read_results
from felga.evaluation.table_rows import BESIDE, MEASURES, table_rows
from felga.evaluation.tables import render_tables
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


FULL = {"test": {"split": "val2017", "images": 5000}, "train": {"split": "train2017", "images": 118287}}


def with_encoder(content, name, data=FULL):
    return replace(content, encoder={"name": name}, data=data)


def test_rows_hold_paper_ours_and_difference():
    content = with_encoder(make_results(), "lavis:blip_feature_extractor/base")
    rows = table_rows(content, tables=tuple(PAPER))
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
    assert all(row.difference is None for row in rows), "conse is none of the paper's encoders"
    assert [row.paper for row in rows[-2:]] == [69.9, 46.3]


def test_formats():
    content = make_results()
    rows = table_rows(content)
    assert json.loads(render_tables(content, "json")) == [asdict(row) for row in rows]
    read = list(csv.DictReader(io.StringIO(render_tables(content, "csv"))))
    assert len(read) == len(rows) > 2 * sum(map(len, PAPER.values()))
    assert read[0]["paper"] == "50.7"
    text = render_tables(content)
    assert [f"**Table {i}.**" in text for i in range(1, 6)] == [True] * 5
    assert "Dense" not in text, "it was not measured"
    assert "± 5.0" in text
    assert text.count("*proposal ceiling* | | 90.0") == 5
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 7  # with owner scores and boxes
    for block in tables:
        assert len({line.count("|") for line in block.splitlines()}) == 1, block


def test_a_difference_needs_the_papers_encoder_and_data():
    content = make_results()
    assert comparable(with_encoder(content, "clip:ViT-B-32/openai"), 1)
    assert comparable(with_encoder(content, "clip:ViT-B-32/openai"), 5)
    assert comparable(with_encoder(content, "blip2:Salesforce/blip2-itm-vit-g"), 3)
    assert not comparable(with_encoder(content, "blip2:Salesforce/blip2-itm-vit-g"), 2)
    assert not comparable(with_encoder(content, "blip:Salesforce/blip-itm-base-coco"), 2), "fine-tuned"
    assert not comparable(with_encoder(content, "conse"), 1)
    small = {**FULL, "test": {"split": "val2017", "images": 300}}
    assert not comparable(with_encoder(content, "clip:ViT-B-32/openai", small), 1)
    small = {**FULL, "train": {"split": "train2017", "images": 1526}}
    assert not comparable(with_encoder(content, "clip:ViT-B-32/openai", small), 1)
    text = render_tables(with_encoder(content, "clip:ViT-B-32/openai"), tables=[1, 2])
    clip, blip = text.split("**Table 2.**")
    assert "difference" in clip
    assert "difference" not in blip
    assert "| proposals | 50.7 |" in clip
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1, block


@pytest.mark.parametrize(
    ("name", "tuned"),
    [
        ("blip:Salesforce/blip-itm-base-coco", True),
        ("blip:models/blip-itm-large-coco/", True),
        ("blip:/data/coco/my-blip", False),
        ("lavis:blip_retrieval/coco", True),
        ("lavis:blip_image_text_matching/base", True),
        ("lavis:blip_feature_extractor/base", False),
        ("clip:coca_ViT-B-32/mscoco_finetuned_laion2b_s13b_b90k", True),
        ("clip:ViT-B-32/laion2b_s34b_b79k", False),
        ("conse", False),
    ],
)
def test_encoders_that_are_fine_tuned_on_coco_are_known_by_name(name, tuned):
    assert fine_tuned_on_coco(name) is tuned


def test_bounds_of_ties_stand_beside_each_assignment_figure():
    content = make_results()
    found = content.results["frozen"].description_assignment
    low, high = 100 * found.map_pessimistic, 100 * found.map_optimistic
    assert low < high
    text = render_tables(content, tables=[1])
    assert f"| {100 * found.map:.1f} | {low:.1f}-{high:.1f} |" in text


def test_the_head_names_the_recipe_and_the_foot_what_regions_learned():
    content = make_results()
    regions = {"proposer": {"name": "learned", "supervision": "boxes of train2017, no class names"}}
    data = {
        "recipe": {"name": "residual", "changes": {"validation": 0.1}},
        "test": {"split": "val2017", "images": 300, "proposers": {"regions": regions}},
    }
    text = render_tables(replace(content, data=data), tables=[1])
    assert "conse on a test; recipe residual with validation=0.1." in text
    assert "Regions: learned from boxes of train2017, no class names." in text
    assert "Regions:" not in render_tables(content)


def test_rows_beside_the_papers_stand_in_the_tables_they_belong_to():
    content = make_results()
    entry = content.results["felga"]
    more = replace(content, results={**content.results, "felga+owner": entry})
    with_it = {row.table for row in table_rows(more) if row.method == "felga+owner"}
    assert with_it == {BESIDE, 4, 5}
    assert all(row.paper is None for row in table_rows(more) if row.method == "felga+owner")
    assert "| FELGA + owner loss |" in render_tables(more, tables=[5])


def test_soft_scores_boxes_and_the_diagnostic_stand_beside():
    content = make_results()
    rows = {(row.method, row.task): row for row in table_rows(content, tables=[BESIDE])}
    boxes = content.results["frozen"].localisation
    assert rows["frozen", "winning box right"].ours == pytest.approx(100 * boxes.winning_boxes.fits)
    assert rows["frozen", "winning box right"].ceiling == pytest.approx(100 * boxes.winning_boxes.oracle)
    assert rows["frozen", "AP50"].ours == pytest.approx(100 * boxes.detection.ap50)
    assert rows["frozen", "phrase grounding"].chance == pytest.approx(100 * boxes.grounding.chance)
    assert {task for method, task in rows if method == "frozen soft"} >= {one.name for one in MEASURES}
    assert ("entire", "AP") not in rows
    text = render_tables(content, tables=[BESIDE])
    soft = 100 * content.results["frozen soft"].object_discovery.map
    assert f"| proposals, soft | {soft:.1f} |" in text
    fits = 100 * boxes.winning_boxes.fits
    assert f"| proposals | {fits:.1f} |" in text
    assert f"the region {100 * content.diagnostic.region:.1f} %" in text


def test_unknown_tables_and_formats_are_refused():
    with pytest.raises(BadInputError, match="no table 6"):
        render_tables(make_results(), tables=[6])
    with pytest.raises(BadInputError, match="format"):
        render_tables(make_results(), "html")


def test_a_table_without_a_measured_row_is_left_out():
    results = make_results()
    only = replace(results, results={"entire": results.results["entire"]}, diagnostic=None)
    text = render_tables(only)
    assert [f"**Table {i}.**" in text for i in range(1, 6)] == [True, True, True, False, False]
    assert "entire image/sentence" in text
    assert "| FELGA" not in text


def test_committed_results_render_to_the_committed_tables():
    folder = Path(__file__).parents[2] / "bench" / "results"
    for name in ("coco-mini-learned", "coco-mini-unsupervised"):
        text = render_tables(read_results(folder / f"{name}.json"))
        assert text == (folder / f"{name}.md").read_text()
        assert "| FELGA |" in text
    assert "no class names" in render_tables(read_results(folder / "coco-mini-learned.json"))
