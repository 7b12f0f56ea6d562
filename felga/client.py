"""A server of ``felga serve``, asked as if it were an engine. The standard library, and Pillow for pixels."""

from __future__ import annotations

import copy
import dataclasses
import http.client
import io
import json
import math
import os
import ssl
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar, Unpack
from urllib.parse import quote, urlencode, urlsplit

from felga.asking import Asking, ImageOptions, OwnerScore, WordOptions, check_queries
from felga.errors import (
    BadIndexError,
    BadInputError,
    BusyError,
    FelgaError,
    MissingError,
    NotFoundError,
    StorageError,
)
from felga.files import read_regular, shown
from felga.types import Box, ImageHit, TextHit

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image

EXPECTED = "expected e.g. http://127.0.0.1:8000"
TIMEOUT = 60.0  # seconds to connect, and for each answer
LARGEST = 64 * 2**20  # bytes of an answer
LARGEST_UPLOAD = 32 * 2**20  # bytes of an image that a server reads
ERRORS: dict[int, type[FelgaError]] = {
    404: NotFoundError,
    429: BusyError,
    500: FelgaError,
    501: MissingError,
    503: BadIndexError,
    507: StorageError,
}
Hit = TypeVar("Hit", ImageHit, TextHit)


@dataclass(frozen=True, slots=True)
class Indexed:
    """An image of the server's index, by its id."""

    image_id: str


ImageSource: TypeAlias = "str | Path | Image | npt.NDArray[np.uint8] | Indexed"
"""A file of this machine, a PIL image, (h, w, 3) uint8 RGB pixels, or an image of the server's index."""


def connect(url: str, token: str | None = None, *, timeout: float = TIMEOUT) -> Client:
    """A client of the server at ``url``, which is asked whether it is one.

    Args:
        token: what the server was started with, if anything.
        timeout: seconds to connect, and for each answer.

    Raises:
        BadInputError: ``url`` is no http URL, no felga answers there, or the token is wrong.
        NotFoundError: nobody answers.
    """
    client = Client(url, token, timeout=timeout)
    client.info()
    return client


