"""The plan of a sync against what happened to the files."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest

from felga.corpus.items import ImageItem, TextItem
from felga.errors import BadInputError
from felga.indexing.plan import (
    DIGEST,
    Known,
    check_removals,
    image_rules,
    make_plan,
    text_digest,
    text_rules,
)
from tests.made import counts


def known_images(*rows) -> Known:
    """Rows (image_id, size, mtime, sha256, error); the row id is the position plus 100."""
    columns = list(zip(*rows, strict=True)) if rows else [()] * 5
    names = ("image_id", "size", "mtime_ns", "sha256", "error")
    data = {name: pa.array(list(column)) for name, column in zip(names, columns, strict=True)}
    data["path"] = pa.array([name.encode() for name in columns[0]], pa.binary())
    data["_rowid"] = pa.array(range(100, 100 + len(rows)), pa.uint64())
    return Known(pa.table(data).column, "image_id")


def item(name: str, size: int = 5, mtime: int = 1) -> ImageItem:
    return ImageItem(name, name, size, mtime)


def rules(content: dict[str, str], bad: dict[str, str] | None = None):
    """Images whose content is given by id; reading any other image fails the test."""
    return image_rules(
        sha256=lambda one: content[one.image_id],
        still_bad=lambda one, reason: (bad or {}).get(one.image_id) == reason,
    )


def test_new_unchanged_touched_changed_and_gone():
    known = known_images(
        ("a", 5, 1, "A", None), ("b", 5, 1, "B", None), ("c", 5, 1, "C", None), ("d", 5, 1, "D", None)
    )
    listed = [item("a"), item("b", mtime=2), item("c", mtime=2), item("e", size=9)]
    plan = make_plan(listed, known, rules({"b": "B", "c": "other"}))
    assert counts(plan.counts) == {"added": 1, "changed": 1, "removed": 1, "unchanged": 2}
    assert [one.image_id for one in plan.encode] == ["c", "e"]
    assert plan.remove == [102, 103]
    assert [(at, row) for at, row, _ in plan.moves] == [(1, 101)]
    assert plan.examples["added"] == ["e"]


def test_all_renamed_is_all_renamed():
    known = known_images(*((f"p{i}", 5, 1, f"S{i}", None) for i in range(30)))
    listed = [item(f"sub/p{i}") for i in range(30)]
    plan = make_plan(listed, known, rules({f"sub/p{i}": f"S{i}" for i in range(30)}))
    assert counts(plan.counts) == {"renamed": 30}
    assert not plan.encode
    assert not plan.remove
    check_removals("images", plan, known, "corpus")


def test_only_images_of_the_size_of_a_missing_one_are_read():
    known = known_images(("gone", 7, 1, "G", None))
    plan = make_plan([item("x", size=5), item("y", size=7)], known, rules({"y": "other"}))
    assert counts(plan.counts) == {"added": 2, "removed": 1}


def test_twins_claim_one_row_each():
    known = known_images(("a", 5, 1, "S", None), ("b", 5, 1, "S", None))
    plan = make_plan([item("x"), item("y"), item("z")], known, rules(dict.fromkeys("xyz", "S")))
    assert counts(plan.counts) == {"renamed": 2, "added": 1}


def test_a_quarantined_image_is_tried_again_once():
    known = known_images(("bad", 5, 1, "S", "broken"), ("mended", 5, 1, "T", "broken"))
    plan = make_plan([item("bad"), item("mended")], known, rules({}, bad={"bad": "broken"}))
    assert counts(plan.counts) == {"unchanged": 1, "changed": 1}
    assert plan.remove == [101]


def test_the_newer_of_two_rows_counts():
    known = known_images(("a", 5, 1, "old", None), ("a", 6, 1, "new", None))
    assert known.doubled == [100]


def test_rows_in_any_order_are_found_by_their_ids():
    """More than are compared at once, of which some are listed and some others are not."""
    rng = random.Random(0)
    names = [f"{n:05d}" for n in range(30_000)]
    kept, gone, new = names[5_000:24_000], names[:5_000], names[24_000:]
    rows = kept + gone
    rng.shuffle(rows)
    known = known_images(*((name, 5, 1, "S", "broken" if name < "06000" else None) for name in rows))
    listed = kept + new
    rng.shuffle(listed)
    for order in (listed, sorted(listed)):
        plan = make_plan([item(name, mtime=2) for name in order], known, rules(dict.fromkeys(names, "S")))
        assert counts(plan.counts) == {"changed": 1000, "unchanged": 18_000, "renamed": 5_000, "added": 1_000}
        for at, row, values in plan.moves:
            assert row == at + 100
            assert values["image_id"] == rows[at] or rows[at] in gone
        assert sorted(rows[row - 100] for row in plan.remove) == names[5_000:6_000]


def test_texts_by_the_same_algorithm():
    table = pa.table(
        {
            "text_id": ["a", "b", "c"],
            "image_id": ["a", None, "c"],
            DIGEST: [text_digest(text) for text in ("one", "two", "three")],
            "_rowid": pa.array([100, 101, 102], pa.uint64()),
        }
    )
    listed = [TextItem("a", "a", "one"), TextItem("b", "b", "two"), TextItem("sub/c", "sub/c", "three")]
    plan = make_plan(listed, Known(table.column, "text_id"), text_rules())
    assert counts(plan.counts) == {"unchanged": 2, "renamed": 1}
    assert [dict(values) for _, _, values in plan.moves] == [
        {"text_id": "b", "image_id": "b"},
        {"text_id": "sub/c", "image_id": "sub/c"},
    ]


@pytest.mark.parametrize(
    ("what", "total", "gone", "refused"),
    [
        ("images", 100, 51, True),
        ("images", 100, 50, False),
        ("images", 30, 20, False),
        ("images", 39, 33, True),
        ("images", 3, 3, True),
        ("images", 3, 2, False),
        ("texts", 3, 3, False),
        ("texts", 300, 299, True),
    ],
)
def test_surprising_removals_are_refused(what, total, gone, refused):
    known = known_images(*((f"p{i}", 5, 1, f"S{i}", None) for i in range(total)))
    plan = make_plan([item(f"p{i}") for i in range(gone, total)], known, rules({}))
    assert plan.counts.removed == gone
    if refused:
        with pytest.raises(BadInputError, match=f"would remove {gone} of the {total} {what}.*--prune"):
            check_removals(what, plan, known, "corpus")
    else:
        check_removals(what, plan, known, "corpus")
