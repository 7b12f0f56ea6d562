"""Images on object storage, with captions beside them: ``s3://BUCKET/PREFIX``, or what else fsspec opens."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from felga.corpus.captioned import CaptionedFiles, id_of
from felga.corpus.captions import NoCaption
from felga.corpus.decode import MAX_BYTES, UnreadableImage
from felga.corpus.items import UNKNOWN, BadItem, ImageItem, Texts
from felga.corpus.urls import everything_below, modified, open_url, reason
from felga.errors import BadInputError, NotFoundError, StorageError
from felga.files import shown

ETAGS = ("ETag", "etag")
EXPECTED = "expected e.g. s3://BUCKET/PREFIX"


def objects(argument: str, *, texts: Texts = "joined") -> ObjectCorpus:
    """The corpus ``objects:URL``.

    Raises:
        BadInputError: it is no URL that fsspec knows.
        MissingError: the package that opens it is not installed.
    """
    return ObjectCorpus(argument, texts)


class ObjectCorpus(CaptionedFiles):
    """All images below a URL; objects with a part of their name that starts with a dot are skipped.

    One listing tells sizes, ETags and times; each image is one read, and so is each file of captions. Where a
    service lists no state of an object (http), it is asked for each image. Where it does not say either, a
    change that keeps the size is not noticed.
    """

    kind = "objects"

    def __init__(self, url: str, texts: Texts = "joined") -> None:
        super().__init__(texts)
        self._fs, self._base = open_url(url.rstrip("/"), EXPECTED)
        self.root: str = url.rstrip("/")
        self._found: Mapping[str, Mapping[str, Any]] = {}

    def read(self, item: ImageItem) -> bytes:
        """The bytes of an image, in one read.

        Raises:
            UnreadableImage: it is gone, forbidden, empty or too large.
            StorageError: the service does not answer; images are not to be blamed for that.
        """
        if item.size > MAX_BYTES:
            raise UnreadableImage(f"{item.image_id} has {item.size} bytes, more than {MAX_BYTES}")
        try:
            data = self._fetched(item.path)
        except (FileNotFoundError, PermissionError) as error:
            raise UnreadableImage(f"{item.image_id} cannot be read: {reason(error)}") from error
        if not data:
            raise UnreadableImage(f"{item.image_id} is empty")
        return data

    def _files(self, bad: list[BadItem]) -> Iterator[str]:
        """Lists everything below the URL.

        Raises:
            NotFoundError: there is nothing.
            BadInputError: it cannot be listed, or is an object itself.
        """
        try:
            listed = everything_below(self._fs, self._base)
        except FileNotFoundError:
            listed = {}
        except Exception as error:  # as in `_asked`
            raise BadInputError(
                f"{shown(self.root)} cannot be listed ({reason(error)}): check its name, the credentials "
                "and the network"
            ) from error
        if not listed:
            raise NotFoundError(f"there is nothing at {shown(self.root)}: {EXPECTED}")
        base = self._base.rstrip("/")
        if base in listed:
            raise BadInputError(f"{shown(self.root)} is one object: name the prefix that images lie below")
        below = ((name[len(base) + 1 :], about) for name, about in listed.items())
        self._found = {path: about for path, about in below if "/." not in f"/{path}"}
        return iter(self._found)

    def _image(self, path: str, bad: list[BadItem]) -> ImageItem | None:
        about, image_id = self._found[path], id_of(path)
        if _state(about) is None:
            try:
                about = self._asked(self._fs.info, path)
            except (FileNotFoundError, PermissionError) as error:
                bad.append(BadItem("image", image_id, image_id, f"it cannot be read: {reason(error)}"))
                return None
        size = about.get("size")
        return ImageItem(image_id, path, UNKNOWN if size is None else int(size), _state(about) or 0)

    def _bytes(self, path: str, limit: int) -> bytes:
        size = self._found[path].get("size")
        if size is not None and size > limit:
            raise NoCaption(f"the file cannot be read: {size} bytes exceed the limit of {limit}")
        try:
            return self._fetched(path)
        except (FileNotFoundError, PermissionError) as error:
            raise NoCaption(f"the file cannot be read: {reason(error)}") from error

    def _fetched(self, path: str) -> bytes:
        data: bytes = self._asked(self._fs.cat_file, path)
        return data

    def _asked(self, call: Callable[[str], Any], path: str) -> Any:
        """What the service says of an object.

        Raises:
            FileNotFoundError, PermissionError: it is gone or forbidden.
            StorageError: the service does not answer; no object is to be blamed for that.
        """
        try:
            return call(self._place(path))
        except (FileNotFoundError, PermissionError):
            raise
        except Exception as error:  # services have errors of their own, and not all are of the system's kind
            raise StorageError(
                f"{self._place(path)} cannot be read ({reason(error)}): nothing was lost, run again once "
                "the service answers"
            ) from error

    def _place(self, path: str) -> str:
        return f"{self._base.rstrip('/')}/{path}"


def _state(about: Mapping[str, Any]) -> int | None:
    """A number that changes with an object: 62 bits of its ETag, else its time in ns; None: neither is known.

    The ETag comes first: times of services are whole seconds, in which an object may change twice.
    """
    if etag := next((about[name] for name in ETAGS if about.get(name)), None):
        return int.from_bytes(hashlib.sha256(str(etag).encode()).digest()[:8]) >> 2
    time = modified(about)
    return None if time is None else int(time * 1e9)