class Client:
    """Searches and assigns as :class:`felga.Engine` does, with the hits and the errors of the engine.

    The ``path`` of a hit is relative to the folder of the images on the server. Every method may be called
    from several threads.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout: float = TIMEOUT) -> None:
        """As :func:`connect`, without asking."""
        try:
            parts = urlsplit(url)
            self._host, self._port = parts.hostname or "", parts.port
        except ValueError as error:
            raise BadInputError(f"{url!r} is not a URL ({error}): {EXPECTED}") from error
        if parts.scheme not in ("http", "https") or not self._host:
            raise BadInputError(f"{url!r} is not a URL of a server: {EXPECTED}")
        self.url = url.rstrip("/")
        self._secure, self._prefix = parts.scheme == "https", parts.path.rstrip("/")
        self._token, self._timeout = token, timeout
        self._how: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing to release: every question has a connection of its own."""

    def info(self) -> dict[str, Any]:
        """What is served."""
        return self._json("GET", "/api/info")

    @property
    def measured(self) -> bool:
        """:attr:`felga.Engine.measured`."""
        return bool(self.info()["measured"])

    @property
    def frozen(self) -> Client:
        """:attr:`felga.Engine.frozen`; where the index has no FENet, it is the first question that fails."""
        client = copy.copy(self)
        client._how = {"fenet": False}
        return client

    def search(self, query: str, k: int = 10, **options: Unpack[WordOptions]) -> list[ImageHit]:
        """:meth:`felga.Engine.search`."""
        if not isinstance(query, str):
            raise BadInputError(f"a query is a string, got {type(query).__name__}; search_all takes several")
        return self.search_all([query], k, **options)[0]

    def search_all(
        self, queries: Sequence[str], k: int = 10, **options: Unpack[WordOptions]
    ) -> list[list[ImageHit]]:
        """:meth:`felga.Engine.search_all`."""
        check_queries(queries)
        if not queries:
            return []
        asked = {"queries": list(queries), "k": k, **_sent(Asking(**options)), **self._how}
        found = self._json("POST", "/api/search", json.dumps(asked).encode(), "application/json")
        return [[_hit(ImageHit, hit) for hit in answer["hits"]] for answer in found["answers"]]

    def search_image(
        self, image: ImageSource, box: Box | None = None, k: int = 10, **options: Unpack[ImageOptions]
    ) -> list[ImageHit]:
        """:meth:`felga.Engine.search_image`."""
        how = _sent(Asking.by_image(options))
        asked = {name: how[name] for name in ImageOptions.__annotations__ if name in how}
        found = self._about("/api/search/image", image, box, {"k": k, **asked})
        return [_hit(ImageHit, hit) for hit in found["hits"]]

    def assign(
        self, image: ImageSource, box: Box | None = None, k: int = 10, *, owner: OwnerScore = "soft"
    ) -> list[TextHit]:
        """:meth:`felga.Engine.assign`."""
        found = self._about("/api/assign", image, box, {"k": k, "owner": owner})
        return [_hit(TextHit, hit) for hit in found["hits"]]

    def unknown_words(self, query: str) -> dict[str, list[str]]:
        """:meth:`felga.Engine.unknown_words`."""
        unknown: dict[str, list[str]] = self._json("GET", f"/api/unknown?{urlencode({'q': query})}")[
            "unknown"
        ]
        return unknown

    def _about(
        self, path: str, image: ImageSource, box: Box | None, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        asked = {**options, **self._how}
        if isinstance(image, Indexed):
            asked |= {"id": image.image_id} | _box(box)
            return self._json("GET", f"{path}?{_query(asked)}")
        data, kind, box = _bytes(image, box)
        return self._json("POST", f"{path}?{_query(asked | _box(box))}", data, kind)

    def _json(self, method: str, path: str, data: bytes | None = None, kind: str = "") -> dict[str, Any]:
        status, body = self._answer(method, path, data, kind)
        try:
            found = json.loads(body)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise BadInputError(f"{self.url} is not a felga server: it answered {status} without json")
        if status != 200:
            sentence = str(found.get("error", f"the server answered {status}"))
            raise ERRORS.get(status, BadInputError)(sentence)
        return found

    def _answer(self, method: str, path: str, data: bytes | None, kind: str) -> tuple[int, bytes]:
        headers = {"Accept": "application/json", **({"Content-Type": kind} if kind else {})}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        made = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = made(self._host, self._port, timeout=self._timeout)
        try:
            connection.request(method, quote(self._prefix) + path, data, headers)
            response = connection.getresponse()
            body = response.read(LARGEST + 1)
        except (OSError, ssl.SSLError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise NotFoundError(
                f"{self.url} does not answer ({reason}): is `felga serve` running there?"
            ) from error
        finally:
            connection.close()
        if len(body) > LARGEST:
            raise BadInputError(f"{self.url} answered more than {LARGEST >> 20} MiB: it is no felga server")
        return response.status, body


def _bytes(image: ImageSource, box: Box | None) -> tuple[bytes, str, Box | None]:
    """An image as the bytes of a file, their type, and the box in its pixels."""
    if isinstance(image, str | os.PathLike):
        path = Path(image)
        if not path.exists():
            raise NotFoundError(f"{shown(path)} does not exist: name an image")
        try:
            return read_regular(path, LARGEST_UPLOAD), "image/unknown", box
        except OSError as error:
            raise BadInputError(f"{shown(path.name)} cannot be sent: {error.strerror}") from error
    import numpy as np
    from PIL import Image

    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise BadInputError(
                f"an image array is (height, width, 3) uint8, got shape {image.shape} of {image.dtype}"
            )
        image = Image.fromarray(np.ascontiguousarray(image))
    elif not isinstance(image, Image.Image):
        raise BadInputError(
            f"an image is a path, a PIL image, a (height, width, 3) uint8 array or Indexed, "
            f"got {type(image).__name__}"
        )
    out = io.BytesIO()
    exif = image.getexif()
    image = image if image.mode in ("1", "L", "LA", "I;16", "P", "RGB", "RGBA") else image.convert("RGB")
    image.save(out, "PNG", exif=exif)  # lossless, and turned upright over there
    return out.getvalue(), "image/png", box


def _sent(how: Asking) -> dict[str, Any]:
    """The options as they go over the wire: nothing for what is not asked."""
    values = {name: value for name, value in how.values().items() if value is not None}
    return values | ({} if how.ids is None else {"ids": list(how.ids)})


def _query(asked: Mapping[str, Any]) -> str:
    """A query string: ``true`` and ``false`` as json has them, a list as its values."""
    plain = {name: str(value).lower() if isinstance(value, bool) else value for name, value in asked.items()}
    return urlencode(plain, doseq=True)


def _box(box: Box | None) -> dict[str, str]:
    if box is None:
        return {}
    try:
        x1, y1, x2, y2 = (float(value) for value in box)
    except (TypeError, ValueError) as error:
        raise BadInputError(f"a box is four numbers x1, y1, x2, y2, got {box!r}") from error
    return {"box": ",".join(map(repr, (x1, y1, x2, y2)))}


def _hit(kind: type[Hit], values: Mapping[str, Any]) -> Hit:
    """A hit from json; what a newer server knows besides is left out."""
    made: Hit = _made(kind, values)
    return made


def _made(hint: Any, value: Any) -> Any:
    """``value`` of json as the type ``hint``: dataclasses and tuples are made, NaN was null."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (inner, *_) = (one for one in typing.get_args(hint) if one is not types.NoneType)
        return None if value is None else _made(inner, value)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        hints = _hints(hint)
        return hint(**{name: _made(hints[name], value[name]) for name in hints if name in value})
    if typing.get_origin(hint) is tuple:
        inner, *_ = typing.get_args(hint)
        return tuple(_made(inner, one) for one in value)
    return math.nan if hint is float and value is None else value


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)
