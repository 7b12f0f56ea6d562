"""Tar shards of WebDataset and img2dataset: ``KEY.jpg`` with its caption in ``KEY.txt`` or json."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from felga.corpus.captions import MAX_JSON, MAX_TEXT, NoCaption, json_captions, sidecar_captions
from felga.corpus.decode import read_file
from felga.corpus.folder import files_below
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
from felga.corpus.tarball import SUFFIX, DamagedTar, Member, members
from felga.errors import BadInputError, NotFoundError
from felga.files import open_regular, shown

MOST_SHARDS = 100_000  # that a pattern may name
CAPTIONS = {".txt": MAX_TEXT, ".caption": MAX_TEXT, ".json": MAX_JSON}  # the first that an image has counts
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def webdataset(argument: str, *, texts: Texts = "joined") -> WebDataset:
    """The corpus ``webdataset:SHARDS``: a folder, a tar file, or such as ``DIR/{00000..00009}.tar``.

    Raises:
        BadInputError: no shard is named, or the pattern is malformed.
        NotFoundError: there is no such folder or file.
    """
    return WebDataset(argument, texts)


class WebDataset:
    """The images of tar shards, read where they lie in their shards.

    A caption is ``KEY.txt`` or ``KEY.caption``, one per line, or else the ``caption`` (``captions``,
    ``text``) of ``KEY.json``, where ``KEY`` is the name of the image without its suffix, or up to the first
    dot of its base name. A ``.txt`` without an image is a text on its own.

    Ids are ``SHARD/KEY``, paths ``SHARD.tar/KEY.jpg``. The time of an image is that of its shard, plus the
    size of the shard as nanoseconds: if either changes, the images of the shard are hashed, and those whose
    bytes are the same stay.
    """

    kind = "webdataset"

    def __init__(self, shards: str | Path, texts: Texts = "joined") -> None:
        self._texts: Texts = texts
        self.root, self._pattern = _rooted(os.fspath(shards))
        if not self.root.is_dir():
            raise NotFoundError(f"{shown(self.root)} does not exist: name tar shards or their folder")
        if self._pattern:
            self._check_pattern()

    def settings(self) -> Mapping[str, Any]:
        """Which shards, and how captions become texts."""
        return {"shards": self._pattern, "texts": self._texts}

    def read(self, item: ImageItem) -> bytes:
        """The bytes of an image.

        Raises:
            UnreadableImage: it or its shard is gone, empty, damaged or too large.
        """
        return read_file(self.root / item.path, item.image_id)

    def scan(self) -> Listing:
        """List the members of all shards by their headers; captions alone are read.

        Raises:
            BadInputError: there are no shards.
            NotFoundError: a shard that the pattern names is missing.
        """
        bad: list[BadItem] = []
        shards = list(_expanded(self._pattern)) if self._pattern else self._found(bad)
        if missing := [shard for shard in shards if not os.path.lexists(self.root / shard)]:
            raise NotFoundError(
                f"{len(missing)} of {len(shards)} shards are missing from {shown(self.root)}, such as "
                f"{shown(missing[0])}"
            )
        if not shards and not bad:
            raise BadInputError(f"{shown(self.root)} holds no .tar file: webdataset: names tar shards")
        images: list[ImageItem] = []
        texts: list[TextItem] = []
        for shard in shards:
            self._read_shard(shard, images, texts, bad)
        return make_listing(images, texts, bad)

    def _check_pattern(self) -> None:
        count = sum(1 for _ in islice(_expanded(self._pattern), MOST_SHARDS + 1))
        if count > MOST_SHARDS:
            raise BadInputError(f"{shown(self._pattern)} names more than {MOST_SHARDS} shards")
        if unfit := next((name for name in _expanded(self._pattern) if not name.endswith(SUFFIX)), None):
            raise BadInputError(
                f"{shown(unfit)} is no tar shard: expected a folder, FILE.tar or a pattern such as "
                "'{00000..00009}.tar'; compressed shards have to be unpacked to .tar"
            )

    def _found(self, bad: list[BadItem]) -> list[str]:
        """The shards below the root, in order; hidden files and folders are skipped."""
        shards = []
        for path in files_below(self.root, bad):
            if path.endswith(SUFFIX):
                shards.append(path)
            elif path.endswith(COMPRESSED):
                reason = "a compressed tar cannot be read in place: unpack it to a plain .tar"
                bad.append(BadItem("image", shown(path), shown(path), reason))
        return sorted(shards)

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
        return shown(f"{self.path.removesuffix(SUFFIX)}/{stem}")


def _key(stem: str) -> str:
    """The key of WebDataset: a name up to the first dot of its last part."""
    folder, slash, name = stem.rpartition("/")
    return f"{folder}{slash}{name.partition('.')[0]}"


def _rooted(argument: str) -> tuple[Path, str]:
    """The folder that holds all shards, and the pattern below it; no pattern: every shard in the folder."""
    if not argument:
        raise BadInputError(
            "webdataset needs tar shards: webdataset:FOLDER, or 'webdataset:DIR/{00000..00009}.tar'"
        )
    path = Path(argument).absolute()
    if path.is_dir():
        return path, ""
    if path.is_file():
        return path.parent, path.name
    before = argument.partition("{")[0]
    folder = os.path.dirname(before)
    if before == argument:
        raise NotFoundError(f"{shown(argument)} does not exist: name tar shards or their folder")
    return Path(folder).absolute(), argument[len(folder) :].lstrip("/") if folder else argument


def _expanded(pattern: str) -> Iterator[str]:
    """The names that a pattern stands for, as a shell expands braces: ``{a,b}`` and ``{000..123}``."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        yield pattern
        return
    inside = match[1]
    if numbers := re.fullmatch(r"(\d{1,18})\.\.(\d{1,18})", inside):
        first, last = numbers[1], numbers[2]
        if int(first) > int(last):
            raise BadInputError(f"{{{inside}}} is no range: expected the smaller number first")
        width = len(first) if first.startswith("0") or len(first) == len(last) else 0
        parts: Iterator[str] = (f"{number:0{width}}" for number in range(int(first), int(last) + 1))
    elif "," in inside:
        parts = iter(inside.split(","))
    else:
        raise BadInputError(f"{{{inside}}} is neither a range such as {{00000..00009}} nor a list")
    for part in parts:
        yield from _expanded(pattern[: match.start()] + part + pattern[match.end() :])
