"""``felga verify``: every file and every row of an index against its manifest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from felga.errors import BadIndexError, BadInputError
from felga.search.flat import FlatSearcher
from felga.store.manifest import Manifest, TableEntry
from felga.store.owner_table import OwnerTable
from felga.store.schema import flat, list_lengths
from felga.store.stored import Lease, NativeFolder, StoredIndex, damaged
from felga.types import Progress, Vectors

BATCH = 1024  # owners read at once
TOLERANCE = 1e-4  # of a vector's length, and of a FENet run again on another machine
HALF = 2.0**-11  # what half precision may change a number by, relative to it


def verify(folder: Path, progress: Progress = lambda stage, done, total: None) -> tuple[Manifest, list[str]]:
    """Check a whole index.

    Files by sha256; rows by their checksums, lengths of vectors, finite features, qualities in (0, 1], boxes
    inside their images and spans inside their texts; FAISS files row by row against the store's vectors
    (through the FENet, if the index has one).

    Args:
        progress: called with ``images`` or ``texts``, how many owners were compared, and of how many.

    Returns:
        The manifest, and one line per defect; an empty list for a sound index.

    Raises:
        NotFoundError, BadIndexError: there is no manifest to check against.
    """
    native = NativeFolder(folder)
    lease = Lease(native.path)
    if found := damaged(native.path, lease.manifest):
        return lease.manifest, list(found.values())  # Lance aborts on damaged files: their rows are not read
    try:
        index = StoredIndex(folder, native, lease, "cpu")
        _ = index.fenet
    except (BadIndexError, BadInputError) as error:
        return lease.manifest, [str(error)]
    lines: list[str] = []
    for name, table, entry, searcher in (
        ("images", index.images, index.manifest.images, index.regions),
        ("texts", index.texts, index.manifest.texts, index.keywords),
    ):
        try:
            lines += _unlisted(native.path, table, index.manifest)
            lines += _table(index, name, table, entry, searcher, progress)
        except BadIndexError as error:
            lines.append(str(error))
    return lease.manifest, lines


def _unlisted(folder: Path, table: OwnerTable, manifest: Manifest) -> Iterator[str]:
    for path in table.files():
        name = path.relative_to(folder).as_posix()
        if name not in manifest.files:
            yield f"{name} is part of the index and not in the manifest"


def _table(
    index: StoredIndex,
    name: str,
    table: OwnerTable,
    entry: TableEntry,
    searcher: FlatSearcher,
    progress: Progress,
) -> Iterator[str]:
    offsets = table.offsets()
    for what, actual, expected in (
        ("owners", len(table), entry.owners),
        ("fragments", int(offsets[-1]), entry.fragments),
    ):
        if actual != expected:
            yield f"{name}.lance holds {actual} {what}, the manifest says {expected}"
    if table.digest() != entry.digest:
        yield f"{name}.lance holds other rows than the manifest's digest says"
    if rows := table.damaged_rows():
        yield f"{name}.lance holds {len(rows)} rows that do not match their checksum"
    if len(searcher) != int(offsets[-1]):
        return
    embedding, start = index.embedding, 0
    for at in range(0, len(table), BATCH):
        raw, features = table.raw(at, min(at + BATCH, len(table)))
        if not _unit(raw):
            yield f"{name}.lance holds vectors that are not of length 1, near fragment {start}"
        elif features is not None and not np.isfinite(features).all():
            yield f"{name}.lance holds features that are not finite, near fragment {start}"
        else:
            embedded = embedding.regions(raw, features) if name == "images" else embedding.keywords(raw)
            if not _close(searcher.vectors(start, start + len(raw)), embedded):
                yield f"the FAISS files hold other vectors than {name}.lance, near fragment {start}"
        start += len(raw)
        progress(name, min(at + BATCH, len(table)), len(table))
    if name == "images":
        quality = table.quality()
        if wrong := int(((quality <= 0) | (quality > 1)).sum()):  # NaN: not predicted
            yield f"images.lance holds {wrong} qualities outside of (0, 1]"
    yield from _out_of_bounds(table, name)


def _unit(vectors: Vectors) -> bool:
    lengths = np.linalg.norm(vectors, axis=1)
    return bool((np.abs(lengths - 1) <= TOLERANCE + HALF).all())  # written so that NaN fails


def _close(a: Vectors, b: Vectors) -> bool:
    return a.shape == b.shape and bool((np.abs(a - b) <= TOLERANCE + HALF * np.abs(b)).all())


def _out_of_bounds(table: OwnerTable, name: str) -> Iterator[str]:
    """Boxes outside their image, spans outside their text."""
    if name == "images":
        for batch in table.batches(["width", "height", "boxes"]):
            counts = list_lengths(batch.column("boxes"))
            sides = [np.repeat(np.asarray(batch.column(side)), counts) for side in ("width", "height")]
            boxes = flat(batch.column("boxes"))
            inside = (boxes >= -1e-3) & (boxes <= np.stack(sides * 2, 1) + 1e-2)
            valid = inside.all(1) & (boxes[:, :2] <= boxes[:, 2:]).all(1)
            if not valid.all():
                yield f"images.lance holds {int((~valid).sum())} boxes outside their image"
    else:
        for batch in table.batches(["text", "starts", "ends"]):
            for row in batch.to_pylist():
                for start, end in zip(row["starts"], row["ends"], strict=True):
                    if not 0 <= start <= end <= len(row["text"]):
                        yield f"texts.lance holds the span {start}:{end} outside its text"
