"""Vectors of whole images in the layout of clip-retrieval, read in blocks; nothing is unpickled."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet

from felga.errors import BadInputError, NotFoundError
from felga.files import shown
from felga.store.export import ABOUT, BLOCK

IMAGES, TEXTS, METADATA = "img_emb", "text_emb", "metadata"
PATH, URL, CAPTION, WHOLE = "image_path", "url", "caption", "whole"
Raw = npt.NDArray[Any]
"""(n, dim) of any float dtype and any length, NaN included: as it stands in the file."""


class Row(NamedTuple):
    """A row of the metadata; ``whole`` is False where the vector is of a part of the image."""

    image_path: str | None
    url: str | None
    caption: str | None
    whole: bool


class Block(NamedTuple):
    """Consecutive rows: where they stand, what they are of, their vectors, and those of their captions."""

    where: str
    start: int
    rows: list[Row]
    images: Raw
    texts: Raw | None


@dataclass(frozen=True, slots=True)
class _Part:
    """The files of one number: ``img_emb_N.npy``, ``metadata_N.parquet``, perhaps ``text_emb_N.npy``."""

    images: Raw
    texts: Raw | None
    metadata: Path


class ClipRetrieval:
    """A folder with ``img_emb/``, ``metadata/`` and perhaps ``text_emb/``, as clip-retrieval writes it.

    Attributes:
        dim: length of the vectors.
        about: what ``felga export`` wrote of the vectors, None where another program wrote them.
    """

    def __init__(self, folder: Path) -> None:
        """Open all files and compare their sizes; vectors are mapped, and not read yet.

        Raises:
            NotFoundError: there is no such folder.
            BadInputError: it is none of clip-retrieval, or its files do not belong together.
        """
        if not folder.is_dir():
            raise NotFoundError(
                f"{shown(folder)} does not exist: name a folder with {IMAGES}/ and {METADATA}/"
            )
        numbers = sorted(
            (match[1] for path in folder.glob(f"{IMAGES}/*.npy") if (match := _NUMBER.fullmatch(path.name))),
            key=int,
        )
        if not numbers:
            raise BadInputError(
                f"{shown(folder)} holds no {IMAGES}/{IMAGES}_0.npy: expected the output of "
                "`clip-retrieval inference`, or of `felga export`"
            )
        self.folder = folder
        self._parts = [_part(folder, number) for number in numbers]
        dims = {part.images.shape[1] for part in self._parts}
        dims |= {part.texts.shape[1] for part in self._parts if part.texts is not None}
        if len(dims) > 1:
            raise BadInputError(f"{shown(folder)} holds vectors of several lengths: {sorted(dims)}")
        (self.dim,) = dims
        self.about = _about(self._parts[0].metadata)

    def __len__(self) -> int:
        """Number of rows."""
        return sum(len(part.images) for part in self._parts)

    def blocks(self) -> Iterator[Block]:
        """All rows in order, at most :data:`felga.store.export.BLOCK` at a time.

        Raises:
            BadInputError: the metadata is damaged.
        """
        for part in self._parts:
            start = 0
            for rows in _rows(part.metadata):
                stop = start + len(rows)
                texts = None if part.texts is None else part.texts[start:stop]
                yield Block(shown(part.metadata.name), start, rows, part.images[start:stop], texts)
                start = stop


_NUMBER = re.compile(rf"{IMAGES}_(\d+)\.npy")


def _part(folder: Path, number: str) -> _Part:
    metadata = folder / METADATA / f"{METADATA}_{number}.parquet"
    images = _mapped(folder / IMAGES / f"{IMAGES}_{number}.npy")
    texts_path = folder / TEXTS / f"{TEXTS}_{number}.npy"
    texts = _mapped(texts_path) if texts_path.exists() else None
    if not metadata.is_file():
        raise BadInputError(f"{shown(metadata)} is missing: it says which images the vectors are of")
    count = _schema(metadata).num_rows
    for name, rows in ((IMAGES, images), (TEXTS, texts)):
        if rows is not None and len(rows) != count:
            raise BadInputError(
                f"{name}_{number}.npy has {len(rows)} rows and {shown(metadata.name)} has {count}: they do "
                "not belong together"
            )
    return _Part(images, texts, metadata)


def _mapped(path: Path) -> Raw:
    """An npy file of (n, dim) floats, mapped."""
    try:
        if not path.is_file():
            raise ValueError("no regular file")
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadInputError(
            f"{shown(path)} cannot be read ({_sentence(error)}): expected an array of floats, as numpy.save "
            "writes it"
        ) from error
    if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype.kind != "f" or not found.shape[1]:
        kind = f"{found.dtype} of shape {found.shape}" if isinstance(found, np.ndarray) else "an archive"
        raise BadInputError(f"{shown(path)} holds {kind}, expected floats of shape (rows, dim)")
    return found


def _schema(path: Path) -> Any:
    """The parquet's metadata, once its columns are known to be right."""
    try:
        metadata = pa.parquet.read_metadata(path)
        schema = metadata.schema.to_arrow_schema()
    except (pa.ArrowException, OSError) as error:
        raise BadInputError(f"{shown(path)} cannot be read ({_sentence(error)}): expected parquet") from error
    if not {PATH, URL} & set(schema.names):
        columns = ", ".join(schema.names[:8])
        raise BadInputError(f"{shown(path)} has the columns {columns}: expected {PATH} or {URL}")
    for name in (PATH, URL, CAPTION):
        if name in schema.names and not _is_text(schema.field(name).type):
            raise BadInputError(
                f"the column {name} of {shown(path)} holds {schema.field(name).type}, expected strings"
            )
    return metadata


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind))


def _rows(path: Path) -> Iterator[list[Row]]:
    try:
        with pa.parquet.ParquetFile(path) as file:
            columns = [name for name in (PATH, URL, CAPTION, WHOLE) if name in file.schema_arrow.names]
            for batch in file.iter_batches(BLOCK, columns=columns):
                yield [
                    Row(row.get(PATH), row.get(URL), row.get(CAPTION), row.get(WHOLE, True) is not False)
                    for row in batch.to_pylist()
                ]
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{shown(path)} is damaged: {_sentence(error)}") from error


def _about(path: Path) -> Mapping[str, Any] | None:
    """What ``felga export`` wrote into the parquet's metadata."""
    try:
        about = json.loads((pa.parquet.read_schema(path).metadata or {}).get(ABOUT, b"null"))
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{shown(path)} says in its metadata {ABOUT.decode()} what is no json") from error
    if about is not None and not (isinstance(about, dict) and isinstance(about.get("encoder"), dict)):
        raise BadInputError(f"{shown(path)} does not say in its metadata which encoder made the vectors")
    return about


def _sentence(error: BaseException) -> str:
    words = " ".join(str(error).split())
    return words[:200] or type(error).__name__
