from __future__ import annotations

import pytest

from felga.corpus.items import BadItem, ImageItem, TextItem, make_listing, texts_of


def image(image_id="a", path="a.png", size=1, mtime_ns=1):
    return ImageItem(image_id, path, size, mtime_ns)


def test_a_listing_is_sorted_and_of_equal_ids_the_first_is_kept():
    first, double = image("a", "1.png"), image("a", "2.png")
    texts = [TextItem("t", None, "x"), TextItem("s", "a", "y"), TextItem("t", "a", "z")]
    listing = make_listing(
        [image("b"), first, image("\u00e9"), double], texts, [BadItem("text", "z", "", "odd")]
    )
    assert listing.images == [first, image("b"), image("\u00e9")]
    assert listing.texts == [texts[1], texts[0]]
    assert listing.bad == [
        BadItem("image", "a", "2.png", "another image has the same id"),
        BadItem("text", "t", "a", "another text has the same id"),
        BadItem("text", "z", "", "odd"),
    ]
    assert make_listing(listing.images, listing.texts, listing.bad) == listing


@pytest.mark.parametrize(("time", "stored"), [(2**63, 2**63 - 1), (-(2**70), 1 - 2**63), (5, 5)])
def test_times_are_clamped_to_int64(time, stored):
    assert make_listing([image(mtime_ns=time)], [], []).images == [image(mtime_ns=stored)]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (image("\ud800"), "its id is not valid Unicode"),
        (image(path="a\0"), "its path contains a NUL character"),
        (image(path="\ud800"), "its path is not valid Unicode"),
        (image(size=-1), "its size is -1 bytes"),
        (image(size=2**63), f"its size is {2**63} bytes"),
        (image(size=None), "its size and its time must be integers"),
        (image(5), "its id and its path must be strings"),
    ],
)
def test_an_image_that_cannot_be_stored_is_bad(bad, reason):
    listing = make_listing([bad, image("good")], [], [])
    assert listing.images == [image("good")]
    assert listing.bad[0].reason.startswith(reason)
    listing.bad[0].item_id.encode()


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (TextItem("\ud800", None, "x"), "its id is not valid Unicode"),
        (TextItem("a", "\ud800", "x"), "the id of its image is not valid Unicode"),
        (TextItem("a", None, "x \ud800"), r"the text is not valid Unicode: \ud800 at character 3"),
        (TextItem("a", None, 5), "its id and its text must be strings"),
        (TextItem("a", 5, "x"), "the id of its image must be a string"),
    ],
)
def test_a_text_that_cannot_be_stored_is_bad(bad, reason):
    listing = make_listing([], [bad, TextItem("good", None, "x")], [])
    assert listing.texts == [TextItem("good", None, "x")]
    assert listing.bad[0].reason.startswith(reason)


def test_captions_become_one_text_or_one_each():
    captions = [" A\tboat. ", "", "\u2028", "Two\nboats."]
    assert texts_of(captions, "t", "i", "joined") == [TextItem("t", "i", "A boat. Two boats.")]
    assert texts_of(captions, "t", "i", "each") == [
        TextItem("t#0", "i", "A boat."),
        TextItem("t#1", "i", "Two boats."),
    ]
    assert texts_of(["", " "], "t", "i", "joined") == []
