"""From an index to what FENet is trained from: the raw frozen fragments of its pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from felga.errors import BadInputError
from felga.fenet.features import Features
from felga.store.manifest import read_manifest
from felga.store.tables import Owners, flat
from felga.types import Vectors


def features_of(folder: Path) -> Features:
    """The pairs of an index: images with texts, raw vectors whatever FENet the index has.

    An image with several texts has the keywords of all of them; images without text and texts without
    image are no pairs. Pairs are in the order of the image's id, so that the order in which a corpus
    grew changes no training.

    Raises:
        NotFoundError, BadIndexError: there is no index, or it is damaged.
        BadInputError: no image of the index has a text.
    """
    manifest = read_manifest(folder)
    images = Owners(folder / "images.lance", manifest.images.version)
    texts = Owners(folder / "texts.lance", manifest.texts.version)
    words: dict[str, int] = {}
    vectors: list[Vectors] = []
    of_image: dict[str, list[int]] = {}
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
                ids = of_image.setdefault(image_id, []) if image_id is not None else []
                if words[word] not in ids:
                    ids.append(words[word])
                at += 1
    regions: dict[str, Vectors] = {}
    for batch in images.batches(["image_id", "vectors"]):
        counts = np.asarray(batch.column("vectors").value_lengths().fill_null(0))
        parts = np.split(flat(batch.column("vectors")), np.cumsum(counts)[:-1])
        for image_id, part in zip(batch.column("image_id").to_pylist(), parts, strict=True):
            if image_id in of_image:
                regions[image_id] = part
    if not regions:
        raise BadInputError(f"no image of {folder} has a text: FENet is trained from pairs of both")
    pairs = sorted(regions)
    encoder = manifest.contract["encoder"]
    return Features(
        regions=np.concatenate([regions[pair] for pair in pairs]),
        region_offsets=np.cumsum([0, *(len(regions[pair]) for pair in pairs)]),
        keywords=np.concatenate(vectors),
        keyword_ids=np.concatenate([np.array(of_image[pair], np.int64) for pair in pairs]),
        keyword_offsets=np.cumsum([0, *(len(of_image[pair]) for pair in pairs)]),
        pair_ids=tuple(pairs),
        keyword_texts=tuple(words),
        encoder=encoder["name"],
        identity=encoder,
    )
