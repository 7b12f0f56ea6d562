"""One table of the store: Lance, one row per owner, read at the version that a manifest names.

Lance commits by adding a version; readers open a version and never see a write in progress.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute  # pa.compute

from felga.errors import BadIndexError
from felga.files import storage_reason
from felga.store.schema import (
    CHECK,
    CHECK_BYTES,
    FEATURES,
    checked,
    feature_rows,
    list_lengths,
    row_checks,
    vector_rows,
)
from felga.types import Flags, RegionFeatures, Rows, Scores, Vectors

MERGE_BEYOND = 16  # Lance fragments; every commit adds one
T = TypeVar("T")


class OwnerTable:
    """One table at one version: one row per owner, in the order of insertion."""

    def __init__(self, path: Path, version: int | None = None) -> None:
        """Open the table at ``version``, or at its newest.

        Raises:
            BadIndexError: the table, or that version of it, is missing or unreadable.
        """
        self.path = path
        self._table: Any = self._read(lambda: lance.dataset(str(path), version=version))

    @classmethod
    def create(cls, path: Path, schema: pa.Schema) -> OwnerTable:
        """The table at its newest version; a new, empty one if there is none.

        Raises:
            BadIndexError: there is one, and it is damaged.
        """
        if not path.exists() or not any((path / "_versions").glob("*.manifest")):  # nothing was committed
            lance.write_dataset(schema.empty_table(), str(path), schema=schema, mode="create")
        return cls(path)

    @property
    def version(self) -> int:
        """The version that is open."""
        return int(self._table.version)

    @property
    def schema(self) -> pa.Schema:
        """Of the table."""
        return self._table.schema

    def __len__(self) -> int:
        return int(self._read(self._table.count_rows))

    def read(self, columns: Sequence[str], *, row_ids: bool = False) -> pa.Table:
        """Whole columns; with ``row_ids`` also ``_rowid``, which :meth:`delete` takes."""
        return self._read(lambda: self._table.to_table(columns=self._columns(columns), with_row_id=row_ids))

    def take(self, rows: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        """Some owners, by position."""
        return self.take_batch(rows, columns).to_pylist() if len(rows) else []

    def take_batch(self, rows: Sequence[int], columns: Sequence[str]) -> pa.RecordBatch:
        """:meth:`take` as Arrow arrays, for vectors."""
        names = self._columns(columns)
        if not len(rows):
            return pa.RecordBatch.from_pylist([], pa.schema([self.schema.field(name) for name in names]))
        found = self._read(lambda: self._table.take([int(row) for row in rows], columns=names))
        return found.combine_chunks().to_batches()[0]

    def batches(self, columns: Sequence[str], size: int = 1024) -> Iterator[pa.RecordBatch]:
        """All owners in order, ``size`` at a time."""
        scanner = self._read(
            lambda: self._table.scanner(columns=self._columns(columns), batch_size=size, scan_in_order=True)
        )
        yield from self._one_by_one(scanner.to_batches())

    def raw(self, start: int, stop: int) -> tuple[Vectors, RegionFeatures | None]:
        """Raw vectors (n, dim) of the owners ``start:stop``, and the features (n, f) beside them, if any."""
        columns = [name for name in ("vectors", *FEATURES) if name in self._table.schema.names]
        table = self._read(lambda: self._table.to_table(columns=columns, offset=start, limit=stop - start))
        return vector_rows(table), feature_rows(table) if len(columns) > 1 else None

    def quality(self) -> Scores:
        """Predicted IoU of all regions in order, (n,) float32; NaN where it was not predicted."""
        found = [
            batch.column("quality").flatten().to_numpy(zero_copy_only=False)
            for batch in self.batches(["quality"], 8192)
        ]
        return np.concatenate([np.empty(0, np.float32), *found])

    def whole(self) -> Flags:
        """(n,) bool: which regions are the whole image, or keywords the whole text, in order."""
        found = [np.asarray(batch.column("whole").flatten()) for batch in self.batches(["whole"], 8192)]
        return np.concatenate([np.empty(0, bool), *found]).astype(bool)

    def offsets(self) -> Rows:
        """(owners + 1,) int64: owner ``i`` has the fragments ``offsets[i]:offsets[i + 1]``."""
        offsets, at = np.zeros(len(self) + 1, np.int64), 1
        for batch in self.batches(["scores"], 8192):
            offsets[at : at + batch.num_rows] = list_lengths(batch.column("scores"))
            at += batch.num_rows
        return np.cumsum(offsets, out=offsets)

    def checks(self) -> npt.NDArray[np.uint8]:
        """(owners, 16): the stored checksum of every row, in order."""
        checks, at = np.empty((len(self), CHECK_BYTES), np.uint8), 0
        for part in self._check_bytes():
            found = np.frombuffer(part, np.uint8).reshape(-1, CHECK_BYTES)
            checks[at : at + len(found)] = found
            at += len(found)
        return checks

    def _check_bytes(self) -> Iterator[bytes]:
        for batch in self.batches([CHECK], 8192):
            yield b"".join(batch.column(CHECK).to_pylist())

    def digest(self) -> str:
        """sha256 over the checksums of all rows in order: equal for tables that hold the same."""
        digest = hashlib.sha256()
        for part in self._check_bytes():
            digest.update(part)
        return digest.hexdigest()

    def damaged_rows(self, trusted: Collection[str] = ()) -> list[int]:
        """Row ids whose values do not match their checksum.

        Args:
            trusted: names of data files that are known to be intact; their rows are not read.
        """
        damaged: list[int] = []
        for piece in self._read(self._table.get_fragments):
            if not all(file.path in trusted for file in piece.data_files()):
                for batch in self._one_by_one(self._read(partial(_batches_of, piece))):
                    stored = batch.column(CHECK).to_pylist()
                    ids = batch.column("_rowid").to_pylist()
                    actual = row_checks(batch.drop_columns(["_rowid"]))
                    damaged += [i for i, a, b in zip(ids, stored, actual, strict=True) if a != b]
        return damaged

    def append(self, table: pa.Table) -> None:
        """Add owners: all of them or, if the process dies, none."""
        self._table = lance.write_dataset(table, str(self.path), mode="append", schema=table.schema)

    def delete(self, row_ids: Sequence[int]) -> None:
        """Remove owners by ``_rowid``."""
        for start in range(0, len(row_ids), 10_000):
            listed = ",".join(str(int(row)) for row in row_ids[start : start + 10_000])
            self._table.delete(f"_rowid IN ({listed})")

    def rewrite(
        self, positions: Sequence[int], row_ids: Sequence[int], values: dict[str, Sequence[Any]]
    ) -> None:
        """Replace some columns of some owners; their fragments and vectors are kept, not encoded again.

        Args:
            positions, row_ids: of the owners.
            values: column -> one value per owner.

        Raises:
            BadIndexError: a row does not match its checksum.
        """
        if not len(positions):
            return
        rows = self._read(lambda: self._table.take([int(position) for position in positions]))
        batch = rows.combine_chunks().to_batches()[0]
        if batch.column(CHECK).to_pylist() != row_checks(batch):
            raise self._damaged("a row does not match its checksum")
        schema = rows.schema
        columns = {name: batch.column(name) for name in schema.names if name != CHECK}
        for name, new in values.items():
            columns[name] = pa.array(list(new), schema.field(name).type)
        self.append(checked(list(columns.values()), schema))
        self.delete(row_ids)

    def restore(self) -> None:
        """Make the version that is open the newest one again."""
        self._read(self._table.restore)

    def compact(self) -> None:
        """Merge the fragments that many commits left behind; the order stays."""
        if len(self._table.get_fragments()) > MERGE_BEYOND:
            self._table.optimize.compact_files(compaction_mode="try_binary_copy")  # in constant memory

    def forget_all_but(self, versions: Collection[int]) -> None:
        """Remove every other version than these and the newest, with the files that only they need."""
        newest = lance.dataset(str(self.path))
        old = [v["version"] for v in newest.versions() if v["version"] not in {*versions, newest.version}]
        if old:
            newest.cleanup_old_versions(versions=old, delete_unverified=True)

    def files(self) -> list[Path]:
        """Every file that the open version consists of."""
        named = [Path(self.path, "_versions", name) for name in _version_files(self.version)]
        named = [path for path in named if path.is_file()]
        for piece in self._table.get_fragments():
            named += [Path(self.path, "data", file.path) for file in piece.data_files()]
            if (deleted := piece.deletion_file()) is not None:
                named.append(Path(self.path, deleted))
        return named

    def _one_by_one(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        remaining = iter(batches)
        while (batch := self._read(lambda: next(remaining, None))) is not None:
            yield batch

    def _columns(self, names: Sequence[str]) -> list[str]:
        unknown = set(names) - set(self._table.schema.names)
        if unknown:  # a bug of ours, or another format: never to be taken for damage
            raise KeyError(f"{self.path} has no columns {sorted(unknown)}")
        return list(names)

    def _read(self, read: Callable[[], T]) -> T:
        """``read()``, a call of Lance alone; what Lance cannot read is damaged, whatever it raises."""
        try:
            return read()
        except (pa.ArrowException, OSError, ValueError, RuntimeError) as error:
            raise self._damaged(storage_reason(error) or "it cannot be read") from error
        except BaseException as error:
            if type(error).__name__ == "PanicException":  # Lance's Rust code met damaged metadata
                raise self._damaged("its metadata cannot be read") from error
            raise

    def _damaged(self, what: str) -> BadIndexError:
        return BadIndexError(
            f"{self.path} is damaged or incomplete: {what}; remove the index and index again"
        )


def _batches_of(piece: Any) -> Iterator[pa.RecordBatch]:
    """All rows with their ids; a scan of them all would read far ahead."""
    for start in range(0, piece.count_rows(), 8192):
        yield from piece.to_batches(batch_size=1024, with_row_id=True, offset=start, limit=8192)


def _version_files(version: int) -> tuple[str, str]:
    """Both ways in which Lance names the file of a version: counting down from 2^64 - 1, or up."""
    return f"{2**64 - 1 - version}.manifest", f"{version}.manifest"
