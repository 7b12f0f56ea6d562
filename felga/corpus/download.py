"""COCO's official archives: fetched so that a broken connection costs nothing, checked, and unpacked."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from felga.errors import BadInputError, MissingError

HOME = "http://images.cocodataset.org"
BLOCK = 2**20  # bytes


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive by its place on the server and its md5, with a path that it unpacks to."""

    place: str
    md5: str
    holds: str

    @property
    def name(self) -> str:
        """Its file name."""
        return self.place.rpartition("/")[2]


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
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> None:
    """Bring COCO of a year into ``root``, in the official layout.

    What is unpacked already is passed over; a part that was fetched is gone on with; an archive is removed
    once it is unpacked.

    Args:
        home: where the archives are, for a mirror.
        archives: None: all of the year.
        progress: called with an archive's name, bytes that are here, and bytes in all.

    Raises:
        BadInputError: no such year, or an archive whose md5 is not the expected one (it is removed).
        MissingError: the network cannot be reached, or broke off (the part is kept).
    """
    if year not in ARCHIVES:
        raise BadInputError(f"there is no COCO {year}; wanted 2014 or 2017")
    root.mkdir(parents=True, exist_ok=True)
    for archive in ARCHIVES[year] if archives is None else archives:
        done = root / f".{archive.name}.done"
        if done.exists() and (root / archive.holds).exists():
            continue
        path = root / archive.name
        if not path.exists():
            part = root / f"{archive.name}.part"
            _fetch(f"{home}/{archive.place}", part, archive.name, progress)
            _check(part, archive)
            part.replace(path)
        with zipfile.ZipFile(path) as content:
            content.extractall(root)  # zipfile keeps members below root
        done.touch()
        path.unlink()


def _fetch(url: str, part: Path, name: str, progress: Callable[[str, int, int], None]) -> None:
    """Bring a file to ``part``, going on behind what is there already."""
    there = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={there}-"} if there else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            resumed = answer.status == 206
            total = int(answer.headers.get("Content-Length", 0)) + (there if resumed else 0)
            done = there if resumed else 0  # a server that knows no ranges begins anew
            with part.open("ab" if resumed else "wb") as file:
                while block := answer.read(BLOCK):
                    file.write(block)
                    done += len(block)
                    progress(name, done, total)
        if total and done < total:
            raise MissingError(f"{url} broke off at {done} of {total} bytes: run the same command to go on")
    except urllib.error.HTTPError as error:
        if error.code == 416 and there:  # nothing behind what is there: it is whole
            return
        raise MissingError(f"{url} cannot be fetched: the server says {error.code} {error.reason}") from error
    except (urllib.error.URLError, TimeoutError, http.client.HTTPException, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise MissingError(f"{url} cannot be fetched ({reason}): run the same command to go on") from error


def _check(part: Path, archive: Archive) -> None:
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != archive.md5:
        part.unlink()
        raise BadInputError(
            f"{archive.name} has the md5 {found}, wanted {archive.md5}: it was damaged on its way, "
            "fetch it again"
        )
