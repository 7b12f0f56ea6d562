"""An index on object storage: pushed there, pulled from there, and mirrored to be read.

Below its URL lie ``files/SHA256``, which never change, and ``manifest.json``, which is replaced last: whoever
reads it finds every file that it names. A file that two states share is there once, and is sent once. Files
that neither the manifest nor the one before it names are removed after :data:`KEEP`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from fsspec.asyn import AsyncFileSystem

from felga.corpus.urls import everything_below, modified, open_url, reason
from felga.errors import BadIndexError, BadInputError, FelgaError, NotFoundError, StorageError
from felga.files import (
    part_of,
    publish,
    read_regular,
    sha256_file,
    shown,
    storage_errors,
    to_json,
    write_whole,
)
from felga.models.cache import cache_folder
from felga.store.commit import LOCK, is_open
from felga.store.manifest import NAME, FileEntry, Manifest, parse_manifest
from felga.store.stored import Lease, NativeFolder, damaged
from felga.types import Progress

EXPECTED = "expected e.g. s3://BUCKET/PREFIX"
FILES = "files"
PUSHED = (
    "pushed.json"  # in an index: URL -> sha256 of the manifest that it last pushed to, or pulled from, there
)
KEEP = 86_400.0  # seconds that a file without a manifest is kept at a URL: a slow reader, or another push
KEEP_MIRRORED = 3600.0  # seconds after its last use that an outdated state is kept here
TRIES = 5  # for a state that is replaced while it is read


@dataclass(frozen=True, slots=True)
class State:
    """What a manifest says, and the sha256 of its bytes, which names it."""

    manifest: Manifest
    content: bytes

    @property
    def name(self) -> str:
        """The sha256 of the manifest."""
        return hashlib.sha256(self.content).hexdigest()

    def entries(self) -> dict[str, FileEntry]:
        """Its files by their content."""
        return {entry.sha256: entry for entry in self.manifest.files.values()}


class Place:
    """A URL that an index can lie at."""

    def __init__(self, url: str) -> None:
        """Raises: BadInputError, MissingError: as of :func:`felga.corpus.urls.open_url`."""
        self.url = url.rstrip("/")
        self._fs, base = open_url(self.url, EXPECTED)
        self._base = base.rstrip("/")
        self._has_folders = not isinstance(self._fs, AsyncFileSystem)  # such as files; no object storage

    def state(self) -> State | None:
        """What lies there now; None: nothing.

        Raises:
            BadInputError: the service refuses, or does not answer.
            BadIndexError: its manifest is no manifest that this felga reads.
        """
        self._fs.invalidate_cache()
        try:
            content: bytes = self._fs.cat_file(f"{self._base}/{NAME}")
        except FileNotFoundError:
            return None
        except Exception as error:  # services have errors of their own, and not all are of the system's kind
            raise BadInputError(
                f"{shown(self.url)} cannot be read ({reason(error)}): check its name, the credentials and "
                "the network"
            ) from error
        return State(parse_manifest(content, Path(shown(self.url), NAME)), content)

    def existing(self) -> State:
        """As :meth:`state`.

        Raises:
            NotFoundError: nothing lies there.
        """
        found = self.state()
        if found is None:
            raise NotFoundError(
                f"there is no index at {shown(self.url)}: name the URL that one was pushed to (felga push)"
            )
        return found

    def listed(self) -> dict[str, Mapping[str, Any]]:
        """The files there, by their content."""
        with self._talk("listed"):
            try:
                found = everything_below(self._fs, f"{self._base}/{FILES}")
            except FileNotFoundError:
                return {}
        return {path.rpartition("/")[2]: about for path, about in found.items()}

    def send(self, path: Path, sha256: str) -> None:
        """Write a file."""
        with self._talk("written"):
            if self._has_folders:  # elsewhere this would make a bucket
                self._fs.makedirs(f"{self._base}/{FILES}", exist_ok=True)
            self._fs.put_file(os.fspath(path), f"{self._base}/{FILES}/{sha256}")

    def replace(self, content: bytes) -> float | None:
        """Replace the manifest; when that was, by the clock of the service, if it says so."""
        path = f"{self._base}/{NAME}"
        with self._talk("written"):
            if self._has_folders:  # a write may be seen half done, a rename may not
                self._fs.pipe_file(f"{path}.part", content)
                self._fs.mv(f"{path}.part", path)
            else:
                self._fs.pipe_file(path, content)
            self._fs.invalidate_cache()
            return modified(self._fs.info(path))

    def remove(self, names: list[str]) -> None:
        """Remove files."""
        with self._talk("written"):
            for name in names:
                with suppress(FileNotFoundError):  # another push removed it
                    self._fs.rm_file(f"{self._base}/{FILES}/{name}")

    def fetch(self, entry: FileEntry, path: Path) -> None:
        """Write a file of here to ``path``, whole or not at all.

        Raises:
            FileNotFoundError: it is gone.
            BadIndexError: it is not what its name says.
        """
        part = part_of(path)
        with self._talk("read"):
            self._fs.get_file(f"{self._base}/{FILES}/{entry.sha256}", os.fspath(part))
        if part.stat().st_size != entry.size or sha256_file(part) != entry.sha256:
            part.unlink()
            raise BadIndexError(
                f"{FILES}/{entry.sha256} of {shown(self.url)} is damaged: remove it there, and push again"
            )
        publish(part, path)

    @contextmanager
    def _talk(self, what: str) -> Iterator[None]:
        """Errors of the service as one sentence; those of this disk, and a missing object, pass."""
        try:
            yield
        except (FileNotFoundError, FelgaError):
            raise
        except Exception as error:
            raise StorageError(
                f"{shown(self.url)} cannot be {what} ({reason(error)}): nothing was lost, check the "
                "credentials and the network, and run again"
            ) from error


def push(
    folder: Path, url: str, *, replace: bool = False, progress: Progress = lambda stage, done, total: None
) -> tuple[int, int]:
    """Make the state of an index that of a URL; what is there already is not sent again.

    Args:
        replace: also where the URL holds a state that this index did not push or pull itself.
        progress: called with ``push``, how many bytes are there, and of how many.

    Returns:
        How many files were sent, and their bytes.

    Raises:
        NotFoundError: there is no index, or no such bucket.
        BadIndexError: the index is damaged.
        BadInputError: the URL holds a state that would be lost.
        StorageError: the service stopped answering, or refuses; the URL holds what it held.
    """
    place, native = Place(url), NativeFolder(folder)
    lease = Lease(native.path)
    try:
        if found := damaged(native.path, lease.manifest):
            wrong = "; ".join(list(found.values())[:3])
            raise BadIndexError(f"{shown(folder)} is damaged ({wrong}): remove it and index again")
        ours = State(lease.manifest, to_json(lease.manifest.to_json(), indent=1).encode())
        theirs = place.state()
        if not replace:
            _check_lineage(folder, place, theirs, ours)
        sent = _send(place, native.path, ours, progress)
        if (other := place.state()) is not None and (theirs is None or other.name != theirs.name):
            raise BadInputError(f"{shown(place.url)} was pushed to by somebody else meanwhile: push again")
        if theirs is None or theirs.name != ours.name:
            now = place.replace(ours.content)
            _note(folder, place, ours)
            _remove_old(place, now, [ours, *([theirs] if theirs else [])])
        return sent
    except FileNotFoundError as error:
        raise NotFoundError(f"{shown(url)} cannot be written: there is no such bucket or folder") from error
    finally:
        lease.close()


def _send(place: Place, folder: Path, state: State, progress: Progress) -> tuple[int, int]:
    there = place.listed()
    names = {entry.sha256: name for name, entry in state.manifest.files.items()}
    entries = state.entries()
    total, done, sent, count = sum(entry.size for entry in entries.values()), 0, 0, 0
    for sha256, entry in sorted(entries.items(), key=lambda item: item[1].size):
        if sha256 not in there or there[sha256].get("size") not in (None, entry.size):
            place.send(folder / names[sha256], sha256)
            sent, count = sent + entry.size, count + 1
        done += entry.size
        progress("push", done, total)
    return count, sent


def _remove_old(place: Place, now: float | None, states: list[State]) -> None:
    """Remove what no state needs and is older than :data:`KEEP` by the clock of the service."""
    if now is None:
        return
    needed = {sha256 for state in states for sha256 in state.entries()}
    times = {name: modified(about) for name, about in place.listed().items() if name not in needed}
    place.remove([name for name, at in times.items() if at is not None and at < now - KEEP])


def _check_lineage(folder: Path, place: Place, theirs: State | None, ours: State) -> None:
    """Raises: BadInputError: what lies there is not what this index grew from."""
    if theirs is None or theirs.name in (ours.name, _noted(folder).get(place.url)):
        return
    about = theirs.manifest
    raise BadInputError(
        f"{shown(place.url)} holds a state ({about.images.owners} images, {about.texts.owners} texts) that "
        "this index did not push or pull: `felga pull` it and go on from there, or give --replace"
    )


def _noted(folder: Path) -> dict[str, str]:
    try:
        found = json.loads(read_regular(folder / PUSHED, 2**20))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise BadIndexError(f"{shown(folder / PUSHED)} cannot be read ({error}): remove it") from error
    return found if isinstance(found, dict) else {}


def _note(folder: Path, place: Place, state: State) -> None:
    with storage_errors(folder):
        noted = {**_noted(folder), place.url: state.name}
        write_whole(folder / PUSHED, to_json(noted, indent=1).encode())


def pull(url: str, folder: Path, progress: Progress = lambda stage, done, total: None) -> Manifest:
    """Copy the index at a URL into a new folder, to go on with it here.

    Raises:
        BadInputError: the folder is not empty, or the service refuses.
        NotFoundError: there is no index at the URL.
    """
    place = Place(url)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInputError(f"{shown(folder)} exists and is not empty: name a new folder")
    mirrored = mirror(url, progress)
    state = _read(mirrored)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise BadInputError(f"{shown(folder)} lies below a file: name a folder for the index") from error
    with storage_errors(folder):
        for name in state.manifest.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(mirrored / name, folder / name)
        write_whole(folder / NAME, state.content)
    _note(folder, place, state)
    return state.manifest


def mirror(url: str, progress: Progress = lambda stage, done, total: None) -> Path:
    """The folder of this machine that holds the state at a URL; only what is new is fetched.

    It lies in the cache folder of felga, and is for reading. An outdated state stays for
    :data:`KEEP_MIRRORED`, and as long as somebody has it open.

    Args:
        progress: called with ``fetch``, how many bytes are here, and of how many.

    Raises:
        NotFoundError: there is no index.
        BadInputError, StorageError: the service refuses, or does not answer.
        BadIndexError: a file is damaged, or missing.
    """
    place = Place(url)
    home = (
        cache_folder()
        / "indexes"
        / hashlib.sha256(place.url.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    )
    state = place.existing()
    for _ in range(TRIES):
        folder = home / state.name[:32]
        try:
            with storage_errors(home):
                home.mkdir(parents=True, exist_ok=True)
                with FileLock(home / LOCK):  # who fetches the same waits
                    if not (folder / NAME).is_file():
                        _complete(place, home, folder, state, progress)
                        _forget(home, folder)
                    os.utime(folder / NAME)  # used just now
            return folder
        except FileNotFoundError as error:
            before, state = state, place.existing()
            if state.name == before.name:
                raise BadIndexError(
                    f"{shown(place.url)} lacks files: push the index again (felga push)"
                ) from error
    raise StorageError(f"{shown(place.url)} is replaced faster than it can be read: try again")


def _complete(place: Place, home: Path, folder: Path, state: State, progress: Progress) -> None:
    """Fetch what is not here yet, lay it out in ``folder``, and write the manifest last."""
    (home / FILES).mkdir(exist_ok=True)
    total, done = sum(entry.size for entry in state.entries().values()), 0
    for sha256, entry in state.entries().items():
        kept = home / FILES / sha256
        if not (kept.is_file() and kept.stat().st_size == entry.size and sha256_file(kept) == sha256):
            place.fetch(entry, kept)
        done += entry.size
        progress("fetch", done, total)
    shutil.rmtree(folder, ignore_errors=True)  # of a killed run
    for name, entry in state.manifest.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        _link(home / FILES / entry.sha256, folder / name)
    write_whole(folder / NAME, state.content)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _forget(home: Path, current: Path) -> None:
    """Remove states that nobody used for a while or has open, and files that are of no state."""
    for manifest in home.glob(f"*/{NAME}"):
        idle = time.time() - manifest.stat().st_mtime
        if manifest.parent != current and idle > KEEP_MIRRORED and not is_open(manifest):
            manifest.unlink()
            shutil.rmtree(manifest.parent)
    needed: set[str] = set()
    for manifest in home.glob(f"*/{NAME}"):
        with suppress(FelgaError):  # of another felga: it keeps its links
            needed.update(_read(manifest.parent).entries())
    for kept in (home / FILES).iterdir():
        if kept.name not in needed:
            kept.unlink()


def _read(folder: Path) -> State:
    content = read_regular(folder / NAME)
    return State(parse_manifest(content, folder / NAME), content)
