"""An index in Milvus, asked as if it were here.

Milvus names regions that are near a query; their images are fetched whole, and an engine over these alone
scores them by the rules of every other search. It goes deeper until no image that it has not seen can be
among the best, so that over a Milvus index that compares everything (FLAT) the hits are those of the exact
search.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, Self, Unpack

import numpy as np

from felga.asking import Asking, ImageOptions, OwnerScore, WordOptions, at_least_one, check_queries
from felga.engine import Engine
from felga.errors import BadIndexError, BadInputError, NotFoundError
from felga.files import to_json
from felga.milvus.candidates import CandidateIndex, Fetched, fetch, side_by_side
from felga.milvus.connection import MOST, Connection, Place
from felga.queries import ImageSource, Queries
from felga.questions.answers import term_vectors
from felga.questions.grammar import parse
from felga.registry import make_encoder
from felga.search.confidence import Background
from felga.store.manifest import parse_manifest
from felga.store.stored import StoredIndex
from felga.types import Box, ImageHit, TextHit, Vectors

FETCH, LEAST = 10, 64  # regions asked for first: for each image wanted, and at least
DEEPER = 4  # times as many are asked for next
SLACK = 1e-5  # how far two float32 sums of the same cosine may lie apart, generously
SEVERAL = 10  # times as many images of each term, for questions of several terms
TOGETHER = 16  # questions that are answered together
NO_ASSIGN = "captions are not exported to Milvus: ask the index itself, or `felga serve`"


class MilvusIndex(StoredIndex):
    """What is known of an index in Milvus beside its regions."""

    def __init__(self, connection: Connection, device: str) -> None:
        """Read the manifest.

        Raises:
            NotFoundError: there is none.
            BadIndexError: it is damaged, or of a format that this felga does not read.
        """
        place = connection.place
        found = connection.load(place.about) and connection.load(place.name)
        data = connection.read_part("manifest") if found else None
        if data is None:
            raise NotFoundError(
                f"{place} holds no finished index: run `felga export INDEX --to milvus "
                f"{str(place).removeprefix('milvus:')}`"
            )
        self.connection = connection
        self.folder = Path(f"{place.name} in Milvus")
        self.manifest = replace(parse_manifest(data, self.folder), approximate=None)
        self._lock, self._device, self._fenet = threading.Lock(), device, None

    def close(self) -> None:
        """Disconnect."""
        self.connection.close()

    def part(self, name: str) -> bytes:
        """What was exported beside the regions.

        Raises:
            BadIndexError: it is not there.
        """
        if (data := self.connection.read_part(name)) is None:
            raise BadIndexError(f"{self.connection.place} lacks its {name}: export the index again")
        return data

    @property
    def fenet(self) -> Any:
        """As of :class:`StoredIndex`."""
        if (entry := self.manifest.fenet) is None:
            return None
        with self._lock:
            if self._fenet is None:
                from felga.fenet.checkpoint import load_fenet

                data, encoder = self.part("fenet"), self.manifest.contract.encoder
                if hashlib.sha256(data).hexdigest() != entry.sha256:
                    raise BadIndexError(
                        f"the FENet in {self.connection.place} was changed: export the index again"
                    )
                with tempfile.TemporaryDirectory(prefix="felga-") as folder:
                    path = Path(folder, entry.file)
                    path.write_bytes(data)
                    self._fenet = load_fenet(
                        path, encoder=encoder["name"], identity=encoder, device=self._device
                    )
            return self._fenet


class MilvusEngine(Engine):
    """An engine over an index in Milvus, which :func:`felga.milvus.filling.fill` wrote.

    Searches by words and images answer as of the index itself, with confidences. Three things may cost hits:
    a Milvus index that is approximate; an image that hides below the first
    :data:`felga.milvus.connection.MOST` regions; and a question of several terms, which looks at the best
    images of each term alone.
    """

    index: MilvusIndex

    @classmethod
    def connect(
        cls,
        place: str,
        *,
        device: str = "auto",
        root: str | Path | None = None,
        encoder: str | None = None,
    ) -> Self:
        """Open ``milvus:URI#NAME``; see :meth:`Engine.open`.

        Raises:
            BadInputError: it is no such place.
            NotFoundError: nobody answers, or there is no finished index.
            MissingError: pymilvus is not installed.
        """
        connection = Connection(Place.parse(place))
        try:
            index = MilvusIndex(connection, device)
            pooling = index.manifest.contract.encoder.get("pooling")
            own = make_encoder(encoder, device=device, pooling=pooling) if encoder else None
            return cls(index, encoder=own, device=device, root=root)
        except BaseException:
            connection.close()
            raise

    @property
    def frozen(self) -> NoReturn:
        """Refused: raw vectors are not exported."""
        raise BadInputError("an index in Milvus has the vectors after its FENet alone")

    def search_all(
        self, queries: Sequence[str], k: int = 10, **options: Unpack[WordOptions]
    ) -> list[list[ImageHit]]:
        """As of :class:`Engine`."""
        check_queries(queries)
        at_least_one(k=k)
        how = _supported(Asking(**options))
        options.pop("ids", None)
        found: list[list[ImageHit]] = []
        for at in range(0, len(queries), TOGETHER):
            part = queries[at : at + TOGETHER]
            questions = [parse(query) for query in part]
            vectors = term_vectors(
                self.queries(), [term for question in questions for term in question.wanted]
            )
            wanted = k if all(question.alone for question in questions) else SEVERAL * k
            small = self._around(vectors, wanted, how)
            found += [[] for _ in part] if small is None else small.search_all(part, k, **options)
        return found

    def search_image(
        self, image: ImageSource, box: Box | None = None, k: int = 10, **options: Unpack[ImageOptions]
    ) -> list[ImageHit]:
        """As of :class:`Engine`."""
        at_least_one(k=k)
        how = _supported(Asking.by_image(options))
        options.pop("ids", None)
        small = self._around(self._image_vector(image, box), k, how)
        return [] if small is None else small.search_image(image, box, k, **options)

    def assign(
        self, image: ImageSource, box: Box | None = None, k: int = 10, *, owner: OwnerScore = "soft"
    ) -> list[TextHit]:
        """Refused."""
        raise BadInputError(NO_ASSIGN)

    def queries(self) -> Queries:
        """Words as vectors, without an image."""
        none = np.zeros(1, np.int64)
        made: Queries = self._once("queries", lambda: Queries(self.index, lambda: self.encoder, none, {}))
        return made

    def background(self) -> Background:
        """That of the index, of the sample that was chosen when it was exported."""
        made: Background = self._once("background", self._background)
        return made

    def _background(self) -> Background:
        vectors, offsets, extras = side_by_side(self._fetch(json.loads(self.index.part("sample"))))
        return Background(self.queries().bank(), vectors, offsets, extras, self.manifest.images.owners)

    def keyword_words(self) -> frozenset[str]:
        """As of :class:`Engine`."""
        return frozenset(zlib.decompress(self.index.part("words")).decode().split())

    def _fetch(self, positions: Sequence[int]) -> list[Fetched]:
        regions = self.manifest.contract.regions
        return fetch(self.index.connection, positions, regions["top"] + regions["whole"])

    def _around(self, vectors: Vectors, k: int, how: Asking) -> _Around | None:
        """An engine over images among which are the best ``k`` for each vector (q, dim).

        None: no image passes the filter.
        """
        connection, limit = self.index.connection, min(MOST, max(LEAST, FETCH * k))
        where = " and ".join(_filters(how))
        known: dict[int, Fetched] = {}
        while len(vectors) and (how.ids is None or len(how.ids)):
            found = connection.call(
                "search", connection.place.name, data=list(vectors), anns_field="vector", limit=limit,
                filter=where, output_fields=["owner"],
            )  # fmt: skip
            named = {int(hit["entity"]["owner"]) for own in found for hit in own}
            known |= {image.position: image for image in self._fetch(sorted(named - known.keys()))}
            if not known:
                break
            small = _Around(self, [known[position] for position in sorted(known)], vectors)
            ranked = small.ranked(k, how)
            if limit == MOST or all(
                len(own) < limit or (len(best) == k and best[-1].score > float(own[-1]["distance"]) + SLACK)
                for own, best in zip(found, ranked, strict=True)
            ):
                return small
            limit = min(MOST, DEEPER * limit)
        return None


class _Around(Engine):
    """An engine over a few images of an index, which knows the whole index by name only."""

    def __init__(self, whole: MilvusEngine, images: Sequence[Fetched], vectors: Vectors) -> None:
        super().__init__(CandidateIndex(whole.index, images), root=whole.root)
        self._whole, self._vectors = whole, vectors

    @property
    def encoder(self) -> Any:
        """That of the whole index."""
        return self._whole.encoder

    def queries(self) -> Queries:
        """With the background of the whole index."""
        made: Queries = self._once(
            "queries",
            lambda: _Queries(self._whole, self.index, self.index.images.offsets(), self._columns()),
        )
        return made

    def keyword_words(self) -> frozenset[str]:
        """Those of the whole index."""
        words: frozenset[str] = self._whole.keyword_words()
        return words

    def unknown_words(self, query: str) -> dict[str, list[str]]:
        """As the whole index says."""
        return self._whole.unknown_words(query)

    def ranked(self, k: int, how: Asking) -> list[list[Any]]:
        """The best ``k`` of these images for each vector that they were fetched for."""
        return self._ranked_images(self._vectors, k, how, None)

    def _image_vector(self, image: ImageSource, box: Box | None) -> Vectors:
        return self._vectors  # an image was the query: it is encoded already


class _Queries(Queries):
    def __init__(self, whole: MilvusEngine, *about: Any) -> None:
        index, offsets, extras = about
        super().__init__(index, lambda: whole.encoder, offsets, extras)
        self._whole = whole

    def background(self) -> Background:
        return self._whole.background()


def _supported(how: Asking) -> Asking:
    """Refuse what needs more than regions.

    Raises:
        BadInputError: says what.
    """
    for asked, what in (
        (how.dedupe, "near duplicates are not known"),
        (how.exact, "there is no exact search"),
        (how.explain, "keywords are not known"),
        (how.path is not None, "images are chosen by ids, not by paths"),
        (how.caption is not None, "images are chosen by ids, not by captions"),
    ):
        if asked:
            raise BadInputError(f"in Milvus {what}: leave this option out, or ask the index itself")
    return how


def _filters(how: Asking) -> list[str]:
    """Conditions on regions, in Milvus's language."""
    found = [] if how.whole else ["whole == false"]
    if how.ids is not None:
        found.append(f"image_id in {to_json(sorted(how.ids))}")
    return found
