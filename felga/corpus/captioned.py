"""Images with captions beside them, wherever the files are: the rules of folders and of object storage."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from felga.corpus.captions import (
    MAX_JSON,
    MAX_METADATA,
    MAX_TEXT,
    NoCaption,
    Row,
    json_captions,
    metadata_csv_rows,
    metadata_rows,
    quoted,
    sidecar_captions,
)
from felga.corpus.inside import TAR
from felga.corpus.items import (
    IMAGES,
    BadItem,
    ImageItem,
    Listing,
    TextItem,
    Texts,
    make_listing,
    texts_of,
)
from felga.errors import BadInputError
from felga.files import shown

METADATA, METADATA_CSV = "metadata.jsonl", "metadata.csv"


class CaptionedFiles(ABC):
    """All images among some files, and the captions that lie beside them.

    Captions: ``NAME.txt`` or ``NAME.caption`` beside ``NAME.jpg``, one per line; or ``metadata.jsonl`` in any
    folder, as in Hugging Face's imagefolder: ``{"file_name": "a.jpg", "text": "..."}``, where ``text`` may be
    a list (``caption`` and ``captions`` are read too); or, where there is none, ``metadata.csv`` with these
    columns. A row without ``file_name``, and a ``.txt`` without an image, are texts on their own. An image
    without any of these has the caption in ``NAME.json``, if there is one (img2dataset).

    Ids are paths, with bytes that are not UTF-8 as ``\\xNN``. If two names then read alike, one is kept.
    """

    root: str | Path

    def __init__(self, texts: Texts) -> None:
        self._texts: Texts = texts

    def settings(self) -> Mapping[str, Any]:
        """How captions become texts."""
        return {"texts": self._texts}

    @abstractmethod
    def _files(self, bad: list[BadItem]) -> Iterator[str]:
        """Paths of all files relative to the root, with ``/``, without hidden ones."""

    @abstractmethod
    def _image(self, path: str, bad: list[BadItem]) -> ImageItem | None:
        """One of these files as an image, unopened; None, with a bad item, where it cannot be one."""

    @abstractmethod
    def _bytes(self, path: str, limit: int) -> bytes:
        """What one of these files holds.

        Raises:
            NoCaption: it cannot be read, or exceeds ``limit`` bytes.
        """

    def scan(self) -> Listing:
        """List the files, in the order of the names' UTF-8 bytes."""
        bad: list[BadItem] = []
        files = sorted(self._files(bad))
        images: dict[str, ImageItem] = {}  # by path
        for path in files:
            if os.path.splitext(path)[1].lower() in IMAGES and (item := self._image(path, bad)):
                images[path] = item
        taken: dict[str, str] = {}  # id -> path, where names read alike
        for path, item in images.items():
            taken.setdefault(item.image_id, path)
        owners = {path: item.image_id for path, item in images.items() if taken[item.image_id] == path}
        captions: dict[str, list[str]] = {}
        alone: list[TextItem] = []
        known = frozenset(files)
        for path in files:
            if os.path.basename(path) == METADATA:
                alone += self._metadata(path, metadata_rows, owners, captions, bad)
            elif os.path.basename(path) == METADATA_CSV and _beside(path, METADATA) not in known:
                alone += self._metadata(path, metadata_csv_rows, owners, captions, bad)
        alone += self._sidecars(files, owners, captions, bad)
        self._json_sidecars(known, owners, captions, bad)
        if not (images or alone) and (shards := [path for path in files if path.endswith(TAR)]):
            raise BadInputError(
                f"{shown(self.root)} holds no image but {len(shards)} tar files, such as {shown(shards[0])}: "
                f"index them as webdataset:{shown(self.root)}"
            )
        texts = (
            text
            for image_id, lines in captions.items()
            for text in texts_of(lines, image_id, image_id, self._texts)
        )
        return make_listing(images.values(), [*alone, *texts], bad)

    def _sidecars(
        self,
        files: list[str],
        owners: Mapping[str, str],
        captions: dict[str, list[str]],
        bad: list[BadItem],
    ) -> Iterator[TextItem]:
        """Texts without an image; captions of images are added to ``captions``."""
        by_stem: dict[str, list[str]] = {}
        for path, image_id in owners.items():
            by_stem.setdefault(os.path.splitext(path)[0], []).append(image_id)
        for path in files:
            stem, suffix = os.path.splitext(path)
            if suffix.lower() not in (".txt", ".caption"):
                continue
            try:
                lines = sidecar_captions(self._bytes(path, MAX_TEXT))
            except NoCaption as reason:
                bad.append(BadItem("text", shown(path), shown(path), str(reason)))
                continue
            if stem not in by_stem:
                yield from texts_of(lines, id_of(path), None, self._texts)
            for image_id in by_stem.get(stem, ()):
                captions.setdefault(image_id, []).extend(lines)

    def _json_sidecars(
        self,
        files: Collection[str],
        owners: Mapping[str, str],
        captions: dict[str, list[str]],
        bad: list[BadItem],
    ) -> None:
        """Captions of images that have none yet are added to ``captions``."""
        for image, image_id in owners.items():
            path = f"{os.path.splitext(image)[0]}.json"
            if image_id in captions or path not in files:
                continue
            try:
                if lines := json_captions(self._bytes(path, MAX_JSON)):
                    captions[image_id] = lines
            except NoCaption as reason:
                bad.append(BadItem("text", shown(path), shown(path), str(reason)))

    def _metadata(
        self,
        path: str,
        rows: Callable[[bytes], Iterator[tuple[int, Row | NoCaption]]],
        owners: Mapping[str, str],
        captions: dict[str, list[str]],
        bad: list[BadItem],
    ) -> Iterator[TextItem]:
        """Texts without an image; captions of images are added to ``captions``."""
        try:
            for number, row in rows(self._bytes(path, MAX_METADATA)):
                where = f"{shown(path)}:{number}"
                if isinstance(row, NoCaption):
                    bad.append(BadItem("text", where, shown(path), str(row)))
                elif row.file_name is None:
                    yield from texts_of(row.captions, where, None, self._texts)
                else:
                    target = os.path.normpath(os.path.join(os.path.dirname(path), row.file_name))
                    if target in owners:
                        captions.setdefault(owners[target], []).extend(row.captions)
                    else:
                        reason = f"file_name {quoted(row.file_name)} is not an image of this corpus"
                        bad.append(BadItem("text", where, shown(path), reason))
        except NoCaption as reason:
            bad.append(BadItem("text", shown(path), shown(path), str(reason)))


def _beside(path: str, name: str) -> str:
    return os.path.join(os.path.dirname(path), name)


def id_of(path: str) -> str:
    """The path as an id; the same object if it is valid UTF-8, as most are, to save memory."""
    image_id = shown(path)
    return path if image_id == path else image_id
