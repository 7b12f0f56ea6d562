from __future__ import annotations

import os
import threading
import warnings

import numpy as np
import pytest
from PIL import Image

from felga.corpus.decode import WORKING_SIDE, UnreadableImage, read_image

from .badpack import BLUE, GREEN, RED, SIZE, corners, write_bad_pack


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pack")
    return folder, write_bad_pack(folder)


def near(pixel, colour, by=40):
    return np.abs(pixel.astype(int) - np.array(colour)).max() <= by


def test_each_of_the_pack_is_read_right_or_refused_with_its_reason(pack):
    folder, expected = pack
    assert len(expected) > 25
    for image_id, reason in expected.items():
        name = image_id.replace("\\xe9", "\udce9")
        if reason is None:
            image = read_image(folder / name, image_id)
            assert image.pixels.dtype == np.uint8
            assert image.pixels.shape == (image.height, image.width, 3)
            assert image.pixels.flags.writeable
        else:
            with pytest.raises(UnreadableImage, match=reason):
                read_image(folder / name, image_id)


@pytest.mark.parametrize("name", ["good.jpg", "whole.png", "cmyk.jpg", "alpha.png"])
def test_colours(pack, name):
    pixels = read_image(pack[0] / name, name).pixels
    assert near(pixels[16, 24], RED)
    assert near(pixels[16, 72], GREEN)
    assert near(pixels[48, 48], BLUE)


@pytest.mark.parametrize("name", ["animated.gif", "animated.webp"])
def test_the_first_frame_of_an_animation(pack, name):
    assert near(read_image(pack[0] / name, name).pixels[30, 30], RED)


def test_transparency_is_laid_on_white(pack):
    assert near(read_image(pack[0] / "palette.png", "").pixels[16, 24], (255, 255, 255), 2)
    assert near(read_image(pack[0] / "palette.png", "").pixels[48, 48], BLUE)


def test_sixteen_bits_are_scaled_and_not_cut(pack):
    grey = read_image(pack[0] / "deep.png", "").pixels[:, :, 0].ravel()
    assert grey[0] == 0
    assert grey[-1] == 255
    assert abs(int(grey[len(grey) // 2]) - 128) <= 1
    floats = read_image(pack[0] / "float.tif", "").pixels[:, :, 0].ravel()
    assert (floats[0], floats[-1]) == (0, 255)


@pytest.mark.parametrize("form", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_upright(tmp_path, form, orientation):
    stored = {  # the way back from upright to how a camera stored it
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }[orientation]
    source = corners()
    for turn in stored:
        source = source.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{form}"
    source.save(path, exif=exif)
    image = read_image(path, "a")
    assert (image.width, image.height) == SIZE
    assert image.pixels.shape == (SIZE[1], SIZE[0], 3)
    assert near(image.pixels[16, 24], RED)
    assert near(image.pixels[16, 72], GREEN)
    assert near(image.pixels[48, 48], BLUE)


@pytest.mark.parametrize(
    ("mode", "form"),
    [("RGB", "jpg"), ("L", "jpg"), ("P", "png"), ("RGBA", "png"), ("1", "png"), ("I;16", "png")],
)
def test_a_long_image_is_reduced_and_keeps_its_size(tmp_path, mode, form):
    source = corners().resize((5000, 1000))
    source = (
        Image.fromarray(np.full((1000, 5000), 40000, np.uint16)) if mode == "I;16" else source.convert(mode)
    )
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / f"long.{form}"
    source.save(path, exif=exif)
    image = read_image(path, "long")
    assert (image.width, image.height) == (1000, 5000)
    height, width = image.pixels.shape[:2]
    assert height == WORKING_SIDE
    assert abs(width - WORKING_SIDE / 5) <= 1
    if mode == "RGB":
        assert near(image.pixels[100, 300], RED)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    corners().save(tmp_path / "a.png")
    with pytest.raises(UnreadableImage, match="96x64 pixels, more than 0.005 megapixels"):
        read_image(tmp_path / "a.png", "a", max_megapixels=0.005)


def test_nothing_global_is_changed(pack):
    before = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    read_image(pack[0] / "good.jpg", "")
    assert (Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission(tmp_path):
    corners().save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    with pytest.raises(UnreadableImage, match="Permission denied"):
        read_image(tmp_path / "a.png", "a")


def test_threads(pack):
    found = []
    read = lambda: found.append(read_image(pack[0] / "turned.jpg", "").pixels)  # noqa: E731
    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(np.array_equal(one, found[0]) for one in found)


def test_no_program_is_started_for_a_image(tmp_path):
    """EPS would be given to Ghostscript, also under another name."""
    corners().save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.jpg")
    with pytest.raises(UnreadableImage, match="is not an image"):
        read_image(tmp_path / "a.jpg", "a")
