"""A folder of images, with captions beside them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from felga.corpus.captions import (
    NoCaption,
    Row,
    quoted,
    read_json_sidecar,
    read_metadata,
    read_metadata_csv,
    read_sidecar,
)
from felga.corpus.decode import read_file
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
from felga.errors import BadInputError, NotFoundError
from felga.files import shown

METADATA, METADATA_CSV = "metadata.jsonl", "metadata.csv"


def folder(argument: str, *, texts: Texts = "joined") -> FolderCorpus:
    """The corpus ``folder:DIR``.

    Raises:
        NotFoundError: no such folder.
        BadInputError: it is a file.
    """
    return FolderCorpus(argument, texts)


class FolderCorpus:
    """All images below a folder; hidden files and folders are skipped.

    Links to files are followed, as folders of links are a common way to choose images (Hugging Face's cache
    is one); links to folders are not.

    Captions: ``NAME.txt`` or ``NAME.caption`` beside ``NAME.jpg``, one per line; or ``metadata.jsonl`` in any
    folder, as in Hugging Face's imagefolder: ``{"file_name": "a.jpg", "text": "..."}``, where ``text`` may be
    a list (``caption`` and ``captions`` are read too); or, where there is none, ``metadata.csv`` with these
    columns. A row without ``file_name``, and a ``.txt`` without an image, are texts on their own. An image
    without any of these has the caption in ``NAME.json``, if there is one (img2dataset).

    Ids are paths, with bytes that are not UTF-8 as ``\\xNN``. If two names then read alike, one is kept.
    """

    kind = "folder"

    def __init__(self, root: str | Path, texts: Texts = "joined") -> None:
        self.root = Path(root).absolute()
        self._texts: Texts = texts
        if not self.root.exists():
            shards = f", or tar shards as 'webdataset:{shown(root)}'" if str(root).endswith(TAR) else ""
            raise NotFoundError(f"{shown(root)} does not exist: name a folder of images{shards}")
        if not self.root.is_dir():
            raise BadInputError(
                f"{shown(root)} is a file, expected a folder of images (give a COCO json with --coco, "
                f"tar shards as webdataset:{shown(root)})"
            )

    def settings(self) -> Mapping[str, Any]:
        """How captions become texts."""
        return {"texts": self._texts}

    def read(self, item: ImageItem) -> bytes:
        """The bytes of an image.

        Raises:
            UnreadableImage: the file is gone, empty, not regular or too large.
        """
        return read_file(self.root / item.path, item.image_id)

    def scan(self) -> Listing:
        """List the folder, in the order of the names' UTF-8 bytes."""
        bad: list[BadItem] = []
        files = sorted(files_below(self.root, bad))
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
                alone += self._metadata(path, read_metadata, owners, captions, bad)
            elif os.path.basename(path) == METADATA_CSV and _beside(path, METADATA) not in known:
                alone += self._metadata(path, read_metadata_csv, owners, captions, bad)
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

    def _image(self, path: str, bad: list[BadItem]) -> ImageItem | None:
        image_id = _id(path)
        try:
            status = os.stat(self.root / path)
        except OSError as error:
            bad.append(BadItem("image", image_id, image_id, f"the file cannot be read: {error.strerror}"))
            return None
        if not stat.S_ISREG(status.st_mode):  # a pipe would never end
            bad.append(BadItem("image", image_id, image_id, "not a regular file"))
            return None
        return ImageItem(image_id, path, status.st_size, status.st_mtime_ns)

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
                lines = read_sidecar(self.root / path)
            except NoCaption as reason:
                bad.append(BadItem("text", shown(path), shown(path), str(reason)))
                continue
            if stem not in by_stem:
                yield from texts_of(lines, _id(path), None, self._texts)
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
                if lines := read_json_sidecar(self.root / path):
                    captions[image_id] = lines
            except NoCaption as reason:
                bad.append(BadItem("text", shown(path), shown(path), str(reason)))

    def _metadata(
        self,
        path: str,
        read: Callable[[Path], Iterator[tuple[int, Row | NoCaption]]],
        owners: Mapping[str, str],
        captions: dict[str, list[str]],
        bad: list[BadItem],
    ) -> Iterator[TextItem]:
        """Texts without an image; captions of images are added to ``captions``."""
        try:
            for number, row in read(self.root / path):
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


def files_below(root: Path, bad: list[BadItem]) -> Iterator[str]:
    """Paths of files relative to the root, with ``/``, without hidden ones. Unlike os.walk, of any depth.

    Raises:
        BadInputError: the root cannot be read; a folder below it that cannot becomes a bad item.
    """
    waiting = [""]
    while waiting:
        inside = waiting.pop()
        try:
            with os.scandir(root / inside) as entries:
                found = [
                    (f"{inside}{entry.name}", entry.is_dir(follow_symlinks=False), entry.is_symlink())
                    for entry in entries
                    if not entry.name.startswith(".")
                ]
        except OSError as error:
            if not inside:
                raise BadInputError(f"{shown(root)} cannot be read: {error.strerror}") from error
            name = shown(inside.rstrip("/"))
            bad.append(BadItem("image", name, name, f"the folder cannot be read: {error.strerror}"))
            continue
        for path, is_folder, is_link in found:
            if is_folder:
                waiting.append(f"{path}/")
            elif not (is_link and os.path.isdir(root / path)):
                yield path


def _beside(path: str, name: str) -> str:
    return os.path.join(os.path.dirname(path), name)


def _id(path: str) -> str:
    """The path as an id; the same object if it is valid UTF-8, as most are, to save memory."""
    image_id = shown(path)
    return path if image_id == path else image_id
