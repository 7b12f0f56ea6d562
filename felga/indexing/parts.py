"""The parts of a run: encoder and proposers; what they return is checked where it enters.

A third party's part with a bug ends in a sentence that names it, not in a traceback of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from felga.errors import BadInputError
from felga.files import canonical
from felga.indexing.options import Options
from felga.registry import make_encoder, make_keywords, make_regions
from felga.search.segments import UNIT
from felga.store.manifest import Contract
from felga.types import DecodedImage, Encoder, Keyword, KeywordProposer, Region, RegionProposer, Vectors


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts that a run is made of."""

    encoder: Encoder
    regions: RegionProposer
    keywords: KeywordProposer
    options: Options

    @classmethod
    def make(cls, options: Options) -> Parts:
        """The parts that ``options`` name; raises what their factories raise."""
        encoder = make_encoder(
            options.encoder, device=options.device, batch_size=options.batch_size, pooling=options.pooling
        )
        return cls(
            encoder,
            make_regions(options.regions, device=options.device),
            make_keywords(options.keywords, device=options.device),
            options,
        )

    def contract(self) -> Contract:
        """What an index built with these parts is bound to."""
        options = self.options
        identity = canonical(dict(self.encoder.identity()))
        if identity.get("dim") != self.encoder.dim or not isinstance(identity.get("name"), str):
            raise BadInputError(
                f"encoder {self.encoder.name!r} has dim {self.encoder.dim}, its identity says "
                f"{identity.get('dim')} and the name {identity.get('name')!r}"
            )
        regions = canonical(dict(self.regions.settings()))
        keywords = canonical(dict(self.keywords.settings()))
        return Contract(
            encoder=identity,
            regions={"proposer": regions, "top": options.top_regions, "whole": options.whole},
            keywords={"proposer": keywords, "top": options.top_keywords},
        )

    def propose(self, image: DecodedImage) -> list[Region]:
        """The regions of an image, the whole image first if it counts or if there is nothing else."""
        options, name = self.options, self.regions.name
        found: list[Region] = []
        if options.top_regions:
            (found,) = _as_many(
                self.regions.propose([image], options.top_regions), 1, name, "lists of regions"
            )
            for region in found:
                x1, y1, x2, y2 = region.box
                if not (-1 <= x1 < x2 <= image.width + 1 and -1 <= y1 < y2 <= image.height + 1):
                    raise BadInputError(
                        f"region proposer {name!r} returned the box {tuple(region.box)} for "
                        f"{image.image_id!r}, which has {image.width}x{image.height} pixels"
                    )
        if options.whole or not found:  # an image too small to segment is its own only fragment
            found = [Region(image.whole, 1.0, whole=True), *found]
        return found

    def encode_regions(
        self, images: Sequence[DecodedImage], regions: Sequence[Sequence[Region]]
    ) -> list[Vectors]:
        """Unit vectors of the regions of images, (n_i, dim) float32 each."""
        boxes = [np.array([region.box for region in own], np.float32).reshape(-1, 4) for own in regions]
        vectors = _as_many(
            self.encoder.encode_regions(images, boxes), len(images), self.encoder.name, "arrays"
        )
        return [unit_vectors(own, len(box), self.encoder) for own, box in zip(vectors, boxes, strict=True)]

    def propose_keywords(self, texts: Sequence[str]) -> list[list[Keyword]]:
        """The keywords of texts."""
        name = self.keywords.name
        found: list[list[Keyword]] = _as_many(
            self.keywords.propose(texts, self.options.top_keywords), len(texts), name, "lists"
        )
        for text, own in zip(texts, found, strict=True):
            for keyword in own:
                if not 0 <= keyword.span[0] <= keyword.span[1] <= len(text):
                    raise BadInputError(
                        f"keyword proposer {name!r} returned {keyword.text!r} at "
                        f"{keyword.span}, outside its text"
                    )
        return found

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors of words, (n, dim) float32."""
        return unit_vectors(self.encoder.encode_texts(texts), len(texts), self.encoder)


def unit_vectors(vectors: Any, count: int, encoder: Encoder) -> Vectors:
    """What an encoder returned, as (count, dim) float32 of length 1.

    Raises:
        BadInputError: it has another shape, or a vector is NaN or of another length.
    """
    vectors = np.asarray(vectors)
    if vectors.shape != (count, encoder.dim):
        raise BadInputError(
            f"encoder {encoder.name!r} returned vectors of shape {vectors.shape}, expected "
            f"({count}, {encoder.dim})"
        )
    unit: Vectors = vectors.astype(np.float32, copy=False)
    if not (np.abs(np.linalg.norm(unit, axis=1) - 1) <= UNIT).all():
        raise BadInputError(f"encoder {encoder.name!r} returned a vector that is not of length 1, or NaN")
    return unit


def _as_many(found: Any, count: int, name: str, what: str) -> Any:
    if not isinstance(found, Sequence) or len(found) != count:
        size = len(found) if hasattr(found, "__len__") else type(found).__name__
        raise BadInputError(f"{name!r} returned {size} {what} for {count} inputs")
    return found
