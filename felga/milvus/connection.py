"""Where in Milvus an index is, and its two collections: the regions, and what must be known of them."""

from __future__ import annotations

import base64
import importlib.util
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from felga.errors import BadInputError, MissingError, NotFoundError

PREFIX = "milvus:"
TOKEN = "FELGA_MILVUS_TOKEN"
EXPECTED = "expected milvus:http://HOST:19530 or milvus:FILE.db, with #NAME for another collection than felga"
TIMEOUT = 120.0  # seconds for one call
MOST = 16_384  # rows of one answer: the limit of a Milvus server
CHUNK = 48_000  # bytes of a part; in base64 they fit into Milvus's longest text
LONGEST = 65_535  # bytes of a text
CONNECTION = 2  # Milvus's code of a server that does not answer


@dataclass(frozen=True, slots=True)
class Place:
    """Where in Milvus an index is.

    Attributes:
        uri: of a server, or the file of the embedded one.
        name: of the collection of regions; the one of all else is called ``NAME_about``.
    """

    uri: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Place:
        """``URI`` or ``URI#NAME``, with or without ``milvus:``.

        Raises:
            BadInputError: it is neither.
        """
        uri, hash_, name = text.removeprefix(PREFIX).partition("#")
        if not (re.fullmatch(r"https?://[^\s/]+(/\w*)?", uri) or re.fullmatch(r"(?!.*://).+\.db", uri)):
            raise BadInputError(f"{_without_password(text)!r} names no Milvus: {EXPECTED}")
        if hash_ and not re.fullmatch(r"[A-Za-z_]\w{0,200}", name, re.ASCII):
            raise BadInputError(f"{name!r} is no name of a collection: {EXPECTED}")
        return cls(uri, name or "felga")

    @property
    def embedded(self) -> bool:
        """Whether it is a file of the embedded server."""
        return "://" not in self.uri

    @property
    def about(self) -> str:
        """The collection of everything but regions."""
        return f"{self.name}_about"

    def __str__(self) -> str:
        return f"{PREFIX}{_without_password(self.uri)}#{self.name}"


class Connection:
    """A Milvus, asked with one sentence for whatever it cannot do; safe in threads."""

    def __init__(self, place: Place, *, new: bool = False) -> None:
        """Connect, with the token in $FELGA_MILVUS_TOKEN if there is one.

        Args:
            new: whether the file of an embedded server may be made.

        Raises:
            MissingError: a package is not installed.
            NotFoundError: there is no such file, or nobody answers.
        """
        self.place = place
        try:
            import pymilvus
        except ModuleNotFoundError as error:
            raise MissingError(f"{place} needs pymilvus: pip install 'felga[milvus]'") from error
        if place.embedded and importlib.util.find_spec("milvus_lite") is None:
            raise MissingError(f"{place} needs the embedded server: pip install --no-deps milvus-lite")
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs what it raises
        if place.embedded and not (new or Path(place.uri).exists()):
            raise NotFoundError(f"{place.uri} does not exist: {EXPECTED}")
        self._failure: type[Exception] = pymilvus.MilvusException
        with self._said():
            token = os.environ.get(TOKEN, "")
            self.client: Any = pymilvus.MilvusClient(place.uri, token=token, timeout=10)

    def close(self) -> None:
        """Disconnect."""
        self.client.close()

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """What a method of ``pymilvus.MilvusClient`` returns."""
        with self._said():
            return getattr(self.client, method)(*arguments, timeout=TIMEOUT, **options)

    def load(self, collection: str) -> bool:
        """Whether there is such a collection; it is then ready to be asked."""
        if not self.call("has_collection", collection):
            return False
        self.call("load_collection", collection)
        return True

    def rows(self, collection: str, where: str, fields: Sequence[str]) -> list[dict[str, Any]]:
        """The rows that a filter lets pass, :data:`MOST` at most."""
        found: list[dict[str, Any]] = list(
            self.call("query", collection, filter=where, output_fields=list(fields), limit=MOST)
        )
        return found

    def count(self) -> int:
        """Number of regions."""
        (row,) = self.call(
            "query", self.place.name, filter="", output_fields=["count(*)"], consistency_level="Strong"
        )
        return int(row["count(*)"])

    def write_parts(self, parts: Mapping[str, bytes]) -> None:
        """Write what is known of the regions, in the order given."""
        for name, data in parts.items():
            chunks = [data[at : at + CHUNK] for at in range(0, max(len(data), 1), CHUNK)]
            rows = [
                {
                    "part": f"{name}/{number}",
                    "chunks": len(chunks),
                    "data": base64.b64encode(chunk).decode(),
                    "unused": [0.0, 0.0],
                }
                for number, chunk in enumerate(chunks)
            ]
            for at in range(0, len(rows), 100):
                self.call("insert", self.place.about, rows[at : at + 100])
            self.call("flush", self.place.about)

    def read_part(self, name: str) -> bytes | None:
        """What :meth:`write_parts` wrote; None: nothing, or not all of it."""
        found: dict[int, bytes] = {}
        number, count = 0, 1
        while number < count:
            keys = ", ".join(f'"{name}/{at}"' for at in range(number, number + 50))
            rows = self.rows(self.place.about, f"part in [{keys}]", ["part", "chunks", "data"])
            for row in rows:
                found[int(row["part"].rpartition("/")[2])] = base64.b64decode(row["data"])
                count = int(row["chunks"])
            number += 50
        return b"".join(found[at] for at in range(count)) if len(found) == count else None

    @contextmanager
    def _said(self) -> Iterator[None]:
        """One sentence for what Milvus refuses."""
        try:
            yield
        except self._failure as error:
            message = " ".join(str(getattr(error, "message", "") or error).split())[:300].rstrip(".")
            if getattr(error, "code", None) == CONNECTION:
                raise NotFoundError(f"no Milvus answers at {self.place} ({message}): {EXPECTED}") from error
            raise BadInputError(f"{self.place} cannot do this: {message}") from error


def _without_password(uri: str) -> str:
    return re.sub(r"//[^/@]*@", "//", uri)
