"""A folder of images, with captions beside them."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from felga.corpus.items import BadItem, ImageItem, Listing, TextItem, Texts, texts_of
from felga.errors import BadInputError, NotFoundError

IMAGES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif", ".tga", ".ico"}
)
METADATA = "metadata.jsonl"
MAX_TEXT = 2**20  # bytes of a sidecar: more is no caption


class FolderCorpus:
    """All images below a folder; hidden files and folders, and folders that are links, are passed over.

    Captions: ``NAME.txt`` beside ``NAME.jpg``, a line each; or ``metadata.jsonl`` in any folder, as
    Hugging Face's imagefolder has it: ``{"file_name": "a.jpg", "text": "..."}``, where ``text`` may be a
    list (``caption`` and ``captions`` are read too). A row without ``file_name``, and a ``.txt`` without a
    image, are texts on their own.
    """

    kind = "folder"

    def __init__(self, root: str | Path, texts: Texts = "joined") -> None:
        self.root = Path(root).absolute()
        self._texts: Texts = texts
        if not self.root.exists():
            raise NotFoundError(f"{root} is not there: name a folder of images")
        if not self.root.is_dir():
            raise BadInputError(f"{root} is a file, wanted a folder of images (a COCO json goes with --coco)")

    def settings(self) -> Mapping[str, Any]:
        """How captions become texts."""
        return {"texts": self._texts}

    def scan(self) -> Listing:
        """List the folder. Paths sort as bytes of their UTF-8 names do."""
        bad: list[BadItem] = []
        files = sorted(self._files(bad))
        images: dict[str, ImageItem] = {}
        captions: dict[str, list[str]] = {}
        alone: list[TextItem] = []
        ids: dict[str, str] = {}
        stems: dict[str, list[str]] = {}
        for path in files:
            if Path(path).suffix.lower() not in IMAGES:
                continue
            image_id = shown(path)
            if (item := self._image(path, image_id, bad)) is None:
                continue
            if image_id in images:
                bad.append(BadItem("image", image_id, image_id, f"its name reads like another's: {image_id}"))
                continue
            images[image_id] = item
            ids[path] = image_id
            stems.setdefault(os.path.splitext(path)[0], []).append(image_id)
        for path in files:
            if os.path.basename(path) == METADATA:
                for name, lines in self._metadata(path, ids, bad):
                    if name is None:
                        alone += texts_of(lines, f"{shown(path)}:{len(alone) + 1}", None, self._texts)
                    else:
                        captions.setdefault(name, []).extend(lines)
        for path in files:
            if not path.lower().endswith(".txt"):
                continue
            lines = self._sidecar(path, bad)
            owners = stems.get(os.path.splitext(path)[0], [])
            for image_id in owners:
                captions.setdefault(image_id, []).extend(lines)
            if not owners:
                alone += texts_of(lines, shown(path), None, self._texts)
        texts = [*alone]
        for image_id, lines in captions.items():
            texts += texts_of(lines, image_id, image_id, self._texts)
        return Listing(
            [images[image_id] for image_id in sorted(images)],
            sorted(texts, key=lambda text: text.text_id),
            sorted(bad, key=lambda item: (item.kind, item.item_id, item.reason)),
        )

    def _files(self, bad: list[BadItem]) -> Iterator[str]:
        """Relative paths, with ``/``."""

        def unreadable(error: OSError) -> None:
            path = shown(os.path.relpath(error.filename, self.root))
            bad.append(BadItem("image", path, path, f"the folder cannot be read: {error.strerror}"))

        for folder, folders, names in os.walk(self.root, onerror=unreadable):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            inside = PurePosixPath(Path(folder).relative_to(self.root).as_posix())
            for name in names:
                if not name.startswith("."):
                    yield str(inside / name)

    def _image(self, path: str, image_id: str, bad: list[BadItem]) -> ImageItem | None:
        try:
            found = os.stat(self.root / path)
        except OSError as error:
            bad.append(BadItem("image", image_id, image_id, f"the file cannot be read: {error.strerror}"))
            return None
        if not stat.S_ISREG(found.st_mode):  # a pipe would never end
            bad.append(BadItem("image", image_id, image_id, "no regular file"))
            return None
        return ImageItem(image_id, path, found.st_size, found.st_mtime_ns)

    def _sidecar(self, path: str, bad: list[BadItem]) -> list[str]:
        text = self._text(path, MAX_TEXT, bad)
        return text.splitlines() if text is not None else []

    def _text(self, path: str, limit: int | None, bad: list[BadItem]) -> str | None:
        """A UTF-8 file's text; None, and a bad item, where it is none."""
        file = self.root / path
        try:
            found = file.stat()
            if not stat.S_ISREG(found.st_mode):
                reason = "no regular file"
            elif limit is not None and found.st_size > limit:
                reason = f"{found.st_size} bytes are more than a caption has"
            else:
                return file.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            reason = f"not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}"
        except OSError as error:
            reason = f"the file cannot be read: {error.strerror}"
        bad.append(BadItem("text", shown(path), shown(path), reason))
        return None

    def _metadata(
        self, path: str, ids: Mapping[str, str], bad: list[BadItem]
    ) -> Iterator[tuple[str | None, list[str]]]:
        """(image_id or None, captions) of each line."""
        folder = os.path.dirname(path)
        for number, line in enumerate((self._text(path, None, bad) or "").splitlines(), 1):
            if not line.strip():
                continue
            where = f"{shown(path)}:{number}"
            row, reason = _row(line)
            if reason is None:
                name, lines = row
                if name is None:
                    yield None, lines
                    continue
                target = os.path.normpath(os.path.join(folder, name))
                if target in ids:
                    yield ids[target], lines
                    continue
                reason = f"file_name {name!r} is no image of this corpus"
            bad.append(BadItem("text", where, shown(path), reason))


def shown(path: str) -> str:
    """A path as valid UTF-8: bytes that are none as ``\\xNN``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _row(line: str) -> tuple[tuple[str | None, list[str]], str | None]:
    """(file_name or None, captions) of a metadata line, or why it has none."""
    nothing: tuple[str | None, list[str]] = (None, [])
    try:
        row = json.loads(line)
    except ValueError as error:
        return nothing, f"no json: {error}"
    if not isinstance(row, dict):
        return nothing, f"a json {type(row).__name__}, wanted an object with file_name and text"
    name = row.get("file_name")
    key: Literal["text", "caption", "captions"]
    for key in ("text", "caption", "captions"):
        if key in row:
            value = row[key]
            lines = [value] if isinstance(value, str) else value
            if not isinstance(lines, list) or not all(isinstance(one, str) for one in lines):
                return nothing, f"{key} is a {type(value).__name__}, wanted a string or a list of strings"
            return (name if isinstance(name, str) else None, lines), None
    if not isinstance(name, str):
        return nothing, "neither file_name nor text"
    return (name, []), None
