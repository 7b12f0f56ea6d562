"""Items of a listing as Arrow columns: a quarter of the memory of as many objects."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from felga.corpus.items import ImageItem, TextItem

Item = TypeVar("Item")
CHUNK = 8192  # items that are objects at the same time


@dataclass(frozen=True, slots=True)
class Kind(Generic[Item]):
    """How items of one kind become rows, and rows items.

    Attributes:
        schema: of the rows; the first column is the id.
        row: the cells of an item.
        item: the item of as many cells.
    """

    schema: pa.Schema
    row: Callable[[Item], tuple[Any, ...]]
    item: Callable[..., Item]


def _image(image_id: str, path: bytes | None, size: int, mtime_ns: int) -> ImageItem:
    return ImageItem(image_id, image_id if path is None else os.fsdecode(path), size, mtime_ns)


def _image_row(image: ImageItem) -> tuple[str, bytes | None, int, int]:
    """A path that is the id, as in a folder, is not kept twice."""
    path = None if image.path == image.image_id else os.fsencode(image.path)
    return image.image_id, path, image.size, image.mtime_ns


IMAGE: Kind[ImageItem] = Kind(
    pa.schema(
        {"image_id": pa.large_string(), "path": pa.large_binary(), "size": pa.int64(), "mtime_ns": pa.int64()}
    ),
    _image_row,
    _image,
)
TEXT: Kind[TextItem] = Kind(
    pa.schema({"text_id": pa.large_string(), "image_id": pa.large_string(), "text": pa.large_string()}),
    lambda text: (text.text_id, text.image_id, text.text),
    TextItem,
)


class Items(Sequence[Item]):
    """Items of one kind, sorted by id, ids unique; made when they are looked at."""

    def __init__(self, kind: Kind[Item], table: pa.Table) -> None:
        self._kind, self._table = kind, table

    @property
    def ids(self) -> pa.ChunkedArray:
        """(n,) the ids alone."""
        return self._table.column(0)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, at: int) -> Item: ...
    @overload
    def __getitem__(self, at: slice) -> list[Item]: ...
    def __getitem__(self, at: int | slice) -> Item | list[Item]:
        if isinstance(at, slice):
            return [self[n] for n in range(*at.indices(len(self)))]
        n = range(len(self))[at]
        return self._kind.item(*(column[n].as_py() for column in self._table.columns))

    def __iter__(self) -> Iterator[Item]:
        for batch in self._table.to_batches(CHUNK):
            yield from map(self._kind.item, *(column.to_pylist() for column in batch.columns))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Items({list(self[:3])}{'...' if len(self) > 3 else ''})"


def collect(kind: Kind[Item], items: Iterable[Item]) -> tuple[Items[Item], list[Item]]:
    """Items sorted by id, and those with the id of an earlier one."""
    source = iter(items)
    batches = []
    while chunk := list(islice(source, CHUNK)):
        cells = zip(*map(kind.row, chunk), strict=True)
        arrays = [pa.array(column, field.type) for column, field in zip(cells, kind.schema, strict=True)]
        batches.append(pa.record_batch(arrays, schema=kind.schema))
    table = pa.Table.from_batches(batches, kind.schema)  # in chunks: joining them would copy
    del batches
    if ascending(table.column(0)):
        return Items(kind, table), []
    table = table.combine_chunks()
    order = pc.sort_indices(table.column(0))  # stable; UTF-8 sorts as code points do
    parts = [table.take(order[at : at + CHUNK]) for at in range(0, len(table), CHUNK)]
    table = pa.concat_tables(parts)
    del parts
    ids = table.column(0)
    again = np.zeros(len(table), bool)
    again[1:] = pc.equal(ids[1:], ids[:-1]).to_numpy()
    dropped = list(Items(kind, table.filter(pa.array(again)))) if again.any() else []
    return Items(kind, table.filter(pa.array(~again)) if dropped else table), dropped


def ascending(ids: pa.ChunkedArray) -> bool:
    """Whether ids are sorted, each of them once."""
    return len(ids) < 2 or bool(pc.all(pc.less(ids[:-1], ids[1:])).as_py())
