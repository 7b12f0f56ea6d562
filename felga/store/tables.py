"""The fragment store: what is known of every image and text, its fragments and their raw vectors.

Two Lance tables, ``images.lance`` and ``texts.lance``, a row an owner, fragments as Arrow lists: an
owner's fragments lie side by side, and the list's offsets are the owner offsets.
Lance commits by a new version; readers open the versions that the manifest names and see nothing of a
write that goes on. Vectors are the encoder's, before any FENet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa

from felga.errors import BadIndexError
from felga.types import Keyword, Region, Rows, Vectors

MERGE_BEYOND = 16  # pieces of a table; every commit adds one
KEEP_OLD = timedelta(hours=1)  # a reader that has an old version open may still read rows of it


def image_schema(dim: int) -> pa.Schema:
    """Columns of ``images.lance``."""
    return pa.schema(
        [
            ("image_id", pa.string()),
            ("path", pa.binary()),  # relative to the corpus; bytes, since a name need not be UTF-8
            ("size", pa.int64()),
            ("mtime_ns", pa.int64()),
            ("sha256", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("error", pa.string()),  # why it was quarantined; then it has no fragments
            ("boxes", pa.list_(pa.list_(pa.float32(), 4))),
            ("scores", pa.list_(pa.float32())),
            ("whole", pa.list_(pa.bool_())),
            ("labels", pa.list_(pa.string())),
            ("vectors", pa.list_(pa.list_(pa.float32(), dim))),
        ]
    )


def text_schema(dim: int) -> pa.Schema:
    """Columns of ``texts.lance``."""
    return pa.schema(
        [
            ("text_id", pa.string()),
            ("image_id", pa.string()),
            ("text", pa.string()),
            ("keywords", pa.list_(pa.string())),
            ("scores", pa.list_(pa.float32())),
            ("starts", pa.list_(pa.int32())),
            ("ends", pa.list_(pa.int32())),
            ("vectors", pa.list_(pa.list_(pa.float32(), dim))),
        ]
    )


@dataclass(frozen=True, slots=True)
class ImageRow:
    """An image as it goes into the store; a quarantined one has ``error`` and no regions."""

    image_id: str
    path: bytes
    size: int
    mtime_ns: int
    sha256: str
    width: int = 0
    height: int = 0
    error: str | None = None
    regions: Sequence[Region] = ()
    vectors: Vectors | None = None


@dataclass(frozen=True, slots=True)
class TextRow:
    """A text as it goes into the store."""

    text_id: str
    image_id: str | None
    text: str
    keywords: Sequence[Keyword]
    vectors: Vectors


def image_table(rows: Sequence[ImageRow], dim: int) -> pa.Table:
    """The Arrow table of images."""
    offsets = _offsets([len(row.regions) for row in rows])
    regions = [region for row in rows for region in row.regions]
    boxes = np.array([region.box for region in regions], np.float32)
    return pa.table(
        [
            pa.array([row.image_id for row in rows], pa.string()),
            pa.array([row.path for row in rows], pa.binary()),
            pa.array([row.size for row in rows], pa.int64()),
            pa.array([row.mtime_ns for row in rows], pa.int64()),
            pa.array([row.sha256 for row in rows], pa.string()),
            pa.array([row.width for row in rows], pa.int32()),
            pa.array([row.height for row in rows], pa.int32()),
            pa.array([row.error for row in rows], pa.string()),
            pa.ListArray.from_arrays(offsets, _fixed(boxes, 4)),
            pa.ListArray.from_arrays(offsets, pa.array([r.score for r in regions], pa.float32())),
            pa.ListArray.from_arrays(offsets, pa.array([r.whole for r in regions], pa.bool_())),
            pa.ListArray.from_arrays(offsets, pa.array([r.label for r in regions], pa.string())),
            pa.ListArray.from_arrays(offsets, _fixed(_stack([row.vectors for row in rows], dim), dim)),
        ],
        schema=image_schema(dim),
    )


def text_table(rows: Sequence[TextRow], dim: int) -> pa.Table:
    """The Arrow table of texts."""
    offsets = _offsets([len(row.keywords) for row in rows])
    keywords = [keyword for row in rows for keyword in row.keywords]
    return pa.table(
        [
            pa.array([row.text_id for row in rows], pa.string()),
            pa.array([row.image_id for row in rows], pa.string()),
            pa.array([row.text for row in rows], pa.string()),
            pa.ListArray.from_arrays(offsets, pa.array([k.text for k in keywords], pa.string())),
            pa.ListArray.from_arrays(offsets, pa.array([k.score for k in keywords], pa.float32())),
            pa.ListArray.from_arrays(offsets, pa.array([k.span[0] for k in keywords], pa.int32())),
            pa.ListArray.from_arrays(offsets, pa.array([k.span[1] for k in keywords], pa.int32())),
            pa.ListArray.from_arrays(offsets, _fixed(_stack([row.vectors for row in rows], dim), dim)),
        ],
        schema=text_schema(dim),
    )


class Owners:
    """One table of the store at one version: a row an owner, in the order of insertion."""

    def __init__(self, path: Path, version: int | None = None) -> None:
        """Open the table at ``version``, or at its newest.

        Raises:
            BadIndexError: the table or that version of it is not there, or not readable.
        """
        self.path = path
        try:
            self._table: Any = lance.dataset(str(path), version=version)
        except (ValueError, OSError) as error:
            raise BadIndexError(
                f"{path} cannot be read at version {version}: it is damaged or incomplete"
            ) from error

    @classmethod
    def create(cls, path: Path, schema: pa.Schema) -> Owners:
        """The table at its newest version; a new empty one where there is none."""
        try:
            lance.dataset(str(path))
        except ValueError:  # nothing was ever committed here
            lance.write_dataset(schema.empty_table(), str(path), schema=schema)
        return cls(path)

    @property
    def version(self) -> int:
        """The version that is open."""
        return int(self._table.version)

    def __len__(self) -> int:
        return int(self._table.count_rows())

    def read(self, columns: Sequence[str], *, row_ids: bool = False) -> pa.Table:
        """Whole columns; with ``row_ids`` also ``_rowid``, which :meth:`delete` takes."""
        return self._guard(lambda: self._table.to_table(columns=list(columns), with_row_id=row_ids))

    def take(self, rows: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        """Some owners, by position."""
        if not len(rows):
            return []
        found: list[dict[str, Any]] = self._guard(
            lambda: self._table.take([int(row) for row in rows], columns=list(columns)).to_pylist()
        )
        return found

    def rows(self, positions: Sequence[int]) -> pa.Table:
        """Whole owners, fragments and vectors too, by position."""
        return self._guard(lambda: self._table.take([int(row) for row in positions]))

    def batches(self, columns: Sequence[str], size: int = 1024) -> Iterator[pa.RecordBatch]:
        """All owners in order, ``size`` at a time."""
        scanner = self._guard(
            lambda: self._table.scanner(columns=list(columns), batch_size=size, scan_in_order=True)
        )
        batches = iter(scanner.to_batches())
        while (batch := self._guard(lambda: next(batches, None))) is not None:
            yield batch

    def vectors(self, size: int = 1024) -> Iterator[Vectors]:
        """The fragments' raw vectors in order, (n, dim) a batch of owners."""
        for batch in self.batches(["vectors"], size):
            yield flat(batch.column("vectors"))

    def offsets(self) -> Rows:
        """(owners + 1,) int64: owner ``i`` has the fragments ``offsets[i]:offsets[i + 1]``."""
        counts = [
            np.asarray(pa.compute.fill_null(pa.compute.list_value_length(batch.column("scores")), 0))
            for batch in self.batches(["scores"], 8192)
        ]
        return np.concatenate([[0], *counts]).cumsum().astype(np.int64)

    def append(self, table: pa.Table) -> None:
        """Add owners: all of them or, if the process dies, none."""
        self._table = lance.write_dataset(table, str(self.path), mode="append", schema=table.schema)

    def delete(self, row_ids: Sequence[int]) -> None:
        """Take owners out, by ``_rowid``."""
        for start in range(0, len(row_ids), 10_000):
            listed = ",".join(str(int(row)) for row in row_ids[start : start + 10_000])
            self._table.delete(f"_rowid IN ({listed})")

    def merge(self) -> None:
        """Join the pieces that many commits left behind; the order stays."""
        if len(self._table.get_fragments()) > MERGE_BEYOND:
            self._table.optimize.compact_files()

    def forget(self, older_than: timedelta) -> None:
        """Remove files that no version younger than ``older_than`` needs."""
        self._table.cleanup_old_versions(older_than=older_than, delete_unverified=True)

    def files(self) -> list[Path]:
        """Every file that the open version consists of."""
        found = [Path(self.path, "_versions", name) for name in _version_files(self.version)]
        named = [path for path in found if path.is_file()]
        for piece in self._table.get_fragments():
            named += [Path(self.path, "data", file.path) for file in piece.data_files()]
            if (deleted := piece.deletion_file()) is not None:
                named.append(Path(self.path, deleted))
        return named

    def digest(self) -> str:
        """sha256 over every value of every row in order: two stores that hold the same have the same."""
        names = [field.name for field in self._table.schema if field.name != "mtime_ns"]
        lengths = {name: hashlib.sha256() for name in names}
        values = {name: hashlib.sha256() for name in names}
        for batch in self.batches(names):
            for name in names:
                _hash_column(lengths[name], values[name], batch.column(name))
        parts = [part for name in names for part in (lengths[name].digest(), values[name].digest())]
        return hashlib.sha256(b"".join(parts)).hexdigest()

    def _guard(self, read: Any) -> Any:
        try:
            return read()
        except (OSError, ValueError, pa.ArrowException, RuntimeError) as error:
            raise BadIndexError(
                f"{self.path} cannot be read at version {self.version}: it is damaged, or it was rewritten "
                "since it was opened (then open it again)"
            ) from error


