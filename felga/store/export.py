"""The vectors of an index in the layout of clip-retrieval: npy files, and in parquet what each row is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from felga.files import located, shown, storage_errors, to_json
from felga.store.schema import list_lengths
from felga.store.stored import StoredIndex
from felga.types import Progress, Vectors

BLOCK = 1024  # images at once
ABOUT = b"felga"
"""In the parquet's metadata, json: ``encoder``, its identity, and ``fenet``, the sha256 of the one that the
vectors went through, or null."""
SCHEMA = pa.schema(
    [
        ("image_path", pa.string()),
        ("caption", pa.string()),
        ("box", pa.list_(pa.float32(), 4)),
        ("quality", pa.float32()),
        ("whole", pa.bool_()),
    ]
)


class Exported(NamedTuple):
    """What was written: rows, and whether captions have vectors beside them."""

    rows: int
    texts: bool


class _Caption(NamedTuple):
    """The first text of an image, and the row of its vector as a whole among the keywords, if it has one."""

    text: str
    row: int | None


def export_clip_retrieval(
    index: StoredIndex,
    folder: Path,
    root: str | Path,
    progress: Progress = lambda stage, done, total: None,
) -> Exported:
    """Write ``img_emb/img_emb_0.npy`` and ``metadata/metadata_0.parquet`` below ``folder``: a row per region.

    Vectors are those that are searched, (n, dim) float32 of length 1. A path that is not UTF-8 is escaped. If
    every image has a caption with a vector as a whole, ``text_emb/text_emb_0.npy`` has in each row that of
    the row's image: all files have the same rows. Memory holds the captions and some blocks.

    Args:
        progress: called with ``regions``, how many were written, and of how many.

    Raises:
        StorageError: the folder cannot be written.
    """
    captions = _captions(index)
    ids = index.images.batches(["image_id", "boxes"])
    texts = all(
        count == 0 or ((found := captions.get(image_id)) is not None and found.row is not None)
        for batch in ids
        for image_id, count in zip(
            batch.column("image_id").to_pylist(), list_lengths(batch.column("boxes")).tolist(), strict=True
        )
    )
    texts = texts and bool(captions)
    shape, at = (len(index.regions), index.manifest.dim), 0
    with storage_errors(folder), ExitStack() as opened:
        images = opened.enter_context(_npy(folder, "img_emb", shape))
        words = opened.enter_context(_npy(folder, "text_emb", shape)) if texts else None
        (folder / "metadata").mkdir(parents=True, exist_ok=True)
        metadata = opened.enter_context(
            pa.parquet.ParquetWriter(
                folder / "metadata" / "metadata_0.parquet", SCHEMA.with_metadata({ABOUT: _about(index)})
            )
        )
        for batch in _rows(index, captions, root):
            stop = at + len(batch.table)
            images.write(_bytes(index.regions.vectors(at, stop)))
            if words is not None:
                words.write(_bytes(_gathered(index, batch.captions)))
            metadata.write_table(batch.table)
            at = stop
            progress("regions", at, shape[0])
    return Exported(shape[0], texts)


class _Batch(NamedTuple):
    """Rows of the metadata, and the row of the caption's vector for each."""

    table: pa.Table
    captions: list[int | None]


def _rows(index: StoredIndex, captions: dict[str, _Caption], root: str | Path) -> Iterator[_Batch]:
    for batch in index.images.batches(["image_id", "path", "boxes", "quality", "whole"], BLOCK):
        owner = np.repeat(np.arange(batch.num_rows), list_lengths(batch.column("boxes"))).tolist()
        ids = batch.column("image_id").to_pylist()
        paths = [shown(located(root, path)) for path in batch.column("path").to_pylist()]
        own = [captions.get(ids[at]) for at in owner]
        columns: list[Any] = [
            pa.array([paths[at] for at in owner], pa.string()),
            pa.array([None if caption is None else caption.text for caption in own], pa.string()),
            batch.column("boxes").flatten(),
            batch.column("quality").flatten(),
            batch.column("whole").flatten(),
        ]
        yield _Batch(
            pa.table(columns, schema=SCHEMA), [None if caption is None else caption.row for caption in own]
        )


def _about(index: StoredIndex) -> bytes:
    """What a reader must know of the vectors."""
    manifest = index.manifest
    about = {"encoder": manifest.contract.encoder, "fenet": manifest.fenet and manifest.fenet.sha256}
    return to_json(about).encode()


def _captions(index: StoredIndex) -> dict[str, _Caption]:
    """The first text of each image."""
    found: dict[str, _Caption] = {}
    start = 0
    for batch in index.texts.batches(["image_id", "text", "whole"]):
        columns = (batch.column(name).to_pylist() for name in ("image_id", "text", "whole"))
        for image_id, text, whole in zip(*columns, strict=True):
            if image_id is not None and image_id not in found:
                found[image_id] = _Caption(text, start + whole.index(True) if True in whole else None)
            start += len(whole)
    return found


def _gathered(index: StoredIndex, rows: list[int | None]) -> Vectors:
    """Vectors of keywords by row, each read once."""
    wanted = [row for row in rows if row is not None]
    order, back = np.unique(np.array(wanted, np.int64), return_inverse=True)
    each = [index.keywords.vectors(row, row + 1) for row in order.tolist()]
    return np.concatenate([np.empty((0, index.manifest.dim), np.float32), *each])[back]


def _npy(folder: Path, name: str, shape: tuple[int, int]) -> BinaryIO:
    """An npy file of float32 that lacks its rows. Not mapped: a full disk would kill the process."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    file = (folder / name / f"{name}_0.npy").open("wb")
    about = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, about)
    return file


def _bytes(rows: Vectors) -> bytes:
    return np.ascontiguousarray(rows, "<f4").tobytes()
