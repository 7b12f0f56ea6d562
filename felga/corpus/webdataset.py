"""Tar shards of WebDataset and img2dataset: ``KEY.jpg`` with its caption in ``KEY.txt`` or json."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from felga.corpus.captions import MAX_JSON, MAX_TEXT, NoCaption, json_captions, sidecar_captions
from felga.corpus.inside import TAR
from felga.corpus.items import (
    IMAGES,
    BadItem,
    ImageItem,
    Listing,
    TextItem,
    Texts,
    make_listing,
    path_fault,
    texts_of,
)
from felga.corpus.shards import ShardCorpus
from felga.corpus.tarball import DamagedTar, Member, members
from felga.files import open_regular, shown

CAPTIONS = {".txt": MAX_TEXT, ".caption": MAX_TEXT, ".json": MAX_JSON}  # the first that an image has counts
UNPACK = "a compressed tar cannot be read in place: unpack it to a plain .tar"
COMPRESSED = dict.fromkeys((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst"), UNPACK)


def webdataset(argument: str, *, texts: Texts = "joined") -> WebDataset:
    """The corpus ``webdataset:SHARDS``: a folder, a tar file, or such as ``DIR/{00000..00009}.tar``.

    Raises:
        BadInputError: no shard is named, or the pattern is malformed.
        NotFoundError: there is no such folder or file.
    """
    return WebDataset(argument, texts)


class WebDataset(ShardCorpus):
    """The images of tar shards, read where they lie in their shards.

    A caption is ``KEY.txt`` or ``KEY.caption``, one per line, or else the ``caption`` (``captions``,
    ``text``) of ``KEY.json``, where ``KEY`` is the name of the image without its suffix, or up to the first
    dot of its base name. A ``.txt`` without an image is a text on its own.

    Ids are ``SHARD/KEY``, paths ``SHARD.tar/KEY.jpg``. The time of an image is that of its shard, plus the
    size of the shard as nanoseconds: if either changes, the images of the shard are hashed, and those whose
    bytes are the same stay.
    """

    kind = "webdataset"
    suffix = TAR

    def scan(self) -> Listing:
        """List the members of all shards by their headers; captions alone are read.

        Raises:
            BadInputError: there are no shards.
            NotFoundError: a shard that the pattern names is missing.
        """
        bad: list[BadItem] = []
        shards = self._shards.find(bad, COMPRESSED)
        images: list[ImageItem] = []
        texts: list[TextItem] = []
        for shard in shards:
            self._read_shard(shard, images, texts, bad)
        return make_listing(images, texts, bad)

    def _read_shard(
        self, shard: str, images: list[ImageItem], texts: list[TextItem], bad: list[BadItem]
    ) -> None:
        try:
            with open_regular(self.root / shard) as file:
                content = _Shard(shard, file)
                try:
                    content.find(bad)
                finally:  # what precedes the damage counts
                    images += content.images.values()
                    texts += content.texts(self._texts, bad)
        except DamagedTar as error:
            bad.append(BadItem("image", shown(shard), shown(shard), f"the tar is {error}"))
        except OSError as error:
            reason = f"the file cannot be read: {error.strerror}"
            bad.append(BadItem("image", shown(shard), shown(shard), reason))


@dataclass(slots=True)
class _Shard:
    """The content of one shard.

    Attributes:
        images: by the name of the member without its suffix.
        captions: files of captions, by their suffix and their name without it.
    """

    path: str
    file: BinaryIO
    images: dict[str, ImageItem] = field(default_factory=dict)
    captions: dict[str, dict[str, Member]] = field(default_factory=lambda: {kind: {} for kind in CAPTIONS})

    def find(self, bad: list[BadItem]) -> None:
        """Find images and files of captions."""
        status = os.fstat(self.file.fileno())
        stamp = status.st_mtime_ns + status.st_size
        for member in members(self.file):
            stem, suffix = os.path.splitext(member.name)
            suffix = suffix.lower()
            path = f"{self.path}/{member.name}"
            if suffix in CAPTIONS:
                if member.fault is None:
                    self.captions[suffix].setdefault(stem, member)
                else:
                    bad.append(BadItem("text", shown(path), shown(path), member.fault))
            elif suffix in IMAGES:
                fault = member.fault or path_fault(member.name)
                if fault is None and stem in self.images:
                    fault = "another image has the same key"
                if fault is None:
                    self.images[stem] = ImageItem(self._id(stem), path, member.size, stamp)
                else:
                    bad.append(BadItem("image", shown(path), shown(path), fault))

    def texts(self, texts: Texts, bad: list[BadItem]) -> Iterator[TextItem]:
        """The captions of images, and texts on their own."""
        used: set[str] = set()
        for stem, image in self.images.items():
            keys = dict.fromkeys((stem, _key(stem)))
            used.update(keys)
            files = (
                (suffix, own[key]) for key in keys for suffix, own in self.captions.items() if key in own
            )
            for suffix, member in files:
                if lines := self._lines(member, suffix, bad):
                    yield from texts_of(lines, image.image_id, image.image_id, texts)
                    break
        for suffix in (".txt", ".caption"):
            for key, member in self.captions[suffix].items():
                if key not in used:
                    yield from texts_of(self._lines(member, suffix, bad), self._id(key), None, texts)

    def _lines(self, member: Member, suffix: str, bad: list[BadItem]) -> Sequence[str]:
        """The captions in a file, if it has any."""
        try:
            if member.size > CAPTIONS[suffix]:
                raise NoCaption(f"the file has {member.size} bytes, more than {CAPTIONS[suffix]}")
            data = os.pread(self.file.fileno(), member.size, member.offset)
            return json_captions(data) if suffix == ".json" else sidecar_captions(data)
        except NoCaption as reason:
            path = shown(f"{self.path}/{member.name}")
            bad.append(BadItem("text", path, path, str(reason)))
            return []

    def _id(self, stem: str) -> str:
        return shown(f"{self.path.removesuffix(TAR)}/{stem}")


def _key(stem: str) -> str:
    """The key of WebDataset: a name up to the first dot of its last part."""
    folder, slash, name = stem.rpartition("/")
    return f"{folder}{slash}{name.partition('.')[0]}"