def flat(column: pa.Array) -> Vectors:
    """(n, dim) float32 of a list column of vectors or boxes."""
    values = column.flatten()  # minds the slice that a batch is
    dim = values.type.list_size
    return np.asarray(values.flatten(), np.float32).reshape(-1, dim)


def _version_files(version: int) -> tuple[str, str]:
    """Both ways that Lance names the file of a version: counting down from 2^64 - 1, or up."""
    return f"{2**64 - 1 - version}.manifest", f"{version}.manifest"


def _hash_column(lengths: Any, values: Any, column: pa.Array) -> None:
    """Feed a column to two hashes, so that it does not matter how the rows are cut into batches."""
    if pa.types.is_list(column.type):
        counts = pa.compute.fill_null(pa.compute.list_value_length(column), 0)
        lengths.update(np.asarray(counts, np.int64).tobytes())
        column = column.flatten()
        if pa.types.is_fixed_size_list(column.type):
            column = column.flatten()
    if pa.types.is_string(column.type) or pa.types.is_binary(column.type):
        for value in column.to_pylist():
            data = value.encode() if isinstance(value, str) else value
            values.update(b"-" if data is None else len(data).to_bytes(8, "little") + data)
    else:
        values.update(np.ascontiguousarray(column.to_numpy(zero_copy_only=False)).tobytes())


def _offsets(counts: Sequence[int]) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))


def _fixed(values: Any, dim: int) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.asarray(values, np.float32).reshape(-1)), dim)


def _stack(parts: Sequence[Vectors | None], dim: int) -> Vectors:
    filled = [part for part in parts if part is not None and len(part)]
    return np.concatenate(filled) if filled else np.empty((0, dim), np.float32)
