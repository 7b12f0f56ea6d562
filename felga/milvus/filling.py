"""Write the regions of an index into Milvus, with all that a search of them needs from another machine."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from felga.errors import BadInputError, StorageError
from felga.files import shown, to_json
from felga.milvus.connection import LONGEST, Connection, Place
from felga.search.confidence import sampled
from felga.store.schema import list_lengths
from felga.store.stored import StoredIndex
from felga.store.vocabulary import words_of
from felga.types import Progress

IMAGES = 64  # written at once
FEW = 100_000
"""Regions up to which Milvus compares all (FLAT: exact); beyond, it chooses an index itself (AUTOINDEX)."""
COLUMNS = ("image_id", "path", "width", "height", "boxes", "whole", "labels", "quality")


def fill(index: StoredIndex, place: Place, progress: Progress = lambda stage, done, total: None) -> int:
    """Write all regions, then what must be known of them: the manifest last, so that an interrupted export is
    no index, and the next one starts over. Memory holds some images.

    Vectors are those that are searched, in single precision, which the embedded server asks for. The FENet
    goes along, whole: the other machine may not have it.

    Args:
        progress: called with ``export``, how many regions were written, and of how many.

    Returns:
        The number of regions.

    Raises:
        BadInputError: there is such a collection already, the index has no regions, or Milvus refuses.
        StorageError: Milvus has not kept what was written.
    """
    total = len(index.regions)
    if not total:
        raise BadInputError(f"{shown(index.folder)} has no regions: there is nothing to export")
    connection = Connection(place, new=True)
    try:
        _make_room(connection)
        _create(connection, index.manifest.dim, total)
        done = 0
        for rows in _rows(index):
            connection.call("insert", place.name, rows)
            done += len(rows)
            progress("export", done, total)
        connection.call("flush", place.name)
        if (kept := connection.count()) != total:
            raise StorageError(f"{place} holds {kept} of {total} regions: export again")
        connection.write_parts(_about(index))
    finally:
        connection.close()
    return total


def _make_room(connection: Connection) -> None:
    """Remove what an interrupted export left; refuse to touch anything else."""
    place = connection.place
    about = connection.load(place.about)
    if not about and not connection.call("has_collection", place.name):
        return
    if not about:
        raise BadInputError(
            f"{place} is a collection that felga has not made: name another one, as milvus:URI#NAME"
        )
    if connection.read_part("manifest") is not None:
        raise BadInputError(
            f"{place} holds an index already: name another collection, as milvus:URI#NAME, or drop "
            f"{place.name} and {place.about} in Milvus"
        )
    for name in (place.name, place.about):
        connection.call("drop_collection", name)


def _create(connection: Connection, dim: int, total: int) -> None:
    from pymilvus import DataType, MilvusClient

    place = connection.place
    about = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    about.add_field("part", DataType.VARCHAR, is_primary=True, max_length=100)
    about.add_field("chunks", DataType.INT64)
    about.add_field("data", DataType.VARCHAR, max_length=LONGEST)
    about.add_field("unused", DataType.FLOAT_VECTOR, dim=2)  # Milvus has no collection without vectors
    made = MilvusClient.prepare_index_params()
    made.add_index("unused", index_type="FLAT", metric_type="IP")
    connection.call(
        "create_collection", place.about, schema=about, index_params=made, consistency_level="Strong"
    )
    regions = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    regions.add_field("region", DataType.INT64, is_primary=True)
    regions.add_field("owner", DataType.INT64)
    for name in ("image_id", "path"):
        regions.add_field(name, DataType.VARCHAR, max_length=LONGEST)
    for name in ("width", "height"):
        regions.add_field(name, DataType.INT64)
    regions.add_field("box", DataType.ARRAY, element_type=DataType.FLOAT, max_capacity=4)
    regions.add_field("whole", DataType.BOOL)
    regions.add_field("label", DataType.VARCHAR, max_length=LONGEST, nullable=True)
    regions.add_field("quality", DataType.FLOAT, nullable=True)
    regions.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
    made = MilvusClient.prepare_index_params()
    made.add_index("vector", index_type="FLAT" if total <= FEW else "AUTOINDEX", metric_type="IP")
    for name in ("owner", "image_id"):
        made.add_index(name, index_type="INVERTED")
    connection.call("create_collection", place.name, schema=regions, index_params=made)


def _rows(index: StoredIndex) -> Iterator[list[dict[str, Any]]]:
    """The regions of some images at a time, in order, as Milvus takes them."""
    owner = at = 0
    for batch in index.images.batches(COLUMNS, IMAGES):
        counts = list_lengths(batch.column("boxes"))
        stop = at + int(counts.sum())
        vectors = index.regions.vectors(at, stop)
        images = np.repeat(np.arange(batch.num_rows), counts).tolist()
        about = {name: batch.column(name).to_pylist() for name in ("image_id", "path", "width", "height")}
        regions = {
            name: pa.array(batch.column(column).flatten()).to_pylist()
            for name, column in (("box", "boxes"), ("whole", "whole"), ("label", "labels"), ("quality",) * 2)
        }
        rows = [
            {
                "region": at + row,
                "owner": owner + image,
                **{name: values[image] for name, values in about.items()},
                "path": shown(about["path"][image]),
                **{name: values[row] for name, values in regions.items()},
                "vector": vectors[row],
            }
            for row, image in enumerate(images)
        ]
        if rows:
            yield rows
        owner, at = owner + batch.num_rows, stop


def _about(index: StoredIndex) -> dict[str, bytes]:
    """What a search needs beside the regions, the manifest last."""
    parts = {
        "words": zlib.compress("\n".join(sorted(words_of(index.texts))).encode()),
        "sample": to_json(sampled(index.images.offsets()).tolist()).encode(),
    }
    if (fenet := index.fenet_file) is not None:
        parts["fenet"] = fenet.read_bytes()
    return {**parts, "manifest": to_json(index.manifest.to_json()).encode()}
