"""Which images of an index are copies of one another: by their content, and by how they look as a whole."""

from __future__ import annotations

import tempfile
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from felga.files import located
from felga.search.duplicates import NEAR, Groups, join_near
from felga.store.owner_table import OwnerTable
from felga.store.schema import FEATURES, feature_rows, list_lengths, vector_rows
from felga.types import Progress, Rows, Vectors

ONLY_EQUAL = 2.0
"""A threshold that no cosine reaches."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One image of a group of copies.

    Attributes:
        width, height: in pixels.
        size: of the file, in bytes.
        exact: its bytes are those of the best copy.
        similarity: cosine with the best copy; None where an image has no vector as a whole.
    """

    image_id: str
    path: str
    width: int
    height: int
    size: int
    exact: bool
    similarity: float | None


def near(table: OwnerTable, threshold: float | None = None) -> float:
    """The threshold to compare with; without one, that of the features, if the index has them."""
    if threshold is not None:
        return threshold
    return NEAR if "features" in table.schema.names else ONLY_EQUAL


def looks(table: OwnerTable, positions: Sequence[int]) -> tuple[Sequence[Hashable], Vectors]:
    """What equal files share, and the vectors of images as a whole, (n, dim); 0 where there is none."""
    order, back = np.unique(np.asarray(positions, np.int64), return_inverse=True)
    batch = table.take_batch(order.tolist(), ["sha256", "whole", *_columns(table)])
    rows, vectors = _wholes(batch)
    out = np.zeros((len(order), vectors.shape[1]), np.float32)
    out[rows] = _unit(vectors)
    names = batch.column("sha256").to_pylist()
    # an empty sha256 is of no file that was read, and equals no other
    return [names[at] or ("not read", int(order[at])) for at in back], out[back]


def copies(
    table: OwnerTable, root: str | Path, threshold: float | None = None, progress: Progress | None = None
) -> list[list[Copy]]:
    """Groups of images that are copies of one another, by the order of the index; the best copy first.

    Two images are copies if their files are equal, or the cosine of their features as a whole (without
    features: of their vectors) is at least ``threshold``; and so is a copy of a copy. The best one has the
    most pixels, then the largest file. Quarantined images have no copies. Beside the hashes of all images and
    the groups, memory holds a few blocks; vectors are laid out in a temporary file.

    Args:
        root: the folder of the images.
        threshold: None: :data:`felga.search.duplicates.NEAR` if there are features, else only equal files.
    """
    threshold = near(table, threshold)
    groups = Groups(len(table))
    _join_equal(table, groups)
    with tempfile.TemporaryFile() as file:
        rows, dim, dtype = _lay_out(table, file)
        vectors: npt.NDArray[Any] = np.empty((0, dim), dtype)
        if len(rows):
            vectors = np.memmap(file, dtype, "r", shape=(len(rows), dim))
        if threshold <= 1:
            join_near(groups, lambda start, stop: _unit(vectors[start:stop]), rows, threshold, progress)
        found = groups.several()
        about = _about(table, list(chain.from_iterable(group.tolist() for group in found)))
        return [_group([about[row] for row in group.tolist()], root, vectors, rows) for group in found]


def _group(
    rows: list[dict[str, Any]], root: str | Path, vectors: npt.NDArray[Any], owners: Rows
) -> list[Copy]:
    rows.sort(key=lambda row: (-row["width"] * row["height"], -row["size"], row["position"]))
    best = rows[0]

    def similarity(row: dict[str, Any]) -> float | None:
        wanted = np.array([row["position"], best["position"]])
        at = np.searchsorted(owners, wanted)
        if (at >= len(owners)).any() or (owners[at] != wanted).any():
            return None
        pair = _unit(vectors[at])
        return min(1.0, float(pair[0] @ pair[1]))

    return [
        Copy(
            row["image_id"],
            located(root, row["path"]),
            row["width"],
            row["height"],
            row["size"],
            row is best or row["sha256"] == best["sha256"] != "",
            similarity(row),
        )
        for row in rows
    ]


def _about(table: OwnerTable, positions: Sequence[int]) -> dict[int, dict[str, Any]]:
    columns = ["image_id", "path", "width", "height", "size", "sha256"]
    found = zip(positions, table.take(positions, columns), strict=True)
    return {position: {"position": position, **row} for position, row in found}


def _join_equal(table: OwnerTable, groups: Groups) -> None:
    """Join images whose files are equal."""
    first: dict[str, int] = {}
    position = 0
    for batch in table.batches(["sha256", "error"], 8192):
        columns = batch.column("sha256").to_pylist(), batch.column("error").to_pylist()
        for sha256, error in zip(*columns, strict=True):
            if error is None and sha256 and (other := first.setdefault(sha256, position)) != position:
                groups.join(np.array([other, position]))
            position += 1


def _lay_out(table: OwnerTable, file: Any) -> tuple[Rows, int, npt.DTypeLike]:
    """Write the rows of whole images to a file; the images that they are of, their length and dtype."""
    rows, start = [np.empty(0, np.int64)], 0
    dim, dtype = 1, np.dtype(np.float32)
    for batch in table.batches(["whole", *_columns(table)], 256):
        own, vectors = _wholes(batch)
        rows.append(own + start)
        file.write(np.ascontiguousarray(vectors).tobytes())
        start += batch.num_rows
        dim, dtype = vectors.shape[1], vectors.dtype
    file.flush()
    return np.concatenate(rows), dim, dtype


def _wholes(batch: pa.RecordBatch) -> tuple[Rows, npt.NDArray[Any]]:
    """Which images of a batch have a whole, and the row (n, dim) of it."""
    flags = np.asarray(batch.column("whole").flatten(), bool)
    owners = np.repeat(np.arange(batch.num_rows), list_lengths(batch.column("whole")))
    vectors = vector_rows(batch) if "vectors" in batch.schema.names else feature_rows(batch)
    return owners[flags], vectors[flags]


def _columns(table: OwnerTable) -> Sequence[str]:
    """Features tell images apart that show the same things; vectors do not."""
    return FEATURES if "features" in table.schema.names else ["vectors"]


def _unit(rows: npt.NDArray[Any]) -> Vectors:
    wide = np.asarray(rows, np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    unit: Vectors = wide / np.maximum(lengths, np.float32(1e-12))[:, None]
    return unit
