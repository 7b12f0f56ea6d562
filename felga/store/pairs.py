"""The training data in an index: the raw, frozen fragments of its image-text pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from felga.errors import BadInputError
from felga.fenet.features import Features
from felga.store.schema import flat, list_lengths
from felga.store.stored import StoredIndex
from felga.types import Vectors


def features_of(folder: Path) -> Features:
    """The pairs of an index: images with texts, as raw vectors whatever FENet the index has.

    An image with several texts gets the keywords of all of them; images without text and texts without
    image are left out. Pairs are ordered by image id, so that the order in which a corpus grew does not
    affect training.

    Raises:
        NotFoundError, BadIndexError: there is no index, or it is damaged.
        BadInputError: no image of the index has a text.
    """
    index = StoredIndex.open(folder, hash_up_to=None)
    images, texts = index.images, index.texts
    words: dict[str, int] = {}
    vectors: list[Vectors] = []
    ids_of_image: dict[str, list[int]] = {}
    for batch in texts.batches(["image_id", "keywords", "vectors"]):
        rows = flat(batch.column("vectors"))
        at = 0
        for image_id, keywords in zip(
            batch.column("image_id").to_pylist(), batch.column("keywords").to_pylist(), strict=True
        ):
            for word in keywords:
                if word not in words:
                    words[word] = len(words)
                    vectors.append(rows[at : at + 1].copy())
                ids = ids_of_image.setdefault(image_id, []) if image_id is not None else []
                if words[word] not in ids:
                    ids.append(words[word])
                at += 1
    regions: dict[str, Vectors] = {}
    for batch in images.batches(["image_id", "vectors"]):
        counts = list_lengths(batch.column("vectors"))
        parts = np.split(flat(batch.column("vectors")), np.cumsum(counts)[:-1])
        for image_id, part in zip(batch.column("image_id").to_pylist(), parts, strict=True):
            if image_id in ids_of_image:
                regions[image_id] = part
    if not regions:
        raise BadInputError(f"no image in {folder} has a caption: FENet is trained on image-text pairs")
    pairs = sorted(regions)
    encoder = index.manifest.contract.encoder
    return Features(
        regions=np.concatenate([regions[pair] for pair in pairs]),
        region_offsets=np.cumsum([0, *(len(regions[pair]) for pair in pairs)]),
        keywords=np.concatenate(vectors),
        keyword_ids=np.concatenate([np.array(ids_of_image[pair], np.int64) for pair in pairs]),
        keyword_offsets=np.cumsum([0, *(len(ids_of_image[pair]) for pair in pairs)]),
        pair_ids=tuple(pairs),
        keyword_texts=tuple(words),
        encoder=encoder["name"],
        identity=encoder,
    )
