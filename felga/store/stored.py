"""A stored index: the one place that joins its paths, opens its parts and knows how long they must live."""

from __future__ import annotations

import os
import stat
import tempfile
import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from felga.errors import BadIndexError
from felga.files import sha256_file, shown
from felga.search.flat import FlatSearcher
from felga.store.manifest import (
    NAME,
    FileEntry,
    Manifest,
    TableEntry,
    check_features,
    parse_manifest,
    read_manifest,
)
from felga.store.owner_table import OwnerTable
from felga.types import Embedding, Frozen

try:
    import fcntl
except ModuleNotFoundError:  # Windows: retired files are kept for a while, whether or not they are in use
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from felga.fenet.checkpoint import Checkpoint
    from felga.search.approximate import ApproximateSearcher

HASHED_AT_OPEN = 64 * 2**20  # bytes; of a larger file the size is compared, and `felga verify` hashes all
IMAGES, TEXTS = "images.lance", "texts.lance"


class NativeFolder:
    """A folder under a name that Lance and FAISS accept.

    They take paths as UTF-8 without control characters, and read ``a:b`` as a URL; any other folder is
    reached through a temporary link.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder.resolve()
        text = str(self.path)
        if not text.isprintable():  # lone surrogates are not printable either
            holder = tempfile.mkdtemp(prefix="felga-")
            self.path = Path(holder, "index")
            os.symlink(text, self.path)
            weakref.finalize(self, _remove, self.path, holder)


def _remove(link: Path, holder: str) -> None:
    with suppress(OSError):
        link.unlink()
        os.rmdir(holder)


class Lease:
    """The manifest as it was read, and a shared lock that keeps the files it names from being retired."""

    def __init__(self, folder: Path) -> None:
        """Raises: NotFoundError, BadIndexError: there is no readable manifest."""
        path = folder / NAME
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
        except OSError:
            read_manifest(folder)  # says what is wrong, in a sentence
            raise
        file = os.fdopen(handle, "rb")
        self.close = weakref.finalize(self, file.close)
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise BadIndexError(f"{path} is not a regular file: name the folder of an index")
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        self.inode = found.st_ino
        self.manifest = parse_manifest(file.read(found.st_size), path)

    def is_current(self, folder: Path) -> bool:
        """Whether this is still the state of the index."""
        with suppress(OSError):
            return os.stat(folder / NAME).st_ino == self.inode
        return False


class StoredIndex:
    """An index open for reading. It keeps the state in which it was opened, whatever is written meanwhile.

    Attributes:
        manifest: the contract.
        images, texts: the tables, at the versions of the manifest.
        regions, keywords: searchers over their fragments, exact.
    """

    def __init__(self, folder: Path, native: NativeFolder, lease: Lease, device: str) -> None:
        self.folder = folder
        self.manifest = lease.manifest
        self._native, self._lease, self._device = native, lease, device
        self._lock = threading.Lock()
        self._fenet: Checkpoint | None = None
        self._approximate: ApproximateSearcher | None = None
        self.images = OwnerTable(native.path / IMAGES, self.manifest.images.version)
        self.texts = OwnerTable(native.path / TEXTS, self.manifest.texts.version)
        self.regions = self._searcher(self.manifest.images)
        self.keywords = self._searcher(self.manifest.texts)

    @classmethod
    def open(
        cls, folder: str | Path, *, device: str = "auto", hash_up_to: int | None = HASHED_AT_OPEN
    ) -> StoredIndex:
        """Open an index as the manifest describes it; tried again while a writer replaces the manifest.

        Args:
            device: for the FENet.
            hash_up_to: files up to this size are hashed, of others the size is compared; None: all hashed.

        Raises:
            NotFoundError: there is no index.
            BadIndexError: it is damaged, or of a format that this felga does not read.
        """
        folder = Path(folder)
        while True:
            native = NativeFolder(folder)
            lease = Lease(native.path)
            try:
                if found := damaged(native.path, lease.manifest, hash_up_to=hash_up_to):
                    raise BadIndexError(
                        f"{shown(folder)} is damaged ({'; '.join(list(found.values())[:3])}): "
                        "remove it and index again"
                    )
                return cls(folder, native, lease, device)
            except BadIndexError:
                if lease.is_current(native.path):
                    raise
                lease.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def is_current(self) -> bool:
        """Whether this is still the state of the index; False also where its manifest is gone."""
        return self._lease.is_current(self._native.path)

    def close(self) -> None:
        """Release the files: a writer may then remove what only this state needs."""
        self._lease.close()

    @property
    def fenet(self) -> Checkpoint | None:
        """The FENet of the index, loaded on first use.

        Raises:
            BadIndexError, BadInputError: it is damaged, or was trained on another encoder.
        """
        entry = self.manifest.fenet
        if entry is None:
            return None
        with self._lock:
            if self._fenet is None:
                from felga.fenet.checkpoint import load_fenet

                encoder = self.manifest.contract.encoder
                fenet = load_fenet(
                    self._native.path / entry.file,
                    encoder=encoder["name"],
                    identity=encoder,
                    device=self._device,
                )
                check_features(fenet.feature_dim, self.manifest.contract, entry.file)
                self._fenet = fenet
            return self._fenet

    @property
    def fenet_file(self) -> Path | None:
        """The file of :attr:`fenet`."""
        entry = self.manifest.fenet
        return None if entry is None else self._native.path / entry.file

    @property
    def embedding(self) -> Embedding:
        """From raw vectors to those that the searchers hold: the FENet, if there is one.

        Raises:
            BadIndexError, BadInputError: as of :attr:`fenet`.
        """
        return self.fenet or Frozen()

    @property
    def approximate(self) -> ApproximateSearcher | None:
        """The approximate search of the regions, read on first use.

        Raises:
            BadIndexError: it is damaged.
        """
        entry = self.manifest.approximate
        if entry is None:
            return None
        with self._lock:
            if self._approximate is None:
                from felga.search.approximate import ApproximateSearcher, Depth

                table = self.manifest.images
                begins = np.cumsum([0, *table.counts])
                at = dict(zip(table.pieces, begins.tolist(), strict=False))
                self._approximate = ApproximateSearcher(
                    self._native.path / entry.file,
                    self.regions,
                    entry.counts,
                    [at.get(name) for name in entry.pieces],
                    Depth(entry.effort, entry.fetch),
                )
            return self._approximate

    def _searcher(self, entry: TableEntry) -> FlatSearcher:
        paths = [self._native.path / name for name in entry.pieces]
        return FlatSearcher(paths, self.manifest.dim, entry.fragments)


def damaged(folder: Path, manifest: Manifest, *, hash_up_to: int | None = None) -> dict[str, str]:
    """What is wrong with the files of an index: name -> sentence.

    Args:
        hash_up_to: of a file larger than this only the size is compared.
    """
    return {
        name: wrong
        for name, entry in manifest.files.items()
        if (wrong := _wrong(folder, name, entry, hash_up_to)) is not None
    }


def _wrong(folder: Path, name: str, entry: FileEntry, hash_up_to: int | None) -> str | None:
    path = folder
    for part in name.split("/"):
        path = path / part
        try:
            found = os.lstat(path)
        except OSError:
            return f"{name} is missing"
        if stat.S_ISLNK(found.st_mode):
            return f"{name} is or lies behind a link"
    if not stat.S_ISREG(found.st_mode):
        return f"{name} is not a regular file"
    if found.st_size != entry.size:
        return f"{name} has {found.st_size} bytes, expected {entry.size}"
    if hash_up_to is None or entry.size <= hash_up_to:
        try:
            actual = sha256_file(path)
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
        if actual != entry.sha256:
            return f"{name} was changed: its sha256 is not the manifest's"
    return None


def file_entries(folder: Path, paths: list[Path], known: Mapping[str, FileEntry]) -> dict[str, FileEntry]:
    """Name -> size and sha256 of files of an index; those in ``known`` are not hashed again."""
    entries = {}
    for path in sorted(paths):
        name = path.relative_to(folder).as_posix()
        entries[name] = known.get(name) or FileEntry(path.stat().st_size, sha256_file(path))
    return entries
