"""Images of the index: found by id, read from below their folder and nowhere else, shown small."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute  # pa.compute
from PIL import Image

from felga.corpus.decode import UnreadableImage, decode_image, read_file
from felga.corpus.inside import exists
from felga.corpus.items import IN_FILES
from felga.engine import Engine
from felga.errors import NotFoundError
from felga.files import is_url
from felga.queries import inside
from felga.types import Box, DecodedImage

if TYPE_CHECKING:
    from felga.server.messages import Thumbnail

JPEG_QUALITY = 88


class ImageFiles:
    """The image files of one state of an index; thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._ids: pa.ChunkedArray | None = None

    def read(self, image_id: str) -> DecodedImage:
        """An image by its id.

        Raises:
            NotFoundError: the index has no such image, or its file is gone or lies outside the folder of the
                images, also behind a link.
            UnreadableImage: it cannot be decoded.
        """
        path = self._path(image_id)
        try:
            data = read_file(path, image_id)
        except UnreadableImage as error:
            if not exists(path):
                raise NotFoundError(f"the file of {image_id!r} is gone: run `felga index` again") from error
            raise
        return decode_image(data, image_id)

    def _path(self, image_id: str) -> Path:
        """The file of an image, links resolved."""
        position = self._position(image_id)
        if position < 0:
            raise NotFoundError(f"the index has no image {image_id!r}")
        kind = self._engine.manifest.corpus.kind
        if kind not in IN_FILES:
            raise NotFoundError(f"images of a {kind} corpus are not files, and cannot be shown")
        (row,) = self._engine.index.images.take([position], ["path"])
        if is_url(os.fsdecode(row["path"])):
            raise NotFoundError(f"the image {image_id!r} is at a URL, and not here")
        try:
            root = Path(self._engine.root).resolve()
            path = (root / os.fsdecode(row["path"])).resolve()
        except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a NUL
            raise NotFoundError(f"the file of {image_id!r} cannot be reached") from error
        if not path.is_relative_to(root):
            raise NotFoundError(f"the file of {image_id!r} lies outside the folder of the images")
        return path

    def _position(self, image_id: str) -> int:
        with self._lock:
            if self._ids is None:
                self._ids = self._engine.index.images.read(["image_id"]).column("image_id")
        try:
            wanted = pa.scalar(image_id, self._ids.type)
        except (pa.ArrowException, UnicodeError):  # half of a surrogate pair
            return -1
        return int(pa.compute.index(self._ids, wanted).as_py())


def drawn(image: DecodedImage, form: Thumbnail, box: Box | None = None) -> bytes:
    """An image or a part of it as a file.

    Raises:
        BadInputError: the box lies outside the image.
    """
    pixels = image.pixels
    if box is not None:
        height, width = pixels.shape[:2]
        (scaled,) = image.in_pixels(np.array([inside(box, image)], np.float32)).tolist()
        left, top = min(int(scaled[0]), width - 1), min(int(scaled[1]), height - 1)
        right, bottom = max(left + 1, round(scaled[2])), max(top + 1, round(scaled[3]))
        pixels = pixels[top:bottom, left:right]
    shrunk = Image.fromarray(np.ascontiguousarray(pixels))
    shrunk.thumbnail((form.max_side, form.max_side), Image.Resampling.LANCZOS)
    return _file(shrunk, form.format)


def _file(image: Image.Image, form: Literal["jpeg", "png"]) -> bytes:
    out = io.BytesIO()
    if form == "png":
        image.save(out, "PNG")
    else:
        image.save(out, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return out.getvalue()
