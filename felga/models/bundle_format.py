"""A bundle of weights as a file: one plain tar, written and read without trusting anything in it.

``manifest.json`` comes first, then each distinct content once as ``files/SHA256``, then two empty blocks.
Names inside the tar never become paths: the manifest says which cached file has which content, and every
field of it is checked. Not read by ``tarfile``, which takes extended headers of any size: here each member is
a regular file with one header block, and must be the one that the manifest promises.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, TypeGuard, cast

from felga.errors import BadInputError
from felga.files import to_json
from felga.models.caches import CachedFile
from felga.version import __version__

FORMAT = 1
MANIFEST = "manifest.json"
LARGEST_MANIFEST = 2**20  # bytes: some thousand files
BLOCK = tarfile.BLOCKSIZE
GIT = 40  # hex digits of git's hashes
CHUNK = 2**22
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".json", ".txt", ".model")
"""Weights, configurations and vocabularies: nothing that a program would run."""


@dataclass(frozen=True, slots=True)
class BundledFile:
    """A cached file and its content.

    Attributes:
        blob: what the hub calls the content: its sha256, or git's hash; "" in other caches.
        size: in bytes.
        sha256: of the content, in hex.
    """

    file: CachedFile
    blob: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle holds.

    Attributes:
        names: of the encoders and proposers that read these files.
    """

    names: tuple[str, ...]
    files: tuple[BundledFile, ...]

    def contents(self) -> dict[str, int]:
        """The sha256 and size of each distinct content, in the order of the tar."""
        return {bundled.sha256: bundled.size for bundled in self.files}

    def encoded(self) -> bytes:
        """As json; :func:`read_manifest` reads it."""
        files = [
            {**asdict(one.file), "blob": one.blob, "size": one.size, "sha256": one.sha256}
            for one in self.files
        ]
        about = {"bundle": FORMAT, "felga": __version__, "names": list(self.names), "files": files}
        return (to_json(about, indent=1) + "\n").encode()


def git_hash(chunks: Iterable[bytes], size: int) -> str:
    """Git's name for a content: what the hub calls a small file."""
    digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def write_member(tar: BinaryIO, name: str, size: int, chunks: Iterable[bytes]) -> None:
    """Append a regular file of ``size`` bytes; name and size fit into one header block."""
    header = tarfile.TarInfo(name)
    header.size = size
    tar.write(header.tobuf(tarfile.GNU_FORMAT))  # base-256 sizes: a file may have 8 GiB and more
    for chunk in chunks:
        tar.write(chunk)
    tar.write(bytes(-size % BLOCK))


def write_end(tar: BinaryIO) -> None:
    """Mark the end of the tar."""
    tar.write(bytes(2 * BLOCK))


def read_bundle(tar: BinaryIO) -> tuple[Manifest, dict[str, int]]:
    """Check a whole bundle: its manifest, and where the content with each sha256 begins.

    Raises:
        BadInputError: it is no bundle, is damaged or cut off, or holds what its manifest does not promise;
            the message lacks a subject: "is no bundle: ...".
    """
    manifest = _read_manifest(tar)
    offsets: dict[str, int] = {}
    users: dict[str, list[BundledFile]] = {}
    for one in manifest.files:
        users.setdefault(one.sha256, []).append(one)
    for sha256, size in manifest.contents().items():
        if (found := _header(tar)) != (f"files/{sha256}", size):
            raise BadInputError(
                f"is damaged: it holds {_said(found)} instead of {sha256[:12]} of {size} bytes"
            )
        offsets[sha256] = tar.tell()
        _check_content(tar, size, sha256, users[sha256])
        tar.seek(-size % BLOCK, os.SEEK_CUR)
    if (found := _header(tar)) is not None:
        raise BadInputError(f"is damaged: it holds {_said(found)}, which its manifest does not list")
    return manifest, offsets


def _check_content(tar: BinaryIO, size: int, sha256: str, users: list[BundledFile]) -> None:
    """Read one content, and check it against its sha256 and the hub's names for it."""
    start = tar.tell()
    digest = hashlib.sha256()
    for chunk in chunks_of(tar, size):
        digest.update(chunk)
    if digest.hexdigest() != sha256:
        raise BadInputError(f"is damaged: a content has sha256 {digest.hexdigest()[:12]}, not {sha256[:12]}")
    for bundled in users:
        if len(bundled.blob) == GIT:
            tar.seek(start)
            if git_hash(chunks_of(tar, size), size) != bundled.blob:
                raise BadInputError(
                    f"is damaged: {bundled.file} is not what the hub calls {bundled.blob[:12]}"
                )
    tar.seek(start + size)


def chunks_of(file: BinaryIO, size: int) -> Iterator[bytes]:
    """The next ``size`` bytes.

    Raises:
        BadInputError: the file is shorter.
    """
    while size:
        chunk = file.read(min(size, CHUNK))
        if not chunk:
            raise BadInputError(f"is cut off: {size} bytes are missing")
        size -= len(chunk)
        yield chunk


