"""The page of hits: complete, safe, and readable by a parser."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from felga.show.pages import page
from felga.show.text import Answer
from felga.types import ImageHit, RegionHit, TextHit

HOSTILE = "<script>alert(1)</script>\" onerror='x' & <b>\u202e"


class Page(HTMLParser):
    """Every tag with its attributes, and all text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(text)
        self.close()
        assert self.open == [], "tags were not closed"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "a<b>&\udce9.png"
    Image.fromarray(np.full((500, 1000, 3), (200, 30, 40), np.uint8)).save(path)
    return path


def image_answer(path, query="boat", **more):
    regions = (
        RegionHit((10, 20, 110, 220), 0.7, label="<i>", quality=0.5),
        RegionHit((0, 0, 1000, 500), 0.6),
    )
    return Answer(query, "photos", [ImageHit(1, HOSTILE, str(path), 0.65, regions, **more)], "images")


def test_images_are_embedded_small_with_their_boxes_over_them(photo):
    found = Page(page([image_answer(photo, confidence=0.875)]))
    (image,) = found.all("img")
    kind, _, data = image["src"].partition(",")
    assert kind == "data:image/jpeg;base64"
    inside = Image.open(io.BytesIO(base64.b64decode(data)))
    assert inside.size == (480, 240) == (int(image["width"]), int(image["height"]))
    assert np.abs(np.asarray(inside).mean((0, 1)) - (200, 30, 40)).max() < 4
    (svg,) = found.all("svg")
    assert svg["viewbox"] == "0 0 1000 500"
    best, other = found.all("rect")
    assert (best["x"], best["y"], best["width"], best["height"]) == ("10", "20", "100", "200")
    assert best["class"] == "best"
    assert "class" not in other
    assert image["alt"] == f"hit 1: {HOSTILE}, best region 10, 20, 110, 220"
    assert "score 0.650, confidence 0.88" in found.text
    assert "quality 0.50" in found.text
    assert "confidence" not in Page(page([image_answer(photo)])).text


def test_hostile_names_queries_labels_and_captions_are_text(photo):
    texts = [TextHit(1, HOSTILE, f"A {HOSTILE} here", 0.5, HOSTILE.lower(), (2, 2 + len(HOSTILE)))]
    answers = [image_answer(photo, HOSTILE), Answer(HOSTILE, HOSTILE, texts, "texts", image=photo)]
    text = page(answers)
    assert text.encode("utf-8")
    found = Page(text)
    known = "html head meta title style body section h1 p ol li figure div img svg rect figcaption b br small"
    assert {tag for tag, _ in found.tags} <= {*known.split(), "table", "tr", "th", "td", "mark"}
    assert not [key for _, attributes in found.tags for key in attributes if key.startswith("on")]
    assert found.text.count(HOSTILE) >= 6
    assert f"A {HOSTILE} here" in found.text
    assert "a<b>&\\xe9.png" in found.text


def test_the_page_needs_nothing_else(photo):
    found = Page(page([image_answer(photo)]))
    assert found.all("script") == found.all("link") == found.all("a") == []
    assert all(image["src"].startswith("data:") for image in found.all("img"))
    (policy,) = [meta["content"] for meta in found.all("meta") if "http-equiv" in meta]
    assert "default-src 'none'" in policy
    (style,) = [text for text in found.text.split("<") if "color-scheme:light dark" in text]
    assert "prefers-color-scheme:dark" in style
    assert "url(" not in style
    assert "@import" not in style


def test_the_keyword_is_marked_in_its_caption_beside_the_image_asked_with(photo):
    hit = TextHit(1, "t", "A Boat on the lake", 0.5, "boat", (2, 6))
    text = page([Answer("a.png[...]", "photos", [hit], "texts", image=photo, box=(10, 20, 30, 40))])
    assert "A <mark>Boat</mark> on the lake" in text
    found = Page(text)
    assert found.all("img")[0]["alt"] == "the image asked with"
    assert found.all("rect")[0]["width"] == "20"


def test_images_that_cannot_be_read_have_a_frame_with_the_reason(tmp_path):
    (tmp_path / "b.png").write_text("no image")
    found = Page(page([image_answer(tmp_path / "gone.png"), image_answer(tmp_path / "b.png")]))
    assert found.all("img") == []
    assert [frame["aria-label"].rpartition(", ")[2] for frame in found.all("div")] == [
        "not found",
        "cannot be read",
    ]


def test_no_hits_are_a_page_too():
    assert "0 images in photos" in Page(page([Answer("boat", "photos", [], "images")])).text
