"""A folder of images, with captions beside them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from felga.corpus.captioned import CaptionedFiles, id_of
from felga.corpus.captions import NoCaption
from felga.corpus.decode import read_file
from felga.corpus.inside import TAR
from felga.corpus.items import BadItem, ImageItem, Texts
from felga.errors import BadInputError, NotFoundError
from felga.files import read_regular, shown


def folder(argument: str, *, texts: Texts = "joined") -> FolderCorpus:
    """The corpus ``folder:DIR``.

    Raises:
        NotFoundError: no such folder.
        BadInputError: it is a file.
    """
    return FolderCorpus(argument, texts)


class FolderCorpus(CaptionedFiles):
    """All images below a folder; hidden files and folders are skipped.

    Links to files are followed, as folders of links are a common way to choose images (Hugging Face's cache
    is one); links to folders are not.
    """

    kind = "folder"

    def __init__(self, root: str | Path, texts: Texts = "joined") -> None:
        super().__init__(texts)
        self.root: Path = Path(root).absolute()
        if not self.root.exists():
            shards = f", or tar shards as 'webdataset:{shown(root)}'" if str(root).endswith(TAR) else ""
            raise NotFoundError(f"{shown(root)} does not exist: name a folder of images{shards}")
        if not self.root.is_dir():
            raise BadInputError(
                f"{shown(root)} is a file, expected a folder of images (give a COCO json with --coco, "
                f"tar shards as webdataset:{shown(root)})"
            )

    def read(self, item: ImageItem) -> bytes:
        """The bytes of an image.

        Raises:
            UnreadableImage: the file is gone, empty, not regular or too large.
        """
        return read_file(self.root / item.path, item.image_id)

    def _files(self, bad: list[BadItem]) -> Iterator[str]:
        return files_below(self.root, bad)

    def _image(self, path: str, bad: list[BadItem]) -> ImageItem | None:
        image_id = id_of(path)
        try:
            status = os.stat(self.root / path)
        except OSError as error:
            bad.append(BadItem("image", image_id, image_id, f"the file cannot be read: {error.strerror}"))
            return None
        if not stat.S_ISREG(status.st_mode):  # a pipe would never end
            bad.append(BadItem("image", image_id, image_id, "not a regular file"))
            return None
        return ImageItem(image_id, path, status.st_size, status.st_mtime_ns)

    def _bytes(self, path: str, limit: int) -> bytes:
        try:
            return read_regular(self.root / path, limit)
        except OSError as error:
            raise NoCaption(f"the file cannot be read: {error.strerror}") from error


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