def _read_manifest(tar: BinaryIO) -> Manifest:
    no_bundle = "is no bundle of `felga models export`"
    try:
        found = _header(tar)
    except BadInputError as error:
        raise BadInputError(no_bundle) from error
    if found is None or found[0] != MANIFEST:
        raise BadInputError(f"{no_bundle}: a bundle begins with {MANIFEST}")
    size = found[1]
    if size > LARGEST_MANIFEST:
        raise BadInputError(
            f"{no_bundle}: its {MANIFEST} has {size} bytes, expected {LARGEST_MANIFEST} at most"
        )
    data = b"".join(chunks_of(tar, size))
    tar.seek(-size % BLOCK, os.SEEK_CUR)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{no_bundle}: its {MANIFEST} is not json") from error
    if not isinstance(value, dict) or value.get("bundle") != FORMAT:
        raise BadInputError(f"{no_bundle}, or of a newer felga: its {MANIFEST} has no 'bundle': {FORMAT}")
    names, files = value.get("names"), value.get("files")
    if not (_are_names(names) and isinstance(files, list) and files):
        raise BadInputError(f"{no_bundle}: its {MANIFEST} lists no names or no files")
    manifest = Manifest(tuple(names), tuple(map(_bundled_file, files)))
    if len({one.file for one in manifest.files}) < len(files):
        raise BadInputError(f"{no_bundle}: its {MANIFEST} lists a file twice")
    sizes = manifest.contents()
    if any(one.size != sizes[one.sha256] for one in manifest.files):
        raise BadInputError(f"{no_bundle}: its {MANIFEST} gives one content two sizes")
    return manifest


def _header(tar: BinaryIO) -> tuple[str, int] | None:
    """Name and size of the member that begins here; None at the end."""
    block = tar.read(BLOCK)
    if block == bytes(BLOCK):
        return None
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError) as error:
        raise BadInputError("is damaged or cut off: a header of the tar is not readable") from error
    if header.type != tarfile.REGTYPE or header.size < 0:
        raise BadInputError(
            f"is damaged: {header.name[:80]!r} is no regular file, which is all a bundle holds"
        )
    return header.name, header.size


def _said(found: tuple[str, int] | None) -> str:
    return "nothing" if found is None else f"{found[0][:80]!r} of {found[1]} bytes"


def _are_names(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(v, str) and v and v.isprintable() for v in value)


def _bundled_file(value: Any) -> BundledFile:
    fields = ("cache", "repository", "commit", "path", "blob", "size", "sha256")
    if not (isinstance(value, dict) and set(value) == set(fields)):
        raise BadInputError(
            f"is no bundle: an entry of its {MANIFEST} has other fields than {', '.join(fields)}"
        )
    size, texts = value["size"], [value[name] for name in fields if name != "size"]
    if type(size) is not int or size < 0 or not all(isinstance(text, str) for text in texts):
        raise BadInputError(f"is no bundle: an entry of its {MANIFEST} has a field of the wrong type")
    cache, repository, commit, path, blob, sha256 = texts
    return checked_file(BundledFile(CachedFile(cache, repository, commit, path), blob, size, sha256))


def checked_file(bundled: BundledFile) -> BundledFile:
    """A file that belongs into a bundle: of a known type, and inside its cache.

    Raises:
        BadInputError: it is not; the message lacks a subject.
    """
    file = bundled.file
    if not file.path.endswith(SUFFIXES):
        raise BadInputError(f"holds {file.path!r}: expected one of {', '.join(SUFFIXES)}")
    if not _stays_inside(file.path) or (file.cache != "hub" and "/" in file.path):
        raise BadInputError(f"holds {file.path!r}: expected a plain path inside a cache")
    if not re.fullmatch(r"[0-9a-f]{64}", bundled.sha256):
        raise BadInputError(f"gives {file.path!r} the sha256 {bundled.sha256!r}: expected 64 hex digits")
    if file.cache != "hub":
        if (
            cast(str, file.cache) not in ("torch", "open_clip")
            or file.repository
            or file.commit
            or bundled.blob
        ):
            raise BadInputError(f"puts {file.path!r} into {file.cache!r}: expected hub, torch or open_clip")
        return bundled
    if not _is_repository(file.repository):
        raise BadInputError(f"names the repository {file.repository!r}: expected OWNER/NAME")
    if not re.fullmatch(r"[0-9a-f]{40}", file.commit):
        raise BadInputError(f"names the commit {file.commit!r}: expected 40 hex digits")
    if bundled.blob != bundled.sha256 and not re.fullmatch(r"[0-9a-f]{40}", bundled.blob):
        raise BadInputError(f"calls {file.path!r} {bundled.blob!r}: expected its sha256 or git's hash")
    return bundled


def _stays_inside(path: str) -> bool:
    """Whether a path with ``/`` has no part that leads elsewhere, hides, or is no name."""
    return all(re.fullmatch(r"\w[\w.+ -]{0,199}", part) for part in path.split("/")) and path.isprintable()


def _is_repository(name: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True
