"""Rows of the store: one per image, one per text, with all fragments, raw vectors and a checksum.

Fragments are Arrow lists, so that an owner's fragments lie side by side. Vectors and features are the
encoder's, before any FENet: vectors in half precision, features in bytes with a scale for each fragment,
which costs no mAP (bench/storage.py). The checksum travels with the row: damage between a commit and the
manifest that names it is found when the manifest is written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute  # pa.compute

from felga.types import Keyword, Region, RegionFeatures, Rows, Vectors

CHECK = "check"
CHECK_BYTES = 16
FEATURES = "features", "scales"
"""Columns of the features of regions, where the encoder has them."""
UNCHECKED = frozenset({CHECK, "mtime_ns"})  # a wrong time only costs one hash of the file


def image_schema(dim: int, feature_dim: int | None = None) -> pa.Schema:
    """Columns of ``images.lance``; ``features`` and ``scales`` only where the encoder has them."""
    features = []
    if feature_dim is not None:
        features = [
            ("features", pa.list_(pa.list_(pa.int8(), feature_dim))),
            ("scales", pa.list_(pa.float32())),
        ]
    return pa.schema(
        [
            ("image_id", pa.string()),
            ("path", pa.binary()),  # relative to the corpus; bytes, since a name need not be UTF-8
            ("size", pa.int64()),
            ("mtime_ns", pa.int64()),
            ("sha256", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("error", pa.string()),  # why it was quarantined; such a row has no fragments
            ("boxes", pa.list_(pa.list_(pa.float32(), 4))),
            ("scores", pa.list_(pa.float32())),
            ("whole", pa.list_(pa.bool_())),
            ("labels", pa.list_(pa.string())),
            ("quality", pa.list_(pa.float32())),  # an item is null where it was not predicted
            ("vectors", pa.list_(pa.list_(pa.float16(), dim))),
            *features,
            (CHECK, pa.binary(CHECK_BYTES)),
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
            ("whole", pa.list_(pa.bool_())),  # the text as a keyword of itself
            ("vectors", pa.list_(pa.list_(pa.float16(), dim))),
            (CHECK, pa.binary(CHECK_BYTES)),
        ]
    )


@dataclass(frozen=True, slots=True)
class ImageRow:
    """An image to be stored; a quarantined one has ``error`` and no regions."""

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
    features: RegionFeatures | None = None


@dataclass(frozen=True, slots=True)
class TextRow:
    """A text to be stored."""

    text_id: str
    image_id: str | None
    text: str
    keywords: Sequence[Keyword]
    vectors: Vectors


def image_table(rows: Sequence[ImageRow], dim: int, feature_dim: int | None = None) -> pa.Table:
    """The Arrow table of images, checksums included; columns as of :func:`image_schema`."""
    offsets = _offsets([len(row.regions) for row in rows])
    regions = [region for row in rows for region in row.regions]
    boxes = np.array([region.box for region in regions], np.float32)
    features = []
    if feature_dim is not None:
        codes, scales = _in_bytes(_stack([row.features for row in rows], feature_dim, np.float32))
        features = [
            pa.ListArray.from_arrays(offsets, _fixed(codes, feature_dim)),
            pa.ListArray.from_arrays(offsets, pa.array(scales)),
        ]
    return checked(
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
            pa.ListArray.from_arrays(offsets, pa.array([r.quality for r in regions], pa.float32())),
            pa.ListArray.from_arrays(
                offsets, _fixed(_stack([row.vectors for row in rows], dim, np.float16), dim)
            ),
            *features,
        ],
        image_schema(dim, feature_dim),
    )


def text_table(rows: Sequence[TextRow], dim: int) -> pa.Table:
    """The Arrow table of texts, checksums included."""
    offsets = _offsets([len(row.keywords) for row in rows])
    keywords = [keyword for row in rows for keyword in row.keywords]
    return checked(
        [
            pa.array([row.text_id for row in rows], pa.string()),
            pa.array([row.image_id for row in rows], pa.string()),
            pa.array([row.text for row in rows], pa.string()),
            pa.ListArray.from_arrays(offsets, pa.array([k.text for k in keywords], pa.string())),
            pa.ListArray.from_arrays(offsets, pa.array([k.score for k in keywords], pa.float32())),
            pa.ListArray.from_arrays(offsets, pa.array([k.span[0] for k in keywords], pa.int32())),
            pa.ListArray.from_arrays(offsets, pa.array([k.span[1] for k in keywords], pa.int32())),
            pa.ListArray.from_arrays(offsets, pa.array([k.whole for k in keywords], pa.bool_())),
            pa.ListArray.from_arrays(
                offsets, _fixed(_stack([row.vectors for row in rows], dim, np.float16), dim)
            ),
        ],
        text_schema(dim),
    )


def checked(columns: Sequence[pa.Array], schema: pa.Schema) -> pa.Table:
    """A table of ``columns`` (all of ``schema`` but the checksum), with the checksum of each row."""
    names = [name for name in schema.names if name != CHECK]
    plain = pa.record_batch(list(columns), names=names)
    checks = pa.array(row_checks(plain), pa.binary(CHECK_BYTES))
    return pa.table([*columns, checks], schema=schema)


def row_checks(batch: pa.RecordBatch) -> list[bytes]:
    """One BLAKE2b digest (16 bytes) per row, over every value but its modification time and checksum."""
    readers = [_bytes_of(batch.column(name)) for name in sorted(batch.schema.names) if name not in UNCHECKED]
    checks = []
    for row in range(batch.num_rows):
        digest = hashlib.blake2b(digest_size=CHECK_BYTES)
        for read in readers:
            digest.update(read(row))
        checks.append(digest.digest())
    return checks


def _bytes_of(column: pa.Array) -> Callable[[int], bytes]:
    """A function from row to bytes that differ wherever the values do."""
    if pa.types.is_list(column.type):
        counts = list_lengths(column)
        ends = np.cumsum(counts)
        values = column.flatten()
        if pa.types.is_string(values.type):
            words = [_framed(value) for value in values.to_pylist()]
            return lambda row: _count(counts[row]) + b"".join(words[ends[row] - counts[row] : ends[row]])
        numbers = flat(column) if pa.types.is_fixed_size_list(values.type) else _numbers(values)
        return lambda row: _count(counts[row]) + numbers[ends[row] - counts[row] : ends[row]].tobytes()
    if pa.types.is_string(column.type) or pa.types.is_binary(column.type):
        texts = [_framed(value) for value in column.to_pylist()]
        return texts.__getitem__
    numbers = _numbers(column)
    return lambda row: bytes(numbers[row].tobytes())


def _framed(value: str | bytes | None) -> bytes:
    if value is None:
        return b"-"
    data = value.encode() if isinstance(value, str) else value
    return b"+" + _count(len(data)) + data


def _count(value: int) -> bytes:
    return int(value).to_bytes(8, "little")


def _numbers(column: pa.Array) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(column.to_numpy(zero_copy_only=False))


def vector_rows(batch: pa.RecordBatch | pa.Table) -> Vectors:
    """(n, dim) float32 of the column ``vectors``."""
    return flat(_whole(batch, "vectors")).astype(np.float32)


def feature_rows(batch: pa.RecordBatch | pa.Table) -> RegionFeatures:
    """(n, f) float16 of the columns ``features`` and ``scales``."""
    scales = _numbers(_whole(batch, "scales").flatten())
    features: RegionFeatures = (flat(_whole(batch, "features")) * scales[:, None]).astype(np.float16)
    return features


def flat(column: pa.Array) -> npt.NDArray[Any]:
    """(n, dim) of a list column of vectors, as it is stored."""
    values = column.flatten()  # respects the slice that a batch is
    dim = values.type.list_size
    return _numbers(values.flatten()).reshape(-1, dim)


def _whole(batch: pa.RecordBatch | pa.Table, name: str) -> pa.Array:
    """A column in one piece."""
    column = batch.column(name)
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _in_bytes(features: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Numbers of -127..127 (n, f), and the scales (n,) that they are multiplied with.

    What is not finite has the scale NaN, so that it is found when it is read.
    """
    scales = np.abs(features).max(1, initial=0) / np.float32(127)
    finite = np.isfinite(scales)
    divided = features[finite] / np.where(scales > 0, scales, 1)[finite, None]
    codes = np.zeros(features.shape, np.int8)
    codes[finite] = np.rint(divided).astype(np.int8)
    return codes, np.where(finite, scales, np.float32(np.nan))


def keywords_of(batch: pa.RecordBatch) -> list[list[str]]:
    """The keywords of each text, without the whole text; ``batch`` has ``keywords`` and ``whole``."""
    columns = batch.column("keywords").to_pylist(), batch.column("whole").to_pylist()
    return [
        [word for word, whole in zip(words, flags, strict=True) if not whole]
        for words, flags in zip(*columns, strict=True)
    ]


def list_lengths(column: pa.Array) -> Rows:
    """(rows,) int64: the length of each list, 0 for null."""
    return np.asarray(pa.compute.fill_null(pa.compute.list_value_length(column), 0), np.int64)


def _offsets(counts: Sequence[int]) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))


def _fixed(values: npt.NDArray[Any], dim: int) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), dim)


def _stack(parts: Sequence[npt.NDArray[Any] | None], dim: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    filled = [part for part in parts if part is not None and len(part)]
    return np.concatenate(filled).astype(dtype, copy=False) if filled else np.empty((0, dim), dtype)
