"""HEIC, written by pillow-heif: upright, bounded, refused where damaged; and AVIF, which Pillow reads."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from felga.corpus.decode import UnreadableImage, decode_image, read_image
from felga.corpus.folder import FolderCorpus

from .badpack import BLUE, GREEN, RED, SIZE, corners
from .test_decode import near

pillow_heif = pytest.importorskip("pillow_heif", reason="felga[heic] is not installed")

WAYS_BACK = {  # from upright to how a camera stored it
    1: None,
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}


def heic(image, orientation=1, **more) -> bytes:
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    pillow_heif.from_pillow(image).save(out, exif=exif.tobytes(), quality=95, **more)
    return out.getvalue()


@pytest.mark.parametrize("orientation", WAYS_BACK)
def test_an_heic_is_upright(tmp_path, orientation):
    stored = corners()
    if (way := WAYS_BACK[orientation]) is not None:
        stored = stored.transpose(way)
    (tmp_path / "a.heic").write_bytes(heic(stored, orientation))
    image = read_image(tmp_path / "a.heic", "a")
    assert (image.width, image.height) == SIZE
    assert image.pixels.shape == (SIZE[1], SIZE[0], 3)
    assert near(image.pixels[16, 24], RED)
    assert near(image.pixels[16, 72], GREEN)
    assert near(image.pixels[48, 48], BLUE)


def test_an_exif_orientation_alone_does_not_turn_what_the_container_holds_upright():
    """HEIF turns by its own properties (ISO/IEC 23008-12, 6.5.10); the EXIF of a phone repeats them."""
    data = heic(corners(), 6).replace(b"irot", b"free")
    image = decode_image(data, "a")
    assert (image.width, image.height) == SIZE
    assert near(image.pixels[16, 24], RED)


def test_transparency_grey_and_long_images():
    image = corners().convert("RGBA")
    image.putalpha(0)
    assert near(decode_image(heic(image), "a").pixels[30, 30], (255, 255, 255))
    assert near(decode_image(heic(corners().convert("L")), "a").pixels[48, 48], (43, 43, 43))
    long = decode_image(heic(corners().resize((3000, 200))), "a")
    assert (long.width, long.height) == (3000, 200)
    assert long.pixels.shape == (137, 2048, 3)


def test_a_folder_lists_heic(tmp_path):
    for name in ("a.heic", "b.HEIC", "c.heif"):
        (tmp_path / name).write_bytes(heic(corners()))
    corpus = FolderCorpus(tmp_path)
    images = corpus.scan().images
    assert [image.image_id for image in images] == ["a.heic", "b.HEIC", "c.heif"]
    assert all(decode_image(corpus.read(image), "").width == 96 for image in images)


def test_a_file_is_what_its_bytes_say(tmp_path):
    (tmp_path / "a.jpg").write_bytes(heic(corners()))
    assert near(read_image(tmp_path / "a.jpg", "a").pixels[16, 24], RED)
    data = heic(corners())
    brands = data.replace(b"ftypheic", b"ftypmif1", 1)
    assert near(decode_image(brands, "a").pixels[16, 24], RED)


def test_damage_and_bombs_are_refused():
    data = heic(corners())
    rng = np.random.default_rng(0)
    with pytest.raises(UnreadableImage, match="a has 96x64 pixels, more than 0.001 megapixels"):
        decode_image(data, "a", max_megapixels=0.001)
    lies = data.replace((96).to_bytes(4, "big") + (64).to_bytes(4, "big"), (8).to_bytes(4, "big") * 2)
    assert lies != data
    with pytest.raises(UnreadableImage, match="a cannot be"):
        decode_image(lies, "a")
    for cut in (12, 20, 100, len(data) // 2, len(data) - 20):
        with pytest.raises(UnreadableImage, match="a cannot be"):
            decode_image(data[:cut], "a")
    for _ in range(50):
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), 5):
            damaged[at] = rng.integers(256)
        try:
            assert decode_image(bytes(damaged), "a").pixels.dtype == np.uint8
        except UnreadableImage:
            continue


def test_without_the_extra_the_reason_names_it():
    code = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from felga.corpus.decode import UnreadableImage, decode_image\n"
        "try: decode_image(sys.stdin.buffer.read(), 'a.heic')\n"
        "except UnreadableImage as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=heic(corners()), capture_output=True, check=True
    )
    assert done.stdout.decode() == (
        "a.heic is an HEIC image, which felga reads with pip install 'felga[heic]'\n"
    )


def test_pillow_itself_is_left_as_it_was():
    decode_image(heic(corners()), "a")
    assert "HEIF" not in Image.OPEN


def test_avif_is_read_without_the_extra(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    corners().transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.avif", exif=exif, quality=95)
    image = read_image(tmp_path / "a.avif", "a")
    assert (image.width, image.height) == SIZE
    assert near(image.pixels[16, 24], RED)
