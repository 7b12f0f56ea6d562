"""COCO's official archives: downloaded with resume, checked, and unpacked."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path

from felga.errors import BadInputError, MissingError
from felga.files import storage_errors
from felga.types import Progress

HOME = "http://images.cocodataset.org"
BLOCK = 2**20  # bytes


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive.

    Attributes:
        remote: its path on the server.
        md5: of the archive, in hex.
        unpacks_to: a path that exists once it is unpacked.
    """

    remote: str
    md5: str
    unpacks_to: str

    @property
    def name(self) -> str:
        """Its file name."""
        return self.remote.rpartition("/")[2]


# md5 as published with the archives' mirrors; COCO itself publishes none.
ARCHIVES = {
    2014: (
        Archive(
            "annotations/annotations_trainval2014.zip",
            "0a379cfc70b0e71301e0f377548639bd",
            "annotations/instances_val2014.json",
        ),
        Archive("zips/val2014.zip", "a3d79f5ed8d289b7a7554ce06a5782b3", "val2014"),
        Archive("zips/train2014.zip", "0da8c0bd3d6becc4dcb32757491aca88", "train2014"),
    ),
    2017: (
        Archive(
            "annotations/annotations_trainval2017.zip",
            "f4bbac642086de4f52a3fdda2de5fa2c",
            "annotations/instances_val2017.json",
        ),
        Archive("zips/val2017.zip", "442b8da7639aecaf257c1dceb8ba8c80", "val2017"),
        Archive("zips/train2017.zip", "cced6f7f71b7629ddf16f17bbcfab6b2", "train2017"),
    ),
}


def fetch_coco(
    year: int,
    root: Path,
    *,
    home: str = HOME,
    archives: tuple[Archive, ...] | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> None:
    """Download COCO of a year into ``root``, in the official layout.

    What is already unpacked is skipped; partial downloads are resumed; an archive is removed once it is
    unpacked.

    Args:
        home: the URL of the archives, for a mirror.
        archives: None: all of the year.
        progress: called with an archive's name, the bytes downloaded so far, and its size.

    Raises:
        BadInputError: no such year, ``home`` is not a URL, or the md5 of an archive is wrong (it is removed).
        MissingError: the server cannot be reached, or the connection broke (the part is kept).
        StorageError: the disk is full, or ``root`` cannot be written.
    """
    if year not in ARCHIVES:
        raise BadInputError(f"there is no COCO {year}: expected 2014 or 2017")
    with storage_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        for archive in ARCHIVES[year] if archives is None else archives:
            _install(archive, root, home, progress)


def _install(archive: Archive, root: Path, home: str, progress: Progress) -> None:
    done = root / f".{archive.name}.done"
    if done.exists() and (root / archive.unpacks_to).exists():
        return
    path = root / archive.name
    if not path.exists():
        part = root / f"{archive.name}.part"
        _download(f"{home}/{archive.remote}", part, archive.name, progress)
        _check(part, archive)
        part.replace(path)
    with zipfile.ZipFile(path) as content:
        content.extractall(root)  # zipfile keeps members below root
    done.touch()
    path.unlink()


def _download(url: str, part: Path, name: str, progress: Progress) -> None:
    """Download a file to ``part``, from where an earlier download stopped."""
    there = part.stat().st_size if part.exists() else 0
    try:
        request = urllib.request.Request(url, headers={"Range": f"bytes={there}-"} if there else {})
    except ValueError as error:
        raise BadInputError(f"{url!r} is not a URL: give a mirror such as {HOME}") from error
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            resumed = answer.status == 206
            total = int(answer.headers.get("Content-Length", 0)) + (there if resumed else 0)
            done = there if resumed else 0  # a server without ranges starts over
            with part.open("ab" if resumed else "wb") as file:
                while block := answer.read(BLOCK):
                    file.write(block)
                    done += len(block)
                    progress(name, done, total)
        if total and done < total:
            raise MissingError(f"{url} broke off at {done} of {total} bytes: run the same command to resume")
    except urllib.error.HTTPError as error:
        if error.code == 416 and there:  # the part is already complete
            return
        raise MissingError(
            f"{url} cannot be downloaded: the server answered {error.code} {error.reason}"
        ) from error
    except (urllib.error.URLError, TimeoutError, http.client.HTTPException, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise MissingError(
            f"{url} cannot be downloaded ({reason}): run the same command to resume"
        ) from error


def _check(part: Path, archive: Archive) -> None:
    with part.open("rb") as file:
        md5 = hashlib.file_digest(file, "md5").hexdigest()
    if md5 != archive.md5:
        part.unlink()
        raise BadInputError(
            f"{archive.name} has the md5 {md5}, expected {archive.md5}: it was damaged in transit, "
            "run the same command again"
        )
