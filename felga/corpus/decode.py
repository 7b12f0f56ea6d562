"""The one place where images are read: upright, RGB, 8 bits, of bounded size, or a reason why not."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from felga.corpus.inside import DamagedShard, read_member
from felga.corpus.items import MAX_MEGAPIXELS
from felga.errors import BadInputError
from felga.files import read_regular, shown
from felga.types import DecodedImage, Pixels

WORKING_SIDE = 2048  # pixels; longer images are downscaled
MAX_BYTES = 2**30  # of an image file, which is read whole
# No other formats: some start programs (EPS starts Ghostscript), whatever the file's name.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF", "TGA", "ICO")
HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")  # brands
ORIENTATION = 0x0112  # EXIF tag
TRANSPOSES = {
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
    """A file that is not an image, or that cannot be decoded completely and safely."""


def read_file(path: Path, name: str | None = None) -> bytes:
    """The bytes of an image file; never blocks on a pipe, a device or a file of ``/proc``.

    ``SHARD.tar/MEMBER`` and ``SHARD.parquet/MEMBER`` are files, too (:mod:`felga.corpus.inside`).

    Args:
        name: how errors call it; None: by its file name.

    Raises:
        UnreadableImage: the file is missing, empty, not regular, or larger than :data:`MAX_BYTES`.
    """
    name = name or shown(path.name)
    try:
        data = _read(path)
    except DamagedShard as error:
        raise UnreadableImage(f"{name} cannot be read: {error}") from error
    except OSError as error:
        raise UnreadableImage(f"{name} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL in the path
        raise UnreadableImage(f"{name!r} cannot be read: {error}") from error
    if not data:
        raise UnreadableImage(f"{name} is empty")
    return data


def read_image(path: Path, image_id: str, *, max_megapixels: float = MAX_MEGAPIXELS) -> DecodedImage:
    """Decode an image file: :func:`read_file`, then :func:`decode_image`.

    Raises:
        UnreadableImage: with the file's name and the reason.
    """
    name = shown(path.name)
    return _decoded(read_file(path), image_id, name, max_megapixels)


def decode_image(data: bytes, image_id: str, *, max_megapixels: float = MAX_MEGAPIXELS) -> DecodedImage:
    """Decode the bytes of an image file.

    EXIF orientation is applied, so that boxes refer to the upright image. Of an animation the first frame is
    read, transparency is flattened onto white, 16 bits are scaled to 8. No global state is changed: Pillow's
    limits and warnings stay as the caller has them.

    Raises:
        UnreadableImage: with the reason, for data that is empty, not an image, truncated, damaged, or of more
            than ``max_megapixels`` (a decompression bomb).
        BadInputError: ``max_megapixels`` is not a positive number.
    """
    return _decoded(data, image_id, image_id or "the image", max_megapixels)


def image_size(data: bytes, image_id: str) -> tuple[int, int]:
    """Width and height of the upright image in the bytes of a file; only its header is read.

    Raises:
        UnreadableImage: with the reason.
    """
    name = image_id or "the image"
    if not data:
        raise UnreadableImage(f"{name} is empty")
    with _opened(data, name) as image:
        try:
            width, height = image.size
            # Pillow gives the size of a TIFF upright
            sideways = image.format != "TIFF" and image.getexif().get(ORIENTATION, 1) in SIDEWAYS
        except Exception as error:  # as in _opened
            raise UnreadableImage(f"{name} cannot be decoded: {_reason(error)}") from error
    return (height, width) if sideways else (width, height)


def from_pil(image: Image.Image, image_id: str) -> DecodedImage:
    """A PIL image, as if its file had been read: upright, RGB, downscaled if it is very long.

    Raises:
        BadInputError: not a PIL image, or one without pixels.
        UnreadableImage: it is opened lazily, and its file cannot be decoded.
    """
    if not isinstance(image, Image.Image):
        raise BadInputError(
            f"an image is a path, a PIL image or a (height, width, 3) uint8 array, got {type(image).__name__}"
        )
    if 0 in image.size:
        raise BadInputError(f"{image_id} has no pixels: its size is {image.width}x{image.height}")
    return _upright(image, image_id, image_id, draft=False)


def from_pixels(pixels: Pixels, image_id: str) -> DecodedImage:
    """RGB pixels (h, w, 3) uint8, downscaled if they are very long.

    Raises:
        BadInputError: another shape or dtype, or no pixels.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise BadInputError(
            f"an image array is (height, width, 3) uint8, got shape {pixels.shape} of {pixels.dtype}"
        )
    return from_pil(Image.fromarray(np.ascontiguousarray(pixels)), image_id)


