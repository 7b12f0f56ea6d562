"""What a corpus lists: images, texts, and what could be neither; and the rules that every listing keeps."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

IMAGES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".heic", ".heif"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif", ".tga", ".ico"}
)
"""Suffixes of images, in lower case."""
MAX_MEGAPIXELS = 178.0  # of an original, read from its header before anything is decoded
Texts: TypeAlias = Literal["joined", "each"]
"""The captions of an image become one text (FELGA, 4.3), or one text each."""
IN_FILES = ("folder", "coco", "webdataset", "parquet", "clip-retrieval")
"""Kinds of corpora whose paths are of files, be it inside a shard."""
LARGEST = 2**63 - 1  # sizes and times are stored as int64
UNKNOWN = 0  # the size of an image in a corpus that does not know sizes


@dataclass(frozen=True, slots=True)
class ImageItem:
    """An image file.

    Attributes:
        image_id: valid UTF-8, unique in the corpus.
        path: relative to the corpus's root; ``os.fsencode`` accepts it.
        size: bytes that :meth:`Corpus.read` returns; :data:`UNKNOWN` where only reading would tell.
        mtime_ns: nanoseconds since the epoch, or another number that changes with the image, within int64. An
            image whose size and time are unchanged is not read again.
    """

    image_id: str
    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class TextItem:
    """A text: of an image, or on its own (``image_id`` is None)."""

    text_id: str
    image_id: str | None
    text: str


@dataclass(frozen=True, slots=True)
class BadItem:
    """What should have been an image or a text, and the reason it is not; all strings are valid UTF-8."""

    kind: Literal["image", "text"]
    item_id: str
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Listing:
    """Everything in a corpus: images and texts sorted by id, ids unique; made by :func:`make_listing`."""

    images: Sequence[ImageItem]
    texts: Sequence[TextItem]
    bad: list[BadItem]


@runtime_checkable
class Corpus(Protocol):
    """A source of images and texts. :meth:`read` may be called from several threads."""

    @property
    def kind(self) -> str:
        """The name of its family."""
        ...

    @property
    def root(self) -> str | Path:
        """An absolute path, or a URL; the paths of images are relative to it."""
        ...

    def settings(self) -> Mapping[str, Any]:
        """What decides the listing besides the root. Json values."""
        ...

    def scan(self) -> Listing:
        """List everything without opening an image. What is malformed is listed as bad, with the reason.

        Raises:
            BadInputError: the corpus as a whole is unusable.
        """
        ...

    def read(self, item: ImageItem) -> bytes:
        """The bytes of an image that :meth:`scan` listed.

        Raises:
            felga.corpus.decode.UnreadableImage: with the reason; the image is then quarantined.
        """
        ...


def make_listing(images: Iterable[ImageItem], texts: Iterable[TextItem], bad: Iterable[BadItem]) -> Listing:
    """A listing in which every item can be stored; what cannot is moved to the bad items, with the reason.

    Items are sorted by id; of several with the same id the first is kept. Times beyond int64 (the years 1677
    to 2262) are clamped.
    """
    from felga.corpus.columns import IMAGE, TEXT, collect  # pyarrow, which the command line starts without

    rejected: list[BadItem] = []
    kept_images, double_images = collect(IMAGE, _sound_images(images, rejected))
    kept_texts, double_texts = collect(TEXT, _sound_texts(texts, rejected))
    rejected += [
        _bad("image", image.image_id, image.path, "another image has the same id") for image in double_images
    ]
    rejected += [
        _bad("text", text.text_id, text.image_id or "", "another text has the same id")
        for text in double_texts
    ]
    rejected += [_bad(item.kind, item.item_id, item.path, item.reason) for item in bad]
    rejected.sort(key=lambda item: (item.kind, item.item_id, item.reason))
    return Listing(kept_images, kept_texts, rejected)


def checked_listing(listing: Listing) -> Listing:
    """What a third party's corpus returned, as :func:`make_listing` would have made it."""
    from felga.corpus.columns import Items

    if isinstance(listing.images, Items) and isinstance(listing.texts, Items):
        return listing
    return make_listing(listing.images, listing.texts, listing.bad)


def texts_of(captions: Iterable[str], text_id: str, image_id: str | None, texts: Texts) -> list[TextItem]:
    """The captions of one image as texts; white space is collapsed, empty captions are dropped."""
    kept = [words for caption in captions if (words := " ".join(caption.split()))]
    if not kept:
        return []
    if texts == "joined":
        return [TextItem(text_id, image_id, " ".join(kept))]
    return [TextItem(f"{text_id}#{n}", image_id, caption) for n, caption in enumerate(kept)]


def unicode_fault(text: str) -> str | None:
    """Why a string cannot be stored as UTF-8, or None: json may hold half of a surrogate pair."""
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return (
            f"not valid Unicode: \\u{ord(text[error.start]):04x} at character {error.start + 1} stands alone"
        )
    return None


def path_fault(path: str) -> str | None:
    """Why a string is no file path, or None."""
    if "\0" in path:
        return "contains a NUL character"
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        return f"is not valid Unicode: \\u{ord(path[error.start]):04x} stands alone"
    return None


def _bad(kind: Literal["image", "text"], item_id: object, path: object, reason: str) -> BadItem:
    return BadItem(kind, _printable(item_id), _printable(path), _printable(reason))


def _printable(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _sound_images(images: Iterable[ImageItem], rejected: list[BadItem]) -> Iterator[ImageItem]:
    for image in images:
        if reason := _image_fault(image):
            rejected.append(_bad("image", image.image_id, image.path, reason))
        elif -LARGEST <= image.mtime_ns <= LARGEST:
            yield image
        else:
            yield replace(image, mtime_ns=max(-LARGEST, min(image.mtime_ns, LARGEST)))


def _sound_texts(texts: Iterable[TextItem], rejected: list[BadItem]) -> Iterator[TextItem]:
    for text in texts:
        if reason := _text_fault(text):
            rejected.append(_bad("text", text.text_id, text.image_id or "", reason))
        else:
            yield text


def _image_fault(image: ImageItem) -> str | None:
    if not (isinstance(image.image_id, str) and isinstance(image.path, str)):
        return "its id and its path must be strings"
    if reason := unicode_fault(image.image_id):
        return f"its id is {reason}"
    if reason := path_fault(image.path):
        return f"its path {reason}"
    if not (isinstance(image.size, int) and isinstance(image.mtime_ns, int)):
        return "its size and its time must be integers"
    if not 0 <= image.size <= LARGEST:
        return f"its size is {image.size} bytes"
    return None


def _text_fault(text: TextItem) -> str | None:
    if not (isinstance(text.text_id, str) and isinstance(text.text, str)):
        return "its id and its text must be strings"
    if not (text.image_id is None or isinstance(text.image_id, str)):
        return "the id of its image must be a string"
    for name, value in (
        ("its id", text.text_id),
        ("the id of its image", text.image_id or ""),
        ("the text", text.text),
    ):
        if reason := unicode_fault(value):
            return f"{name} is {reason}"
    return None
