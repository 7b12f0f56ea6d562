"""A few images of an index in Milvus, fetched whole, as an index of their own that an engine scores."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from felga.errors import BadIndexError
from felga.milvus.connection import Connection
from felga.search.flat import FlatSearcher
from felga.search.scoring import Extras
from felga.store.owner_table import OwnerTable
from felga.store.stored import StoredIndex
from felga.types import Flags, Rows, Scores, Vectors

ROWS = 4096  # fetched at once: 8 MB of 512 dimensions
_IMAGE = ("image_id", "path", "width", "height")
_REGION = (("boxes", "box"), ("whole", "whole"), ("labels", "label"), ("quality", "quality"))
_FIELDS = ("region", "owner", *_IMAGE, *(field for _, field in _REGION), "vector")


@dataclass(frozen=True, slots=True)
class Fetched:
    """An image: its position in the index, its row as a table has it, and its vectors (n, dim) float32."""

    position: int
    row: dict[str, Any]
    vectors: Vectors


def fetch(connection: Connection, positions: Collection[int], most: int) -> list[Fetched]:
    """Images of an index with all their regions, in the order of the index.

    Args:
        most: regions that an image has at most.

    Raises:
        BadIndexError: one is not there.
    """
    order, step, found = sorted(positions), max(1, ROWS // most), []
    for at in range(0, len(order), step):
        where = f"owner in {order[at : at + step]}"
        rows = connection.rows(connection.place.name, where, _FIELDS)
        rows.sort(key=lambda row: int(row["region"]))
        own: dict[int, list[dict[str, Any]]] = {}
        for row in rows:
            own.setdefault(int(row["owner"]), []).append(row)
        if list(own) != order[at : at + step]:
            raise BadIndexError(f"{connection.place} lacks regions of an image: export the index again")
        found += [_fetched(position, regions) for position, regions in own.items()]
    return found


def _fetched(position: int, regions: Sequence[dict[str, Any]]) -> Fetched:
    row = {name: regions[0][name] for name in _IMAGE}
    row["path"] = os.fsencode(row["path"])
    row |= {name: [region[field] for region in regions] for name, field in _REGION}
    return Fetched(position, row, np.array([region["vector"] for region in regions], np.float32))


def side_by_side(images: Sequence[Fetched]) -> tuple[Vectors, Rows, Extras]:
    """The vectors (n, dim) of images, their offsets (images + 1,), and ``quality`` and ``whole`` (n,)."""
    offsets = np.cumsum([0, *(len(image.vectors) for image in images)]).astype(np.int64)
    quality = [value for image in images for value in image.row["quality"]]
    whole = [value for image in images for value in image.row["whole"]]
    columns = {"quality": np.array(quality, np.float32), "whole": np.array(whole, bool)}
    return np.concatenate([image.vectors for image in images]), offsets, columns


class CandidateTable(OwnerTable):
    """The rows of some images."""

    def __init__(self, rows: Sequence[dict[str, Any]], offsets: Rows, extras: Extras) -> None:
        self._rows, self._offsets, self._extras = rows, offsets, extras

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, rows: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        """As of :class:`OwnerTable`."""
        return [{name: self._rows[row][name] for name in columns} for row in rows]

    def offsets(self) -> Rows:
        """As of :class:`OwnerTable`."""
        return self._offsets

    def quality(self) -> Scores:
        """As of :class:`OwnerTable`."""
        return self._extras["quality"]

    def whole(self) -> Flags:
        """As of :class:`OwnerTable`."""
        return self._extras["whole"]


class CandidateIndex(StoredIndex):
    """An index of some images of another one, with its manifest and its FENet; it does not close it."""

    def __init__(self, index: StoredIndex, images: Sequence[Fetched]) -> None:
        vars(self).update(vars(index))
        self._whole = index
        vectors, offsets, extras = side_by_side(images)
        self.images = CandidateTable([image.row for image in images], offsets, extras)
        self.texts = CandidateTable([], np.zeros(1, np.int64), {})  # they are not in Milvus
        self.regions = FlatSearcher.of(vectors)

    @property
    def fenet(self) -> Any:
        """That of the whole index, loaded there."""
        return self._whole.fenet

    def close(self) -> None:
        """Nothing to release."""
