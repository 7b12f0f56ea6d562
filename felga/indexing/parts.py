"""The parts of a run: encoder and proposers; what they return is checked where it enters.

A third party's part with a bug ends in a sentence that names it, not in a traceback of ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from felga.errors import BadInputError
from felga.files import canonical
from felga.indexing.options import Options
from felga.registry import make_encoder, make_keywords, make_regions
from felga.search.segments import UNIT
from felga.store.manifest import Contract
from felga.types import (
    Boxes,
    DecodedImage,
    Encoder,
    FeatureEncoder,
    Keyword,
    KeywordProposer,
    QualityPredictor,
    Region,
    RegionFeatures,
    RegionProposer,
    Scores,
    Vectors,
)

QUALITY = "learned"
"""The proposer that also predicts the quality of other proposers' regions."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts that a run is made of.

    Attributes:
        quality: predicts the quality of every region; None: a region keeps what its proposer says.
    """

    encoder: Encoder
    regions: RegionProposer
    keywords: KeywordProposer
    options: Options
    quality: QualityPredictor | None = None

    @classmethod
    def make(cls, options: Options) -> Parts:
        """The parts that ``options`` name; raises what their factories raise."""
        encoder = make_encoder(
            options.encoder, device=options.device, batch_size=options.batch_size, pooling=options.pooling
        )
        regions = make_regions(options.regions, device=options.device)
        quality: Any = regions
        if options.quality and not isinstance(regions, QualityPredictor):
            quality = make_regions(QUALITY, device=options.device)
        return cls(
            encoder,
            regions,
            make_keywords(options.keywords, device=options.device),
            options,
            quality=quality if options.quality else None,
        )

    @property
    def feature_dim(self) -> int | None:
        """Length of the features of a region; None: the encoder has none."""
        return self.encoder.feature_dim if isinstance(self.encoder, FeatureEncoder) else None

    def contract(self) -> Contract:
        """What an index built with these parts is bound to."""
        options = self.options
        regions = canonical(dict(self.regions.settings()))
        keywords = canonical(dict(self.keywords.settings()))
        return Contract(
            encoder=identity_of(self.encoder),
            regions={
                "proposer": regions,
                "top": options.top_regions,
                "whole": options.whole,
                "features": self.feature_dim,
                "quality": canonical(dict(self.quality.settings())) if self.quality else None,
            },
            keywords={"proposer": keywords, "top": options.top_keywords, "whole": options.whole},
        )

    def propose(self, images: Sequence[DecodedImage]) -> list[list[Region]]:
        """The regions of images with their quality; the whole image first if it counts or is all there is."""
        options, name = self.options, self.regions.name
        found: list[list[Region]] = [[] for _ in images]
        if options.top_regions and images:
            with enough_memory():
                proposed = self.regions.propose(images, options.top_regions)
            found = _as_many(proposed, len(images), name, "lists of regions")
        for image, own in zip(images, found, strict=True):
            for region in own:
                _check_region(region, image, name)
        # an image too small to segment is its own only fragment
        regions = [
            [Region(image.whole, 1.0, whole=True), *own] if options.whole or not own else own
            for image, own in zip(images, found, strict=True)
        ]
        return self._with_quality(images, regions) if self.quality and images else regions

    def _with_quality(
        self, images: Sequence[DecodedImage], regions: Sequence[Sequence[Region]]
    ) -> list[list[Region]]:
        assert self.quality is not None
        boxes = [_boxes(own) for own in regions]
        with enough_memory():
            predicted = self.quality.quality(images, boxes)
        found = _as_many(predicted, len(images), "the quality predictor", "arrays")
        return [
            [
                replace(region, quality=value)
                for region, value in zip(own, _qualities(values, len(own)), strict=True)
            ]
            for own, values in zip(regions, found, strict=True)
        ]

    def encode_regions(
        self, images: Sequence[DecodedImage], regions: Sequence[Sequence[Region]]
    ) -> list[tuple[Vectors, RegionFeatures | None]]:
        """Unit vectors (n_i, dim) float32 of the regions of images, and features (n_i, f), if any."""
        with enough_memory():
            return encoded_regions(self.encoder, images, [_boxes(own) for own in regions])

    def propose_keywords(self, texts: Sequence[str]) -> list[list[Keyword]]:
        """The keywords of texts; the whole text first if it counts or is all there is, and is not blank."""
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
        return [
            [Keyword(text, 1.0, (0, len(text)), whole=True), *own]
            if text.strip() and (self.options.whole or not own)
            else own
            for text, own in zip(texts, found, strict=True)
        ]

    def encode_keywords(self, keywords: Sequence[Sequence[Keyword]]) -> list[Vectors]:
        """Unit vectors (n_i, dim) float32 of the keywords of texts; each distinct one is encoded once.

        Whole texts are encoded apart: how a vector is rounded may depend on what else is in its batch, and
        keywords should not differ by whether whole texts count.
        """
        row_of: dict[tuple[bool, str], int] = {}
        vectors = [np.empty((0, self.encoder.dim), np.float32)]
        for whole in (False, True):
            distinct = list(dict.fromkeys(one.text for own in keywords for one in own if one.whole is whole))
            if not whole:  # KeyBERT has just read whole texts in the order in which they come
                distinct.sort()
            row_of |= {(whole, text): row for row, text in enumerate(distinct, len(row_of))}
            vectors.append(self.encode_texts(distinct))
        every = np.concatenate(vectors)
        return [every[[row_of[one.whole, one.text] for one in own]] for own in keywords]

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors of words or texts, (n, dim) float32."""
        if not texts:
            return np.empty((0, self.encoder.dim), np.float32)
        return unit_vectors(self.encoder.encode_texts(texts), len(texts), self.encoder)


