"""Sheets: tiles, frames, and lettering."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFont

from felga.errors import BadInputError
from felga.show import sheets
from felga.show.sheets import GREY, REGION, RIGHT, WRONG, Hit, image_sheet, result_sheet, text_sheet, tile
from felga.survey.concepts import Concept, Exemplar
from felga.types import ImageHit, RegionHit, TextHit


def colours(image):
    return {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}


def grey(width, height):
    return Image.new("RGB", (width, height), (128, 128, 128))


def image_hit(path, *boxes):
    regions = tuple(RegionHit(box, 0.5) for box in boxes)
    return ImageHit(1, path.name, str(path), 0.5, regions)


def test_right_images_have_green_frames_wrong_ones_red_and_regions_are_purple():
    right = Hit(grey(300, 200), (50, 50, 150, 150), True, 0.5)
    wrong = Hit(grey(100, 400), None, False)
    assert {RIGHT, REGION} <= colours(result_sheet([("before", [right])]))
    assert WRONG not in colours(result_sheet([("before", [right])]))
    assert WRONG in colours(result_sheet([("after", [wrong])]))
    assert REGION not in colours(result_sheet([("after", [wrong])]))


def test_one_row_per_method_and_one_column_per_hit():
    hit = Hit(grey(300, 200), (0, 0, 300, 200), True)
    one = result_sheet([("a", [hit])])
    many = result_sheet([("a", [hit] * 5), ("b", [hit] * 2)])
    assert many.height == 2 * one.height - 10
    assert many.width > 4 * (one.width - 150)
    assert result_sheet([("a", [hit])], title="boat").height > one.height


def test_the_region_is_drawn_around_its_box():
    hit = Hit(grey(228, 228), (114, 0, 228, 228), True)  # the right half, unscaled; outlined by 3 px
    pixels = np.asarray(result_sheet([("", [hit])]))
    columns = np.flatnonzero((pixels == REGION).all(axis=2).any(axis=0))
    assert columns.min() == 150 + 6 + 114 - 3
    assert columns.max() == 150 + 6 + 227


@pytest.mark.parametrize(
    "box",
    [(0, 0, 1, 1), (99, 99, 100, 100), (-20, -20, 500, 500), (300, 0, 400, 50), (-90, -90, -50, -50)],
)
def test_boxes_on_and_beyond_the_edge(box):
    assert REGION in colours(result_sheet([("", [Hit(grey(100, 100), box, True)])]))


def test_a_comparison_without_hits_is_refused():
    with pytest.raises(BadInputError, match="at least one hit"):
        result_sheet([("a", [])])


def test_the_first_box_is_the_thickest_and_lies_on_top():
    def stroke(boxes):  # purple columns in a row through the middle of both boxes
        return (np.asarray(tile(grey(320, 320), boxes))[160] == REGION).all(-1)

    first, second = (40, 100, 140, 220), (180, 100, 280, 220)
    row = stroke([first, second])
    assert row[:160].sum() == 2 * 4
    assert row[160:].sum() == 2 * 2
    assert stroke([second, first])[:160].sum() == 2 * 2


def test_an_image_keeps_its_shape_and_fits_the_tile():
    assert tile(grey(1000, 500), []).size == (320, 160)
    assert tile(grey(50, 100), []).size == (160, 320)
    assert tile(grey(5000, 1), []).size == (320, 1)


def test_unreadable_images_are_grey_tiles(tmp_path):
    grey(100, 100).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no image")
    hits = [image_hit(tmp_path / name, (10, 10, 50, 50)) for name in ("a.png", "b.png", "c.png")]
    pixels = np.asarray(image_sheet("boat", hits))
    shares = [(pixels[44:284, 10 + 330 * i : 330 + 330 * i] == GREY).all(-1).mean() for i in range(3)]
    assert shares[0] == 0
    assert min(shares[1:]) > 0.9
    assert (pixels == REGION).all(-1)[:, :330].any()


def test_label_and_quality_of_the_best_region_stand_below_its_image(tmp_path):
    grey(100, 100).save(tmp_path / "a.png")
    below = []
    for region in (
        RegionHit((5, 5, 9, 9), 0.5),
        RegionHit((5, 5, 9, 9), 0.5, label="boat"),
        RegionHit((5, 5, 9, 9), 0.5, label="boat", similarity=0.6, quality=0.4),
    ):
        hit = ImageHit(1, "a", str(tmp_path / "a.png"), 0.5, (region,))
        purple = (np.asarray(image_sheet("boat", [hit])) == REGION).all(-1)[44 + 320 :]
        below.append(int(purple.sum()))
    assert below[0] == 0
    assert 0 < below[1] < below[2]


def test_no_hits_still_make_a_sheet():
    assert image_sheet("boat", []).width > 0


def test_keywords_are_underlined(tmp_path):
    grey(100, 100).save(tmp_path / "a.png")
    hit = TextHit(1, "t", "A Boat on the lake", 0.5, "boat", (2, 6))
    with_word = np.asarray(text_sheet(tmp_path / "a.png", None, [hit]))
    purple = (with_word[30:, 340:] == REGION).all(-1)
    rows = np.flatnonzero(purple.sum(1) > 20)
    assert len(rows) == 2, "the underline is two pixels thick"
    font = ImageFont.load_default(16)
    columns = np.flatnonzero(purple[rows[0]])
    assert columns.min() == int(font.getlength("A "))
    assert abs(columns.max() - columns.min() - font.getlength("Boat")) <= 1


@pytest.mark.parametrize("size", [14, 16, 18])
def test_lettering_never_draws_the_sign_for_a_missing_glyph(size):
    for text in ("boat", "Ελληνικά", "каша", "猫と犬", "🚀", "עברית", "a\u2028b"):
        font, written = sheets._lettering(text, size)
        nothing = bytes(font.getmask("\U0010ffff"))
        for char in written.replace(" ", ""):
            assert bytes(font.getmask(char)) != nothing, f"{char!r} of {text!r} is not drawn"


def test_what_no_font_has_is_escaped(monkeypatch):
    monkeypatch.setattr(sheets, "FALLBACK_FONTS", ("not-installed.ttf",))
    font, written = sheets._lettering("猫 boat", 16)
    assert written == "\\u732b boat"
    assert isinstance(font, ImageFont.FreeTypeFont)


@pytest.mark.parametrize("name", ["a.xyz", "a", "a.svg"])
def test_a_suffix_of_no_image_format_is_refused(tmp_path, name):
    with pytest.raises(BadInputError, match=r"name an image file such as hits\.png"):
        sheets.check_target(tmp_path / name)


def test_new_folders_may_be_created_for_a_sheet(tmp_path):
    target = tmp_path / "new" / "folder" / "a.PNG"
    sheets.check_target(target)
    assert not target.parent.exists()
    sheets.save(grey(5, 5), target)
    assert Image.open(target).size == (5, 5)


def test_a_concept_is_a_row_of_its_regions_cut_out(tmp_path):
    image = grey(40, 40)
    image.paste((255, 0, 0), (10, 20, 30, 40))
    image.save(tmp_path / "a.png")
    cut = Exemplar("a.png", str(tmp_path / "a.png"), (10.0, 20.0, 30.0, 40.0), 0.5, None)
    gone = Exemplar("b.png", str(tmp_path / "b.png"), (0.0, 0.0, 1.0, 1.0), 0.5, None)
    concepts = [Concept("red", 1, 1, (cut, cut)), Concept("lost", 1, 1, (gone,))]
    drawn = sheets.concept_sheet(concepts)
    pixels = np.asarray(drawn)
    red = (pixels == (255, 0, 0)).all(axis=2)
    assert red.sum() == 2 * sheets.CROP**2, "the regions alone, as large as a cell"
    assert np.flatnonzero(red.any(axis=1)).max() < drawn.height / 2
    assert (pixels[drawn.height // 2 :] == GREY).all(axis=2).any()
    assert (pixels[:, : sheets.ABOUT] == 0).all(axis=2).any(), "the name"
    assert sheets.concept_sheet([]).height > 0
