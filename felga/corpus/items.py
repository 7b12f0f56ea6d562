"""What a corpus lists: images, texts, and what cannot be either."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

MAX_MEGAPIXELS = 178.0  # of an original, read from its header before anything is decoded
Texts: TypeAlias = Literal["joined", "each"]
"""The captions of an image are one text (FELGA, 4.3), or a text each."""


@dataclass(frozen=True, slots=True)
class ImageItem:
    """An image file.

    Attributes:
        image_id: valid UTF-8, unique in the corpus.
        path: relative to the corpus's root, as :func:`os.fsdecode` gives it.
        size, mtime_ns: bytes, and nanoseconds since the epoch.
    """

    image_id: str
    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class TextItem:
    """A text, of an image or on its own."""

    text_id: str
    image_id: str | None
    text: str


@dataclass(frozen=True, slots=True)
class BadItem:
    """What was meant to be an image or a text, and why it is none."""

    kind: Literal["image", "text"]
    item_id: str
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Listing:
    """Everything in a corpus, each list sorted by id, ids unique."""

    images: list[ImageItem]
    texts: list[TextItem]
    bad: list[BadItem]


class Corpus(Protocol):
    """Where images and texts come from."""

    kind: str
    root: Path
    """Absolute; paths of images are relative to it."""

    def settings(self) -> Mapping[str, Any]:
        """What decides what is listed. Json values."""
        ...

    def scan(self) -> Listing:
        """List everything; opens no image."""
        ...


def texts_of(captions: list[str], text_id: str, image_id: str | None, texts: Texts) -> list[TextItem]:
    """The captions of one image as texts; empty ones are dropped, white space is single."""
    kept = [" ".join(caption.split()) for caption in captions]
    kept = [caption for caption in kept if caption]
    if not kept:
        return []
    if texts == "joined":
        return [TextItem(text_id, image_id, " ".join(kept))]
    return [TextItem(f"{text_id}#{n}", image_id, caption) for n, caption in enumerate(kept)]
