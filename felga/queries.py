"""What is asked of an index: words and images, and how sure an answer to words is."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from felga.errors import BadInputError, NotFoundError
from felga.files import shown, to_json
from felga.indexing.parts import unit_vectors
from felga.models.cache import VectorCache
from felga.models.wordlist import bank_words
from felga.proposals.inflection import singular
from felga.search.confidence import Background, Query, confidence, image_scores, sampled
from felga.search.owners import Owner, best_fragments
from felga.search.scoring import Extras, inner_products
from felga.store.manifest import Manifest
from felga.store.stored import StoredIndex
from felga.types import Box, DecodedImage, Encoder, Explanation, Rows, Vectors

if TYPE_CHECKING:
    from PIL.Image import Image

CALIBRATED = ("conse",)
"""Encoders whose confidences, with a FENet, were measured (bench/confidence.py)."""
PART = 400  # words of the bank in one entry of the cache
NAMED, FETCHED = 3, 64  # words of an explanation, and keywords looked at for it
ImageSource: TypeAlias = "str | Path | Image | npt.NDArray[np.uint8] | DecodedImage"
"""A file, a PIL image (EXIF orientation is applied), (h, w, 3) uint8 RGB pixels, or a decoded image."""


class Queries:
    """The queries of one index; thread-safe."""

    def __init__(
        self, index: StoredIndex, encoder: Callable[[], Encoder], offsets: Rows, extras: Extras
    ) -> None:
        """
        Args:
            encoder: makes the encoder, when words are not in the cache.
            offsets: (images + 1,) of the regions of images.
            extras: ``quality`` and ``whole`` of all regions.
        """
        self._index, self._encoder = index, encoder
        self._offsets, self._extras = offsets, extras
        self._cache = VectorCache()
        self._lock = threading.Lock()
        self._background: Background | None = None

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """(q, dim) of texts, as the searchers hold them; those of earlier queries come from a cache."""
        keys = [self._key(text) for text in texts]
        found = self._cache.get(keys)
        dim = self._index.manifest.dim
        missing = [at for at, vector in enumerate(found) if vector is None or vector.shape != (dim,)]
        if missing:
            vectors = self._encoded([texts[at] for at in missing])
            self._cache.put([keys[at] for at in missing], vectors)
            for at, vector in zip(missing, vectors, strict=True):
                found[at] = vector
        return np.array(found, np.float32).reshape(len(texts), dim)

    def background(self) -> Background:
        """What is known of this index before anything is asked; made once."""
        with self._lock:
            if self._background is None:
                images = sampled(self._offsets)
                spans = [slice(*self._offsets[[at, at + 1]].tolist()) for at in images]
                regions = [self._index.regions.vectors(span.start, span.stop) for span in spans]
                self._background = Background(
                    self.bank(),
                    np.concatenate(regions),
                    np.concatenate([[0], np.cumsum([len(own) for own in regions])]),
                    {
                        name: np.concatenate([column[span] for span in spans])
                        for name, column in self._extras.items()
                    },
                    len(self._offsets) - 1,
                )
            return self._background

    def confidence(self, query: Query, owner: Owner) -> float:
        """Of an image for a query: see :func:`felga.search.confidence.confidence`."""
        return confidence(query.evidence(self._regions(owner), self._columns(owner)))

    def explain(self, query: Query, owner: Owner) -> Explanation:
        """Why an image was found."""
        region = self._regions(owner)[owner.best]
        products = inner_products(query.vector, self._regions(owner))[None]
        (score,) = image_scores(products, np.array([0, len(owner.scores)]), self._columns(owner))[:, 0]
        words = bank_words()
        return Explanation(
            percentile=query.percentile(float(score)),
            rivals=tuple(words[at] for at in query.better_words(region, NAMED)),
            keywords=tuple(self._keywords(region)),
        )

    def _regions(self, owner: Owner) -> Vectors:
        return self._index.regions.vectors(*self._offsets[[owner.position, owner.position + 1]].tolist())

    def _columns(self, owner: Owner) -> Extras:
        rows = slice(*self._offsets[[owner.position, owner.position + 1]].tolist())
        return {name: column[rows] for name, column in self._extras.items()}

    def _keywords(self, region: Vectors) -> list[str]:
        """The keywords of the index that are nearest to a region, each once."""
        found = best_fragments(self._index.keywords, region, FETCHED)
        owners = np.searchsorted(self._text_offsets, found, side="right") - 1
        positions = sorted(set(owners.tolist()))
        texts = dict(zip(positions, self._index.texts.take(positions, ["keywords", "whole"]), strict=True))
        names: dict[str, None] = {}
        for position, at in zip(owners.tolist(), (found - self._text_offsets[owners]).tolist(), strict=True):
            if not texts[position]["whole"][at]:
                names[singular(texts[position]["keywords"][at])] = None
        return list(names)[:NAMED]

    @cached_property
    def _text_offsets(self) -> Rows:
        return self._index.texts.offsets()

    def bank(self) -> Vectors:
        """(w, dim) of the words of the bank, from the cache where it has them."""
        words = bank_words()
        parts = [words[at : at + PART] for at in range(0, len(words), PART)]
        keys = [self._key("\n".join(part)) for part in parts]
        found = self._cache.get(keys)
        shape = self._index.manifest.dim
        for at, (part, vectors) in enumerate(zip(parts, found, strict=True)):
            if vectors is None or vectors.shape != (len(part), shape):
                found[at] = self._encoded(part)
                self._cache.put([keys[at]], [found[at]])  # type: ignore[list-item]
        return np.concatenate([vectors for vectors in found if vectors is not None])

    def _encoded(self, texts: Sequence[str]) -> Vectors:
        encoder = self._encoder()
        raw = unit_vectors(encoder.encode_texts(texts), len(texts), encoder)
        return self._index.embedding.keywords(raw)

    def _key(self, text: str) -> str:
        manifest = self._index.manifest
        made_by = to_json([manifest.contract.encoder, manifest.fenet.sha256 if manifest.fenet else None])
        return hashlib.sha256(f"{made_by}\n{text}".encode("utf-8", "surrogatepass")).hexdigest()


def measured(manifest: Manifest) -> bool:
    """Whether the promise of a confidence was measured for the encoder of an index, with its FENet."""
    encoder: str = manifest.contract.encoder["name"]
    return manifest.fenet is not None and encoder.partition(":")[0] in CALIBRATED


def decoded(image: ImageSource) -> DecodedImage:
    """A query image.

    Raises:
        NotFoundError, BadInputError: there is none, or it cannot be read.
    """
    from felga.corpus.decode import from_pil, from_pixels, read_image
    from felga.corpus.inside import exists

    if isinstance(image, DecodedImage):
        return image
    if isinstance(image, str | os.PathLike):
        path = Path(image)
        if not exists(path):
            raise NotFoundError(f"{shown(path)} does not exist: name an image")
        return read_image(path, shown(path.name))
    if isinstance(image, np.ndarray):
        return from_pixels(image, "array")
    return from_pil(image, "image")


def inside(box: Box, image: DecodedImage) -> Box:
    """``box`` clipped to the image; refused where nothing is left."""
    try:
        x1, y1, x2, y2 = (float(value) for value in box)
    except (TypeError, ValueError) as error:
        raise BadInputError(f"a box is four numbers x1, y1, x2, y2, got {box!r}") from error
    clipped = max(x1, 0.0), max(y1, 0.0), min(x2, float(image.width)), min(y2, float(image.height))
    if not (clipped[2] > clipped[0] and clipped[3] > clipped[1]):
        raise BadInputError(
            f"the box {x1:g},{y1:g},{x2:g},{y2:g} covers no pixel of {image.image_id}, which is "
            f"{image.width}x{image.height}: expected x1,y1,x2,y2 with x1 < x2 and y1 < y2"
        )
    return clipped
