"""One way to read an image: upright, RGB, 8 bits, of bounded size, or a reason why not."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from felga.corpus.items import MAX_MEGAPIXELS
from felga.errors import BadInputError
from felga.types import DecodedImage, Pixels

WORKING_SIDE = 2048  # pixels; a longer image is reduced when it is read
# No other formats: some start programs (EPS starts Ghostscript), whatever the file is called.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF", "TGA", "ICO")
ORIENTATION = 0x0112  # EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)


class UnreadableImage(BadInputError):
    """A file that is no image, or one that cannot be decoded whole and safely."""


def read_image(path: Path, image_id: str, *, max_megapixels: float = MAX_MEGAPIXELS) -> DecodedImage:
    """Decode an image file.

    EXIF orientation is applied, so boxes mean the upright image. Of an animation the first frame is
    read, transparency is laid on white, 16 bits are scaled to 8. Nothing global is changed: Pillow's own
    limits and warnings stay as the caller has them.

    Raises:
        UnreadableImage: with the reason, for a file that is missing, not regular, not an image,
            truncated, damaged, or of more than ``max_megapixels`` (a decompression bomb).
    """
    try:
        regular = stat.S_ISREG(os.stat(path).st_mode)
    except OSError as error:
        raise UnreadableImage(f"{_shown(path)} cannot be read: {error.strerror}") from error
    if not regular:  # a pipe would never end
        raise UnreadableImage(f"{_shown(path)} is no regular file")
    try:
        image = Image.open(path, formats=FORMATS)
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        what = "is no image" if isinstance(error, UnidentifiedImageError) else "has too many pixels"
        raise UnreadableImage(f"{_shown(path)} {what}") from error
    except Exception as error:  # Pillow's plugins raise anything on damaged data
        raise UnreadableImage(f"{_shown(path)} cannot be opened: {_reason(error)}") from error
    with image:
        width, height = image.size
        if width * height > max_megapixels * 1e6:
            raise UnreadableImage(
                f"{_shown(path)} has {width}x{height} pixels, more than {max_megapixels:g} megapixels"
            )
        try:
            if max(width, height) > WORKING_SIDE:  # a JPEG is then decoded small at once; others ignore it
                image.draft(None, _fitted(width, height))
            image.load()
            orientation = image.getexif().get(ORIENTATION, 1)  # after load: Pillow turns TIFFs by itself
        except Exception as error:
            raise UnreadableImage(f"{_shown(path)} cannot be decoded: {_reason(error)}") from error
        pixels = _rgb(_reduced(image), orientation)
    if orientation in SIDEWAYS:
        width, height = height, width
    return DecodedImage(image_id, pixels, width, height)


def _fitted(width: int, height: int) -> tuple[int, int]:
    scale = min(1.0, WORKING_SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _reduced(image: Image.Image) -> Image.Image:
    """The image with its longer side at most ``WORKING_SIDE``."""
    if max(image.size) <= WORKING_SIDE:
        return image
    if image.mode in ("P", "1", "PA", "LA", "La"):  # cannot be averaged as they are
        image = image.convert("L" if image.mode == "1" else "RGBA")
    return image.resize(_fitted(*image.size), Image.Resampling.BILINEAR, reducing_gap=2.0)


def _rgb(image: Image.Image, orientation: int) -> Pixels:
    """(h, w, 3) uint8, upright."""
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    if orientation in TURNS:
        image = image.transpose(TURNS[orientation])
    return np.array(image)


def _eight_bits(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Deep grey values: 16 bits by the range of the type, others by the range of the image."""
    grey = np.nan_to_num(values.astype(np.float64))
    low, high = float(grey.min()), float(grey.max())
    if values.dtype.kind in "iu" and low >= 0 and high < 2**16:
        low, high = 0.0, 2.0**16 - 1 if high > 255 else 255.0
    scaled = (grey - low) * (255 / max(high - low, 1e-12))
    return np.clip(np.round(scaled), 0, 255).astype(np.uint8)


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__


def _shown(path: Path) -> str:
    return os.fsencode(path.name).decode("utf-8", "backslashreplace")
