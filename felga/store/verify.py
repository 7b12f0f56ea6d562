"""``felga verify``: every file and every row of an index against its manifest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from felga.errors import BadIndexError, BadInputError
from felga.search.flat import FragmentIndex
from felga.store.manifest import Manifest, TableEntry, damaged, read_manifest
from felga.store.tables import Owners, flat
from felga.types import Transform

TOLERANCE = 1e-4  # of a vector's length, and of a FENet run again on another machine


def verify(folder: Path) -> tuple[Manifest, list[str]]:
    """Check an index whole.

    Files by sha256; tables by their digest, counts, lengths of vectors, boxes inside their images and
    spans inside their texts; FAISS files row by row against the store's vectors (through the FENet, if
    the index has one).

    Returns:
        The manifest, and what is wrong, a line each; an empty list for a sound index.

    Raises:
        NotFoundError, BadIndexError: there is no manifest to check against.
    """
    manifest = read_manifest(folder)
    if found := damaged(folder, manifest):
        return manifest, found  # Lance's reader aborts on damaged files: their rows are not read
    transform: Transform = lambda vectors: vectors  # noqa: E731
    if manifest.fenet is not None:
        from felga.fenet.checkpoint import load_fenet

        try:
            encoder = manifest.contract["encoder"]
            checkpoint = folder / manifest.fenet["file"]
            transform = load_fenet(checkpoint, encoder=encoder["name"], identity=encoder).apply
        except (BadIndexError, BadInputError) as error:
            return manifest, [*found, str(error)]
    for name, entry in (("images", manifest.images), ("texts", manifest.texts)):
        try:
            found += _table(folder, name, entry, manifest.dim, transform)
        except BadIndexError as error:
            found.append(str(error))
    return manifest, found


def _table(folder: Path, name: str, entry: TableEntry, dim: int, transform: Transform) -> Iterator[str]:
    table = Owners(folder / f"{name}.lance", entry.version)
    offsets = table.offsets()
    for what, got, wanted in (
        ("owners", len(table), entry.owners),
        ("fragments", int(offsets[-1]), entry.fragments),
        ("fragments of one owner", int(np.diff(offsets).max(initial=0)), entry.most),
    ):
        if got != wanted:
            yield f"{name}.lance holds {got} {what}, the manifest says {wanted}"
    if table.digest() != entry.digest:
        yield f"{name}.lance holds other rows than the manifest's digest says"
    index = FragmentIndex([folder / one for one in entry.indexes], dim, entry.fragments)
    start = 0
    for raw in table.vectors():
        if not np.isfinite(raw).all() or (abs(np.linalg.norm(raw, axis=1) - 1) > TOLERANCE).any():
            yield f"{name}.lance holds vectors that are not of length 1, near fragment {start}"
        if len(raw) and abs(index.vectors(start, start + len(raw)) - transform(raw)).max() > TOLERANCE:
            yield f"{entry.indexes[0]} holds other vectors than {name}.lance, near fragment {start}"
        start += len(raw)
    yield from _rooms(table, name)


def _rooms(table: Owners, name: str) -> Iterator[str]:
    """Boxes outside their image, spans outside their text."""
    if name == "images":
        for batch in table.batches(["width", "height", "boxes"]):
            counts = np.asarray(batch.column("boxes").value_lengths().fill_null(0))
            sides = [np.repeat(np.asarray(batch.column(one)), counts) for one in ("width", "height")]
            boxes = flat(batch.column("boxes"))
            inside = (boxes >= -1e-3) & (boxes <= np.stack(sides * 2, 1) + 1e-2)
            if not inside.all():
                yield f"images.lance holds {int((~inside.all(1)).sum())} boxes that leave their image"
    else:
        for batch in table.batches(["text", "starts", "ends"]):
            for row in batch.to_pylist():
                for start, end in zip(row["starts"], row["ends"], strict=True):
                    if not 0 <= start <= end <= len(row["text"]):
                        yield f"texts.lance holds the span {start}:{end} outside its text"
