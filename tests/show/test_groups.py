"""Groups of copies as text."""

from __future__ import annotations

import csv
import io
import json
import os

from felga.show.groups import all_but_the_best, render_groups
from felga.store.copies import Copy

ODD = "/x/a\udce9\n.png"
GROUPS = [
    [
        Copy("[b]", "/x/[b]", 60, 40, 1234, True, 1.0),
        Copy("c", ODD, 30, 20, 99, False, 0.9512),
    ],
    [Copy("d", "/x/d", 5, 5, 9, True, None), Copy("e", "/x/e", 5, 5, 9, True, None)],
]


def test_json_csv_and_lines_hold_the_same():
    whole = json.loads(render_groups(GROUPS, "json"))
    assert [[copy["image_id"] for copy in group] for group in whole] == [["[b]", "c"], ["d", "e"]]
    assert whole[0][1] == {
        "image_id": "c",
        "path": "/x/a\\xe9\n.png",
        "width": 30,
        "height": 20,
        "size": 99,
        "exact": False,
        "similarity": 0.9512,
    }
    assert [json.loads(line) for line in render_groups(GROUPS, "jsonl").splitlines()] == whole
    rows = list(csv.DictReader(io.StringIO(render_groups(GROUPS, "csv"))))
    assert [(row["group"], row["image_id"], row["similarity"]) for row in rows] == [
        ("1", "[b]", "1.0"), ("1", "c", "0.9512"), ("2", "d", ""), ("2", "e", ""),
    ]  # fmt: skip


def test_the_table_says_what_each_image_is():
    text = render_groups(GROUPS, "table")
    for part in ("[b]", "60x40", "1,234", "best", "0.951", "equal file"):
        assert part in text
    assert "no copies" in render_groups([], "table")


def test_lists_leave_out_the_best_and_what_is_gone(tmp_path):
    here = os.path.join(tmp_path, ODD.rpartition("/")[2])
    with open(here, "w"):
        pass
    group = [Copy("a", "/x/a", 1, 1, 1, True, 1.0), Copy("b", here, 1, 1, 1, True, 1.0)]
    group.append(Copy("c", "/x/gone", 1, 1, 1, True, 1.0))
    assert all_but_the_best([group], b"\0") == os.fsencode(here) + b"\0"
