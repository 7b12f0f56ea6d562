"""What every encoder checks, once: options, images with their boxes, texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from felga.errors import BadInputError
from felga.types import Boxes, DecodedImage


def check_options(family: str, *, batch_size: int, pooling: str | None, known: Sequence[str]) -> str:
    """The pooling to use: ``pooling``, or the first of ``known`` for None.

    Raises:
        BadInputError: ``batch_size`` is below 1, or the pooling is unknown.
    """
    if batch_size < 1:
        raise BadInputError(f"batch_size must be at least 1, got {batch_size}")
    if pooling is not None and pooling not in known:
        names = " or ".join(repr(name) for name in known)
        raise BadInputError(f"{family} does not support pooling={pooling!r}; use {names}")
    return known[0] if pooling is None else pooling


def check_texts(texts: Sequence[str]) -> None:
    """Check what a user passes to ``encode_texts``.

    Raises:
        BadInputError: one string instead of a sequence, something else than strings, or text that is not
            valid Unicode, as undecodable bytes on a command line are.
    """
    if isinstance(texts, str | bytes):
        raise BadInputError(f"texts must be a list of strings, got {type(texts).__name__}: put it in a list")
    for text in texts:
        if not isinstance(text, str):
            raise BadInputError(f"a text must be a string, got {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadInputError(
                f"{text[:80]!a} is not valid Unicode at character {error.start}: encode the text as UTF-8"
            ) from error


def check_pairs(images: Sequence[DecodedImage], boxes: Sequence[Boxes]) -> None:
    """Check that every image has its boxes.

    Raises:
        BadInputError: the lists differ in length.
    """
    if len(images) != len(boxes):
        raise BadInputError(f"got {len(images)} images and {len(boxes)} arrays of boxes: pass one per image")


def scaled_boxes(image: DecodedImage, boxes: Boxes, height: int, width: int) -> Boxes:
    """Boxes (n, 4) of the original, scaled to a copy of ``height`` x ``width`` pixels.

    Raises:
        BadInputError: a box is not finite.
    """
    rows = np.asarray(boxes, np.float32).reshape(-1, 4)
    if not np.isfinite(rows).all():
        raise BadInputError(f"a box of {image.image_id!r} is not finite")
    return rows * np.array([width / image.width, height / image.height] * 2, np.float32)