def _read(path: Path) -> bytes:
    try:
        return read_regular(path, MAX_BYTES)
    except NotADirectoryError:  # a folder of the path is a file
        if (data := read_member(path, MAX_BYTES)) is None:
            raise
        return data


def _decoded(data: bytes, image_id: str, name: str, max_megapixels: float) -> DecodedImage:
    if not 0 < max_megapixels < float("inf"):  # NaN would switch the limit off
        raise BadInputError(f"max_megapixels must be a positive number, got {max_megapixels}")
    if not data:
        raise UnreadableImage(f"{name} is empty")
    with _opened(data, name) as image:
        width, height = image.size
        if width * height > max_megapixels * 1e6:
            raise UnreadableImage(
                f"{name} has {width}x{height} pixels, more than {max_megapixels:g} megapixels"
            )
        return _upright(image, image_id, name, draft=image.format != "HEIF")


def _opened(data: bytes, name: str) -> Image.Image:
    """The header of an image."""
    try:
        return _heic(data, name) if _is_heic(data) else Image.open(io.BytesIO(data), formats=FORMATS)
    except UnreadableImage:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImage(f"{name} is not an image in a format that felga reads") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"{name} has too many pixels") from error
    except Exception as error:  # Pillow's plugins raise anything on damaged data
        raise UnreadableImage(f"{name} cannot be opened: {_reason(error)}") from error


def _is_heic(data: bytes) -> bool:
    """By the brands of the file (ISO/IEC 23008-12): the major one, or with "mif1" the compatible ones."""
    if data[4:8] != b"ftyp":
        return False
    brands = [data[at : at + 4] for at in range(8, min(int.from_bytes(data[:4], "big"), len(data), 256), 4)]
    return brands[0] in HEIC or (brands[0] in (b"mif1", b"msf1") and any(brand in HEIC for brand in brands))


def _heic(data: bytes, name: str) -> Image.Image:
    """An HEIC image by pillow-heif, which turns it upright; not registered with Pillow for everyone else."""
    try:
        from pillow_heif import HeifImageFile
    except ModuleNotFoundError as error:
        raise UnreadableImage(
            f"{name} is an HEIC image, which felga reads with pip install 'felga[heic]'"
        ) from error
    image: Image.Image = HeifImageFile(io.BytesIO(data))
    return image


def _upright(image: Image.Image, image_id: str, name: str, *, draft: bool) -> DecodedImage:
    """``draft`` lets JPEGs be decoded at a smaller size, which changes ``image``."""
    width, height = image.size
    try:
        if draft and max(width, height) > WORKING_SIDE:
            image.draft(None, _fitted(width, height))
        image.load()
        orientation = image.getexif().get(ORIENTATION, 1)  # after load: Pillow turns TIFFs by itself
        pixels = _rgb(_reduced(image), orientation)
    except Exception as error:  # as above, and conversions of odd modes
        raise UnreadableImage(f"{name} cannot be decoded: {_reason(error)}") from error
    if orientation in SIDEWAYS:
        width, height = height, width
    return DecodedImage(image_id, pixels, width, height)


def _fitted(width: int, height: int) -> tuple[int, int]:
    scale = min(1.0, WORKING_SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _reduced(image: Image.Image) -> Image.Image:
    """The image downscaled to a longer side of at most ``WORKING_SIDE``."""
    if max(image.size) <= WORKING_SIDE:
        return image
    if image.mode in ("P", "1", "PA", "LA", "La"):  # modes that cannot be averaged
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
    if orientation in TRANSPOSES:
        image = image.transpose(TRANSPOSES[orientation])
    return np.array(image)


def _eight_bits(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Deep grey values: 16 bits are scaled by the range of the type, others by the range of the image."""
    grey = np.nan_to_num(values.astype(np.float64))
    low, high = float(grey.min()), float(grey.max())
    if values.dtype.kind in "iu" and low >= 0 and high < 2**16:
        low, high = 0.0, 2.0**16 - 1 if high > 255 else 255.0
    scaled = (grey - low) * (255 / max(high - low, 1e-12))
    return np.clip(np.round(scaled), 0, 255).astype(np.uint8)


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__
