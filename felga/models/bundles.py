"""Weights for machines without a network: the caches' files into a bundle, and out of one.

A checksum finds damage, not malice: a bundle deserves the trust of whoever made it, as a download does.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from felga.errors import BadInputError, BusyError, NotFoundError, StorageError
from felga.files import open_regular, part_of, publish, sha256_file, shown, storage_reason, write_whole
from felga.models.bundle_format import (
    GIT,
    MANIFEST,
    BundledFile,
    Manifest,
    checked_file,
    chunks_of,
    git_hash,
    read_bundle,
    write_end,
    write_member,
)
from felga.models.caches import CachedFile, cache_folders, link_name, located, repository_folder
from felga.models.weights import existing, sha256_of


@dataclass(frozen=True, slots=True)
class Imported:
    """What :func:`import_bundle` did.

    Attributes:
        written: the files that were not there before.
        moved: the repositories whose name meant another commit before.
    """

    manifest: Manifest
    written: tuple[CachedFile, ...]
    moved: tuple[str, ...]


def export_bundle(names: Sequence[str], paths: Iterable[Path], out: Path) -> Manifest:
    """Write cached files into a new bundle, whole or not at all.

    Args:
        names: of the encoders and proposers that read these files.
        paths: the files, in the caches of this machine.

    Raises:
        BadInputError: a file is of an unexpected type, or not what the hub says it is.
        NotFoundError: a file is gone.
        StorageError: the disk is full or read-only, or permission is missing.
    """
    files = sorted(filter(None, map(located, paths)))
    described = {file: _described(file) for file in dict.fromkeys(files)}
    manifest = Manifest(tuple(names), tuple(described.values()))
    places = {one.sha256: file.place for file, one in described.items()}
    with _storage(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        part = part_of(out)
        try:
            with part.open("xb") as tar:
                write_member(tar, MANIFEST, len(manifest.encoded()), [manifest.encoded()])
                for sha256, size in manifest.contents().items():
                    with places[sha256].open("rb") as source:
                        write_member(tar, f"files/{sha256}", size, chunks_of(source, size))
                write_end(tar)
            publish(part, out)
        finally:
            part.unlink(missing_ok=True)
    return manifest


def import_bundle(path: Path) -> Imported:
    """Put the files of a bundle into the caches of this machine; what is there already is left alone.

    The whole bundle is checked before anything is written. Each file appears whole or not at all, and a
    repository's name means the new snapshot only when all files are there.

    Raises:
        NotFoundError: no such file.
        BadInputError: no bundle, damaged, or with anything in it that a bundle does not contain.
        BusyError: another import is running.
        StorageError: the disk is full or read-only, or permission is missing.
    """
    with _opened(path) as tar:
        try:
            manifest, offsets = read_bundle(tar)
        except BadInputError as error:
            raise BadInputError(f"{shown(path)} {error}") from error
        with _storage(cache_folders()["hub"]), _one_at_a_time():
            return _place_all(manifest, tar, offsets)


def _described(file: CachedFile) -> BundledFile:
    path = existing(file.place)
    size, sha256 = path.stat().st_size, sha256_of(path)
    blob = link_name(path)
    if file.cache != "hub":
        blob = actual = ""
    elif len(blob) == GIT:
        with path.open("rb") as source:
            actual = git_hash(chunks_of(source, size), size)
    else:  # no link, or a mirror of the hub with names of its own
        blob, actual = blob if len(blob) == len(sha256) else sha256, sha256
    if blob != actual:
        raise BadInputError(
            f"{shown(path)} is damaged: the hub calls it {blob[:12]}, and it is {actual[:12]}; remove "
            f"{shown(repository_folder(file.repository))} and fetch it again (felga models pull)"
        )
    try:
        return checked_file(BundledFile(file, blob, size, sha256))
    except BadInputError as error:
        raise BadInputError(f"{shown(path)} cannot be exported: a bundle that {error}") from error


def _place_all(manifest: Manifest, tar: BinaryIO, offsets: Mapping[str, int]) -> Imported:
    written = []
    for one in manifest.files:  # contents first: nobody sees them yet in the hub's cache
        target = _content_place(one)
        if not _holds(target, one):
            _write(target, tar, offsets[one.sha256], one)
            written.append(one.file)
    for one in manifest.files:
        place, content = one.file.place, _content_place(one)
        if not (place.exists() and place.samefile(content)) and not _holds(place, one):
            _link(place, content)
            if one.file not in written:
                written.append(one.file)
    moved = []
    for repository, commit in {one.file.repository: one.file.commit for one in manifest.files}.items():
        if repository:
            main = repository_folder(repository) / "refs" / "main"
            before = main.read_text() if main.is_file() else None
            if before != commit:
                main.parent.mkdir(parents=True, exist_ok=True)
                write_whole(main, commit.encode())
            if before not in (None, commit):
                moved.append(repository)
    return Imported(manifest, tuple(written), tuple(moved))


def _content_place(one: BundledFile) -> Path:
    if one.file.cache != "hub":
        return one.file.place
    return repository_folder(one.file.repository) / "blobs" / one.blob


def _holds(path: Path, one: BundledFile) -> bool:
    return path.is_file() and path.stat().st_size == one.size and sha256_file(path) == one.sha256


def _write(target: Path, tar: BinaryIO, offset: int, one: BundledFile) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(target)
    try:
        tar.seek(offset)
        with part.open("xb") as file:
            for chunk in chunks_of(tar, one.size):
                file.write(chunk)
        if not _holds(part, one):
            raise BadInputError(f"the bundle changed while it was read: {one.file}")
        publish(part, target)
    finally:
        part.unlink(missing_ok=True)


def _link(place: Path, content: Path) -> None:
    """As the hub's client does it, with a relative link: the cache can be moved."""
    place.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(place)
    part.symlink_to(os.path.relpath(content, place.parent))
    os.replace(part, place)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with ExitStack() as stack:
        try:
            tar = stack.enter_context(open_regular(path))
        except FileNotFoundError as error:
            raise NotFoundError(
                f"{shown(path)} does not exist: expected a bundle of `felga models export`"
            ) from error
        except OSError as error:
            raise BadInputError(f"{shown(path)} cannot be read: {error.strerror}") from error
        yield tar


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Two imports would write the same ``.part``."""
    folder = cache_folders()["hub"] / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "felga-import.lock", timeout=0):
            yield
    except Timeout as error:
        raise BusyError(f"another import is writing to {shown(folder.parent)}: wait for it to end") from error


@contextmanager
def _storage(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = storage_reason(error) or error.strerror
        raise StorageError(f"{shown(error.filename or target)} cannot be written: {reason}") from error
