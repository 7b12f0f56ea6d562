"""Listings as columns: the same items as objects would be, in a quarter of the memory."""

from __future__ import annotations

import tracemalloc

import pyarrow as pa
import pytest

from felga.corpus.columns import Items
from felga.corpus.items import BadItem, ImageItem, Listing, TextItem, checked_listing, make_listing
from felga.indexing.plan import Known, image_rules, make_plan

IMAGES = [
    ImageItem("b", "elsewhere/b.png", 2**40, -5),
    ImageItem("a.png", "a.png", 0, 7),
    ImageItem("bytes", "latin-\udce9.png", 3, 2**63 - 1),
    ImageItem("é", "é", 1, 1),
    ImageItem("\U0001f600", "smile", 1, 1),
    ImageItem("\uffff", "last of the plane", 1, 1),
]


def test_items_are_those_that_were_listed_in_order_of_their_ids():
    listing = make_listing(IMAGES, [], [])
    expected = sorted(IMAGES, key=lambda image: image.image_id)
    assert listing.images == expected
    assert [listing.images[n] for n in range(len(IMAGES))] == expected
    assert listing.images[-1] == expected[-1]
    assert listing.images[1:4] == expected[1:4]
    assert listing.images != expected[:-1]
    with pytest.raises(IndexError):
        listing.images[len(IMAGES)]


def test_texts_without_an_image_stay_without_one():
    texts = [TextItem("t", None, "alone"), TextItem("s", "s.png", "of\x00an image")]
    assert make_listing([], texts, []).texts == texts[::-1]


def test_of_the_same_id_the_first_is_kept():
    twins = [ImageItem("a", "first", 1, 1), ImageItem("0", "0", 1, 1), ImageItem("a", "second", 1, 1)]
    listing = make_listing(twins, [], [])
    assert [image.path for image in listing.images] == ["0", "first"]
    assert listing.bad == [BadItem("image", "a", "second", "another image has the same id")]


def test_lists_of_a_third_party_are_checked_and_our_own_listing_is_not_copied():
    checked = checked_listing(Listing(IMAGES[:2], [], []))
    assert isinstance(checked.images, Items)
    assert [image.image_id for image in checked.images] == ["a.png", "b"]
    assert checked_listing(checked) is checked


def test_more_items_than_a_chunk_keep_their_order():
    listing = make_listing((ImageItem(f"{n:06d}", "p", n, n) for n in range(20_000, 0, -1)), [], [])
    assert [image.size for image in listing.images] == list(range(1, 20_001))


def test_listing_and_plan_of_an_unchanged_corpus_take_less_than_200_bytes_an_owner():
    count = 50_000
    names = [f"{n // 1000:05d}/{n:012d}.jpg" for n in range(count)]
    columns = {
        "image_id": names,
        "path": [name.encode() for name in names],
        "size": [10_000] * count,
        "mtime_ns": [1] * count,
        "sha256": ["0" * 64] * count,
        "error": pa.nulls(count, pa.string()),
        "_rowid": range(count),
    }

    def read(name):
        types = {"path": pa.binary(), "size": pa.int64(), "mtime_ns": pa.int64(), "_rowid": pa.uint64()}
        return pa.chunked_array([pa.array(columns[name], types.get(name))])

    before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        listing = make_listing((ImageItem(name, name, 10_000, 1) for name in names), [], [])
        known = Known(read, "image_id")
        plan = make_plan(listing.images, known, image_rules(sha256=None, still_bad=None))
        peak = pa.total_allocated_bytes() - before + tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert plan.counts.unchanged == count
    assert peak / count < 200
