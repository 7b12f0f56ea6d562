"""The training data in an index: the raw, frozen fragments of its image-text pairs."""

from __future__ import annotations

from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from felga.errors import BadInputError
from felga.fenet.features import Features
from felga.store.owner_table import OwnerTable
from felga.store.schema import flat, keywords_of, list_lengths
from felga.store.stored import StoredIndex
from felga.types import Flags, RegionFeatures, Vectors, is_generated

IDS = "text_id", "image_id"


def features_of(folder: Path) -> Features:
    """The pairs of an index: images with texts, as raw vectors whatever FENet the index has.

    An image with several texts gets the keywords of all of them; images without text, texts without image
    and generated texts are left out. Pairs are ordered by image id, so that the order in which a corpus grew
    does not affect training. Whole texts are no keywords here.

    Raises:
        NotFoundError, BadIndexError: there is no index, or it is damaged.
        BadInputError: no image of the index has a text.
    """
    index = StoredIndex.open(folder, hash_up_to=None)
    images, texts = index.images, index.texts
    words: dict[str, int] = {}
    vectors: list[Vectors] = []
    ids_of_image: dict[str, list[int]] = {}
    for batch in texts.batches(["text_id", "image_id", "keywords", "whole", "vectors"]):
        rows = flat(batch.column("vectors"))[~_flags(batch.column("whole"))]
        at = 0
        owners = [
            None if is_generated(text_id) else image_id
            for text_id, image_id in zip(*(batch.column(name).to_pylist() for name in IDS), strict=True)
        ]
        for image_id, keywords in zip(owners, keywords_of(batch), strict=True):
            for word in keywords:
                if word not in words:
                    words[word] = len(words)
                    vectors.append(rows[at : at + 1].copy())
                ids = ids_of_image.setdefault(image_id, []) if image_id is not None else []
                if words[word] not in ids:
                    ids.append(words[word])
                at += 1
    columns = _regions(images, ids_of_image)
    if not columns["vectors"]:
        raise BadInputError(f"no image in {folder} has a caption: FENet is trained on image-text pairs")
    pairs = sorted(columns["vectors"])
    stacked = {name: np.concatenate([parts[pair] for pair in pairs]) for name, parts in columns.items()}
    encoder = index.manifest.contract.encoder
    return Features(
        regions=stacked["vectors"],
        region_offsets=np.cumsum([0, *(len(columns["vectors"][pair]) for pair in pairs)]),
        region_features=stacked.get("features"),
        whole=stacked["whole"],
        keywords=np.concatenate(vectors),
        keyword_ids=np.concatenate([np.array(ids_of_image[pair], np.int64) for pair in pairs]),
        keyword_offsets=np.cumsum([0, *(len(ids_of_image[pair]) for pair in pairs)]),
        pair_ids=tuple(pairs),
        keyword_texts=tuple(words),
        encoder=encoder["name"],
        identity=encoder,
    )


def _regions(images: OwnerTable, wanted: Container[str]) -> dict[str, dict[str, npt.NDArray[Any]]]:
    """Columns of the regions of the ``wanted`` images: ``vectors``, ``whole``, ``features`` if stored.

    Each is a dictionary from image id to the values of its regions, in the order of the index.
    """
    readers: dict[str, Callable[[pa.Array], npt.NDArray[Any]]] = {"vectors": flat, "whole": _flags}
    if "features" in images.schema.names:
        readers["features"] = _half
    columns: dict[str, dict[str, npt.NDArray[Any]]] = {name: {} for name in readers}
    for batch in images.batches(["image_id", *readers]):
        image_ids = batch.column("image_id").to_pylist()
        for name, read in readers.items():
            counts = list_lengths(batch.column(name))
            parts = np.split(read(batch.column(name)), np.cumsum(counts)[:-1])
            for image_id, part in zip(image_ids, parts, strict=True):
                if image_id in wanted:
                    columns[name][image_id] = part
    return columns


def _half(column: pa.Array) -> RegionFeatures:
    """(n, f) float16 of a list column of features; as :func:`flat`, without a copy in float32."""
    values = column.flatten()
    return np.asarray(values.flatten(), np.float16).reshape(-1, values.type.list_size)


def _flags(column: pa.Array) -> Flags:
    """(n,) bool of a list column."""
    return np.asarray(column.flatten().to_numpy(zero_copy_only=False), np.bool_)
