"""Hits as files in a folder: copies of the images, links to them, or their regions cut out.

Nothing is overwritten: a name that is taken gets ``-2``, ``-3``, ... before its suffix. Copies are described
in ``metadata.jsonl``, so that Hugging Face's imagefolder reads the folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from math import ceil, floor
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
from PIL import Image

from felga.corpus.decode import UnreadableImage, read_file, read_image
from felga.corpus.inside import exists
from felga.errors import StorageError
from felga.files import shown, storage_errors, to_json, write_whole
from felga.show.detections import imagefolder_row
from felga.show.text import Answer
from felga.types import ImageHit

Way: TypeAlias = Literal["copied", "linked", "cut out"]
METADATA = "metadata.jsonl"
LONGEST = 100  # bytes of a query, or of a file's stem, in a new name: file systems take 255


def put_hits(answers: Sequence[Answer], folder: Path, way: Way) -> str:
    """Put the images, or their regions, of all hits into ``folder``; what was done, as a sentence.

    Names begin with the rank, after the query if there are several: ``01-photo.jpg``, ``boat-01-photo.jpg``;
    of several regions of an image, its own number follows: ``01-2-photo.png``. What cannot be read is left
    out and said. Copies get a row each in :data:`METADATA`, after those that it has; but a name that is not
    UTF-8, which json cannot hold.

    Raises:
        StorageError: the folder or a file cannot be written.
    """
    write = {"copied": _copy, "linked": _link, "cut out": _cut}[way]
    written, failed = 0, []
    rows: list[dict[str, Any]] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{shown(folder)} cannot be created: {error.strerror}") from error
    with storage_errors(folder):
        for answer in answers:
            before = f"{_slug(answer.query)}-" if len(answers) > 1 else ""
            digits = max(2, len(str(len(answer.hits))))
            for hit in answer.hits:
                assert isinstance(hit, ImageHit), "only images have files"
                try:
                    names = write(hit, folder, f"{before}{hit.rank:0{digits}}-")
                except UnreadableImage as error:
                    failed.append(str(error))
                    continue
                written += len(names)
                if way == "copied":
                    rows += [
                        imagefolder_row(answer.query, hit, name) for name in names if name == shown(name)
                    ]
        if rows:
            _describe(rows, folder / METADATA)
    what = "region" if way == "cut out" else "image"
    sentence = f"{written} {what}{'' if written == 1 else 's'} {way} into {shown(folder)}"
    return f"{sentence}; {len(failed)} left out: {failed[0]}" if failed else sentence


def _describe(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Append rows to a file of json lines."""
    if os.path.lexists(path) and not path.is_file():
        raise StorageError(f"{shown(path)} is no file: the images were copied, but not described")
    before = path.read_bytes() if path.is_file() else b""
    if before and not before.endswith(b"\n"):
        before += b"\n"
    write_whole(path, before + "".join(to_json(row) + "\n" for row in rows).encode())


def _copy(hit: ImageHit, folder: Path, prefix: str) -> list[str]:
    data = read_file(Path(hit.path))
    write = partial(_create, write=lambda file: file.write(data))
    return [_new(folder, prefix, os.path.basename(hit.path), write)]


def _link(hit: ImageHit, folder: Path, prefix: str) -> list[str]:
    if not os.path.exists(hit.path) and exists(hit.path):
        raise UnreadableImage(
            f"{shown(os.path.basename(hit.path))} lies inside a shard, where no link can lead: copy it"
        )
    if not os.path.exists(hit.path):
        raise UnreadableImage(
            f"{shown(os.path.basename(hit.path))} cannot be read: No such file or directory"
        )
    origin = os.path.abspath(hit.path)
    return [_new(folder, prefix, os.path.basename(hit.path), lambda target: os.symlink(origin, target))]


def _cut(hit: ImageHit, folder: Path, prefix: str) -> list[str]:
    name = Path(os.path.basename(hit.path)).stem + ".png"
    written = []
    for number, part in enumerate(_parts(hit), 1):
        own = f"{prefix}{number}-" if len(hit.regions) > 1 else prefix
        written.append(_new(folder, own, name, partial(_create, write=partial(part.save, format="PNG"))))
    return written


def _parts(hit: ImageHit) -> Iterator[Image.Image]:
    """The regions of an image, with every pixel that they touch; of at least one pixel."""
    decoded = read_image(Path(hit.path), hit.image_id)
    image = Image.fromarray(decoded.pixels)
    boxes = np.array([region.box for region in hit.regions], np.float32)
    for x1, y1, x2, y2 in decoded.in_pixels(boxes).tolist():
        left, top = (
            min(max(floor(low), 0), side - 1) for low, side in zip((x1, y1), image.size, strict=True)
        )
        right = max(left + 1, min(ceil(x2), image.width))
        yield image.crop((left, top, right, max(top + 1, min(ceil(y2), image.height))))


def _new(folder: Path, prefix: str, name: str, put: Callable[[Path], None]) -> str:
    """``put`` under the first name that is free, and return it.

    ``put`` must raise FileExistsError where one is not.
    """
    stem, suffix = os.path.splitext(name)
    for number in count(1):
        again = "" if number == 1 else f"-{number}"
        try:
            put(folder / (new := f"{prefix}{_short(stem)}{again}{_short(suffix, 20)}"))
            return new
        except FileExistsError:
            continue
    raise AssertionError("count() has no end")


def _create(target: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a new file: whole, or none is left behind."""
    file = target.open("xb")
    try:
        with file:
            write(file)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _slug(query: str) -> str:
    """A query as a part of a file's name: letters, digits and hyphens."""
    return _short(re.sub(r"[^\w]+", "-", query).strip("-")) or "query"


def _short(name: str, longest: int = LONGEST) -> str:
    """A name of at most ``longest`` bytes."""
    data = os.fsencode(name)
    return name if len(data) <= longest else data[:longest].decode("utf-8", "ignore")
