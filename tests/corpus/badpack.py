"""A folder of every kind of bad image that felga has met."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

RED, GREEN, BLUE = (200, 30, 30), (30, 200, 30), (30, 30, 200)
SIZE = (96, 64)


def corners() -> Image.Image:
    """Red top left, green top right, blue below: the orientation is visible."""
    image = Image.new("RGB", SIZE, BLUE)
    image.paste(RED, (0, 0, 48, 32))
    image.paste(GREEN, (48, 0, 96, 32))
    return image


def _bomb(path: Path) -> None:
    """A PNG whose header claims 50,000 x 50,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999))
    )


def write_bad_pack(folder: Path) -> dict[str, str | None]:
    """Write the pack.

    Returns:
        image id -> None if it must be read, or part of the reason for which it must be quarantined.
    """
    folder.mkdir(parents=True, exist_ok=True)
    good = corners()
    good.save(folder / "good.jpg", quality=95)
    jpeg = (folder / "good.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    good.save(folder / "whole.png")
    png = (folder / "whole.png").read_bytes()
    (folder / "truncated.png").write_bytes(png[: len(png) * 2 // 3])
    (folder / "damaged.png").write_bytes(png[:60] + bytes(40) + png[100:])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("this is not an image")
    (folder / "page.png").write_text("<html><body>404</body></html>")
    _bomb(folder / "bomb.png")
    good.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    Image.fromarray(np.linspace(0, 65535, 96 * 64).reshape(64, 96).astype(np.uint16)).save(
        folder / "deep.png"
    )
    Image.fromarray(np.linspace(-1, 1, 96 * 64).reshape(64, 96).astype(np.float32)).save(folder / "float.tif")
    frames = [Image.new("RGB", SIZE, colour) for colour in (RED, GREEN, BLUE)]
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "animated.webp", save_all=True, append_images=frames[1:], lossless=True)
    palette = good.quantize(8)
    palette.save(folder / "palette.png", transparency=palette.getpixel((0, 0)))
    good.convert("RGBA").save(folder / "alpha.png")
    good.convert("LA").save(folder / "grey-alpha.png")
    good.convert("1").save(folder / "bits.png")
    good.convert("L").save(folder / "grey.jpg")
    Image.new("RGB", (1, 1), RED).save(folder / "pixel.png")
    Image.new("RGB", (900, 2), RED).save(folder / "sliver.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    good.save(folder / "turned.jpg", exif=exif, quality=95)
    for name in ("with space.jpg", "boat ⛵ emoji.jpg", "new\nline.jpg", 'quote\'s "here".jpg', "-dash.jpg"):
        (folder / name).write_bytes(jpeg)
    Path(os.fsdecode(os.fsencode(folder) + b"/latin-\xe9.jpg")).write_bytes(jpeg)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    (folder / "dangling.jpg").symlink_to(folder / "nowhere.jpg")
    expected: dict[str, str | None] = {
        "truncated.jpg": "truncated",
        "truncated.png": "cannot be decoded",
        "damaged.png": "cannot be",
        "empty.jpg": "is empty",
        "text.jpg": "is not an image",
        "page.png": "is not an image",
        "bomb.png": "pixels",
        "pipe.jpg": "not a regular file",
        "dangling.jpg": "cannot be read",
    }
    for path in folder.rglob("*"):
        if path.suffix in (".jpg", ".png", ".gif", ".webp", ".tif") and not path.is_dir():
            image_id = os.fsencode(path.name).decode("utf-8", "backslashreplace")
            expected.setdefault(image_id, None)
    return expected
