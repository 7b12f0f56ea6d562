from __future__ import annotations

import os
import threading
import warnings

import numpy as np
import pytest
from PIL import Image

from felga.corpus import decode
from felga.corpus.decode import (
    WORKING_SIDE,
    UnreadableImage,
    decode_image,
    from_pil,
    from_pixels,
    image_size,
    read_file,
    read_image,
)
from felga.errors import BadInputError

from .badpack import BLUE, GREEN, RED, SIZE, corners, write_bad_pack


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pack")
    return folder, write_bad_pack(folder)


def near(pixel, colour, by=40):
    return np.abs(pixel.astype(int) - np.array(colour)).max() <= by


def test_every_image_of_the_pack_is_read_or_refused_with_its_reason(pack):
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
def test_colours_are_kept(pack, name):
    pixels = read_image(pack[0] / name, name).pixels
    assert near(pixels[16, 24], RED)
    assert near(pixels[16, 72], GREEN)
    assert near(pixels[48, 48], BLUE)


@pytest.mark.parametrize("name", ["animated.gif", "animated.webp"])
def test_the_first_frame_of_an_animation_is_read(pack, name):
    assert near(read_image(pack[0] / name, name).pixels[30, 30], RED)


def test_transparency_is_flattened_onto_white(pack):
    assert near(read_image(pack[0] / "palette.png", "").pixels[16, 24], (255, 255, 255), 2)
    assert near(read_image(pack[0] / "palette.png", "").pixels[48, 48], BLUE)


def test_sixteen_bits_are_scaled_not_cut_off(pack):
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
    assert image_size(path.read_bytes(), "a") == SIZE
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


def test_a_decompression_bomb_is_refused_undecoded(tmp_path):
    corners().save(tmp_path / "a.png")
    with pytest.raises(UnreadableImage, match="96x64 pixels, more than 0.005 megapixels"):
        read_image(tmp_path / "a.png", "a", max_megapixels=0.005)


def test_global_state_is_unchanged(pack):
    before = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    read_image(pack[0] / "good.jpg", "")
    assert (Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission(tmp_path):
    corners().save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    with pytest.raises(UnreadableImage, match="Permission denied"):
        read_image(tmp_path / "a.png", "a")


def test_threads_agree(pack):
    found = []
    read = lambda: found.append(read_image(pack[0] / "turned.jpg", "").pixels)  # noqa: E731
    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(np.array_equal(one, found[0]) for one in found)


def test_no_program_is_started_for_an_image(tmp_path):
    """EPS would be given to Ghostscript, also under another name."""
    corners().save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.jpg")
    with pytest.raises(UnreadableImage, match="is not an image"):
        read_image(tmp_path / "a.jpg", "a")


def same(one, other):
    return (one.width, one.height) == (other.width, other.height) and np.array_equal(one.pixels, other.pixels)


def test_bytes_decode_like_their_file(pack):
    folder, expected = pack
    for image_id, reason in expected.items():
        path = folder / image_id.replace("\\xe9", "\udce9")
        if reason is None:
            image = decode_image(path.read_bytes(), image_id)
            assert image.image_id == image_id
            assert same(image, read_image(path, image_id))
    with pytest.raises(UnreadableImage, match=r"^deep/er/x is empty$"):
        decode_image(b"", "deep/er/x")
    with pytest.raises(UnreadableImage, match=r"^deep/er/x is not an image"):
        decode_image(b"GIF89a", "deep/er/x")


@pytest.mark.parametrize("limit", [float("nan"), 0, -1, float("inf")])
def test_a_limit_that_limits_nothing_is_refused(pack, limit):
    with pytest.raises(BadInputError, match="max_megapixels must be a positive number, got") as caught:
        read_image(pack[0] / "good.jpg", "", max_megapixels=limit)
    assert not isinstance(caught.value, UnreadableImage)  # the option is wrong, not the image


@pytest.mark.parametrize(
    "path", ["/proc/kmsg", "/proc/self/maps", "/sys/kernel/notes", "/proc/kcore", "/dev/zero"]
)
def test_files_of_the_kernel_neither_block_nor_end_up_in_memory(tmp_path, path):
    """Some claim to be regular and never end; some claim to have 128 TB."""
    if not os.path.exists(path):
        pytest.skip(f"no {path}")
    (tmp_path / "a.jpg").symlink_to(path)
    with pytest.raises(UnreadableImage, match="a.jpg (is empty|cannot be read|is not an image)"):
        read_image(tmp_path / "a.jpg", "a")


def test_a_file_beyond_the_limit_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "MAX_BYTES", 1000)
    (tmp_path / "a.jpg").write_bytes(bytes(1001))
    with pytest.raises(UnreadableImage, match="a.jpg cannot be read: 1001 bytes exceed the limit of 1000"):
        read_file(tmp_path / "a.jpg")


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_a_pil_image_decodes_like_its_file_and_stays_as_it_was(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    corners().resize((2500, 1000)).save(path, exif=exif, quality=95)
    with Image.open(path) as opened:
        image = from_pil(opened, "a")
        assert opened.size == (2500, 1000)
        assert np.array_equal(np.asarray(opened), np.asarray(Image.open(path)))
    expected = read_image(path, "a")
    assert (image.width, image.height) == (expected.width, expected.height)
    assert image.pixels.shape == expected.pixels.shape
    assert np.abs(image.pixels.astype(int) - expected.pixels).mean() < 3  # not downscaled by the JPEG decoder
    small = corners()
    assert np.array_equal(from_pil(small, "a").pixels, np.asarray(small))


def test_pixels_are_copied_and_checked():
    pixels = np.asarray(corners())
    image = from_pixels(pixels[:, ::-1], "a")
    assert np.array_equal(image.pixels, pixels[:, ::-1])
    assert (image.width, image.height) == SIZE
    assert not np.shares_memory(image.pixels, pixels)
    long = from_pixels(np.zeros((3, 5000, 3), np.uint8), "a")
    assert (long.width, long.pixels.shape) == (5000, (1, WORKING_SIDE, 3))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: from_pixels(np.zeros((4, 4), np.uint8), "a"), r"got shape \(4, 4\) of uint8"),
        (lambda: from_pixels(np.zeros((4, 4, 4), np.uint8), "a"), r"is \(height, width, 3\) uint8"),
        (lambda: from_pixels(np.zeros((4, 4, 3)), "a"), "of float64"),
        (lambda: from_pixels(np.zeros((0, 4, 3), np.uint8), "a"), "got shape"),
        (lambda: from_pil("a.jpg", "a"), "a PIL image .* got str"),
        (lambda: from_pil(Image.new("RGB", (0, 3)), "a"), "a has no pixels: its size is 0x3"),
    ],
)
def test_what_is_not_an_image_is_one_sentence(make, sentence):
    with pytest.raises(BadInputError, match=sentence):
        make()