@contextmanager
def enough_memory() -> Iterator[None]:
    """One sentence where the memory of a GPU does not suffice for what runs image by image.

    Raises:
        MissingError: the block raised ``torch.OutOfMemoryError``.
    """
    try:
        yield
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # by name, for an index is opened without torch
            raise
        from felga.models.fitting import out_of_memory

        raise out_of_memory(error) from error


def identity_of(encoder: Encoder) -> dict[str, Any]:
    """What makes two vectors of an encoder comparable, as json gives it back.

    Raises:
        BadInputError: it contradicts the encoder.
    """
    identity: dict[str, Any] = canonical(dict(encoder.identity()))
    if identity.get("dim") != encoder.dim or not isinstance(identity.get("name"), str):
        raise BadInputError(
            f"encoder {encoder.name!r} has dim {encoder.dim}, its identity says "
            f"{identity.get('dim')} and the name {identity.get('name')!r}"
        )
    return identity


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


def encoded_regions(
    encoder: Encoder, images: Sequence[DecodedImage], boxes: Sequence[Boxes]
) -> list[tuple[Vectors, RegionFeatures | None]]:
    """What an encoder returns for regions: unit vectors (n_i, dim) float32 of each image, and features
    (n_i, f) float16 if it has them.

    Raises:
        BadInputError: it returned something else.
    """
    if not isinstance(encoder, FeatureEncoder):
        vectors = _as_many(encoder.encode_regions(images, boxes), len(images), encoder.name, "arrays")
        return [(unit_vectors(own, len(box), encoder), None) for own, box in zip(vectors, boxes, strict=True)]
    pairs = _as_many(encoder.encode_features(images, boxes), len(images), encoder.name, "pairs of arrays")
    return [
        (unit_vectors(own, len(box), encoder), _features(features, len(box), encoder))
        for (own, features), box in zip(pairs, boxes, strict=True)
    ]


def _features(features: Any, count: int, encoder: FeatureEncoder) -> RegionFeatures:
    features = np.asarray(features)
    shape = (count, encoder.feature_dim)
    if features.shape != shape or features.dtype != np.float16:
        raise BadInputError(
            f"encoder {encoder.name!r} returned features of shape {features.shape} and {features.dtype}, "
            f"expected {shape} and float16"
        )
    if not np.isfinite(features).all():
        raise BadInputError(f"encoder {encoder.name!r} returned a feature that is NaN or infinite")
    checked: RegionFeatures = features
    return checked


def _boxes(regions: Sequence[Region]) -> Boxes:
    return np.array([region.box for region in regions], np.float32).reshape(-1, 4)


def _check_region(region: Region, image: DecodedImage, name: str) -> None:
    """Refuse a box outside of its image, and a quality that is no IoU."""
    x1, y1, x2, y2 = region.box
    if not (-1 <= x1 < x2 <= image.width + 1 and -1 <= y1 < y2 <= image.height + 1):
        raise BadInputError(
            f"region proposer {name!r} returned the box {tuple(region.box)} for "
            f"{image.image_id!r}, which has {image.width}x{image.height} pixels"
        )
    if region.quality is not None and not 0 < region.quality <= 1:
        raise BadInputError(
            f"region proposer {name!r} returned the quality {region.quality} for {image.image_id!r}, "
            "expected an IoU in (0, 1]"
        )


def _qualities(values: Any, count: int) -> list[float]:
    values = np.asarray(values)
    if values.shape != (count,) or not ((values > 0) & (values <= 1)).all():
        raise BadInputError(
            f"the quality predictor returned {values.dtype} of shape {values.shape} for {count} boxes, "
            "expected as many values in (0, 1]"
        )
    found: Scores = values.astype(np.float32)
    return [float(value) for value in found]


def _as_many(found: Any, count: int, name: str, what: str) -> Any:
    if not isinstance(found, Sequence) or len(found) != count:
        size = len(found) if hasattr(found, "__len__") else type(found).__name__
        raise BadInputError(f"{name!r} returned {size} {what} for {count} inputs")
    return found
