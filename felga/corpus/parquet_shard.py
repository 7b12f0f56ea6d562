"""Parquet files with an image in each row, as img2dataset writes them: read by column, one image at a time.

Listing reads keys, captions and states alone. Reading an image decompresses the pages of its row group up
to it: in img2dataset's files a group is a page of 100 images, elsewhere a page has at most some 1,000.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet

from felga.corpus.inside import DamagedShard, state
from felga.files import open_regular

KEY = "key"
COLUMNS = ("jpg", "png", "webp")  # img2dataset names the column of the images after their format
KEPT = 8  # shards whose keys are remembered
ROWS = 8192  # listed at once
FEW = 8  # images in memory while one is looked for
BUFFER = 2**20  # bytes of a column read at once


class DamagedParquet(DamagedShard):
    """A parquet file, or a part of it, that cannot be read; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Index:
    """Where the images of a shard are.

    Attributes:
        column: of the images.
        rows: name of a member -> its row; of several of a name the first.
        starts: the first row of each row group.
        metadata: of the file.
    """

    column: str
    rows: dict[str, int]
    starts: list[int]
    metadata: Any


def image_column(file: BinaryIO) -> str:
    """The name of the column that holds the images.

    Raises:
        DamagedParquet: there is none, or none of keys; or this is no parquet file.
    """
    with _damage():
        return _image_column(_opened(file).schema_arrow)


def rows(file: BinaryIO, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """All rows in order, of the ``names`` those that are columns.

    Raises:
        DamagedParquet: damaged; the rows before it have been read.
    """
    with _damage():
        parquet = _opened(file)
        columns = [name for name in names if name in parquet.schema_arrow.names]
        for batch in parquet.iter_batches(ROWS, columns=columns, use_threads=False):
            yield from batch.to_pylist()


def member_name(key: Any, column: str) -> str | None:
    """The name of the image with that key, or None where a key names none."""
    if not isinstance(key, str | int) or isinstance(key, bool):
        return None
    text = str(key)
    return None if not text or "/" in text or "\0" in text else f"{text}.{column}"


def read(file: BinaryIO, shard: str, name: str, limit: int) -> bytes:
    """As :class:`felga.corpus.inside.Reader`."""
    index = _index(shard, *state(file))
    row = index.rows.get(name)
    if row is None:
        raise DamagedParquet("no such image in the parquet file")
    group = bisect_right(index.starts, row) - 1
    with _damage():
        value = _value(_opened(file, index.metadata), index.column, group, row - index.starts[group])
    if value is None:
        raise DamagedParquet("its row holds no image")
    if len(value) > limit:
        raise DamagedParquet(f"{len(value)} bytes exceed the limit of {limit}")
    return value


def holds(file: BinaryIO, shard: str, name: str) -> bool:
    """As :class:`felga.corpus.inside.Reader`."""
    return name in _index(shard, *state(file)).rows


def _value(parquet: Any, column: str, group: int, at: int) -> bytes | None:
    """The image in row ``at`` of a row group."""
    for batch in parquet.iter_batches(FEW, row_groups=[group], columns=[column], use_threads=False):
        if at < batch.num_rows:
            value: bytes | None = batch.column(0)[at].as_py()
            return value
        at -= batch.num_rows
    raise DamagedParquet("its row group is shorter than it says")


@lru_cache(KEPT)
def _index(shard: str, device: int, inode: int, size: int, mtime_ns: int) -> Index:
    found: dict[str, int] = {}
    with open_regular(shard) as file:
        column = image_column(file)
        try:
            for row, values in enumerate(rows(file, (KEY,))):
                if (name := member_name(values[KEY], column)) is not None:
                    found.setdefault(name, row)
        except DamagedParquet:
            pass  # its sound part is what the corpus lists
        metadata = _opened(file).metadata
    sizes = [metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)]
    return Index(column, found, list(accumulate(sizes, initial=0))[:-1], metadata)


def _image_column(schema: pa.Schema) -> str:
    found = [name for name in COLUMNS if name in schema.names]
    if not found:
        raise DamagedParquet(
            f"has no column {', '.join(COLUMNS[:-1])} or {COLUMNS[-1]}: it is no shard of images, such as "
            f"img2dataset writes with --output_format parquet"
        )
    if KEY not in schema.names:
        raise DamagedParquet(f"has no column {KEY}, which names each image")
    kind = schema.field(found[0]).type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise DamagedParquet(f"its column {found[0]} holds {kind}, expected the bytes of images (binary)")
    return found[0]


def _opened(file: BinaryIO, metadata: Any = None) -> Any:
    """A parquet file of which columns are read through a buffer, and not as a whole."""
    file.seek(0)
    source = pa.PythonFile(file, mode="r")
    return pyarrow.parquet.ParquetFile(source, metadata=metadata, buffer_size=BUFFER, pre_buffer=False)


@contextmanager
def _damage() -> Iterator[None]:
    """What Arrow cannot read is damaged; it raises OSError without an errno for it."""
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DamagedParquet(_sentence(error)) from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise DamagedParquet(_sentence(error)) from error


def _sentence(error: BaseException) -> str:
    words = " ".join(str(error).split())
    return f"cannot be read: {words[:200]}"
