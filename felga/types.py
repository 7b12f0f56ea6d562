"""The vocabulary of felga: region, keyword, fragment, box, owner, score; and the protocols of its parts.

A *fragment* is a region of an image or a keyword of a text. Its *owner* is that image or text. Boxes are
absolute ``x1, y1, x2, y2`` pixels of the upright (EXIF-rotated) original image, everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

Box: TypeAlias = tuple[float, float, float, float]
Boxes: TypeAlias = npt.NDArray[np.float32]
"""(n, 4) float32, ``x1, y1, x2, y2`` pixels of the upright original image."""
Pixels: TypeAlias = npt.NDArray[np.uint8]
"""(height, width, 3) uint8, RGB."""
Vectors: TypeAlias = npt.NDArray[np.float32]
"""(n, dim) float32, each row of length 1."""
RegionFeatures: TypeAlias = npt.NDArray[np.float16]
"""(n, feature_dim) float16, not normalized: what an encoder's network saw of each region before its head."""
Scores: TypeAlias = npt.NDArray[np.float32]
Rows: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
Flags: TypeAlias = npt.NDArray[np.bool_]
GENERATED = "#generated"
"""The end of the id of a text that a network wrote."""
Progress: TypeAlias = Callable[[str, int, int], None]
"""``progress(stage, done, total)``, called as work proceeds; ``stage`` names what is counted."""


def is_generated(text_id: str) -> bool:
    """Whether a network wrote the text of this id."""
    return text_id.endswith(GENERATED)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class DecodedImage:
    """A decoded image, upright. It may be referred to weakly: what was computed of it can go with it.

    Attributes:
        image_id: its id in the corpus.
        pixels: (h, w, 3) uint8 RGB. Very large images are downscaled while decoding, so ``(w, h)`` may be
            smaller than ``(width, height)``.
        width, height: size of the upright original in pixels; every box refers to these.
    """

    image_id: str
    pixels: Pixels
    width: int
    height: int

    def in_pixels(self, boxes: Boxes) -> Boxes:
        """Boxes (n, 4) of the original, scaled to :attr:`pixels`."""
        height, width = self.pixels.shape[:2]
        scale = np.array([width / self.width, height / self.height] * 2, np.float32)
        return np.asarray(boxes, np.float32).reshape(-1, 4) * scale

    @property
    def whole(self) -> Box:
        """The box of the whole image."""
        return (0.0, 0.0, float(self.width), float(self.height))


@dataclass(frozen=True, slots=True)
class Region:
    """A proposed part of an image: a box and the proposer's score (bigger is better).

    Attributes:
        whole: the region is the whole image.
        label: the class assigned by the detector, if the proposer has classes.
        quality: predicted IoU of the box with an object, in (0, 1]; None: not predicted.
    """

    box: Box
    score: float
    whole: bool = False
    label: str | None = None
    quality: float | None = None


@dataclass(frozen=True, slots=True)
class Keyword:
    """A proposed part of a text; ``text[span[0]:span[1]]`` is the keyword, up to case.

    If the words of a phrase are not adjacent (a stop word in between), the span runs from the first word
    to the last.

    Attributes:
        whole: the keyword is the whole text.
    """

    text: str
    score: float
    span: tuple[int, int]
    whole: bool = False


@dataclass(frozen=True, slots=True)
class RegionHit:
    """A region of an image with its score for the query: meaning and quality together.

    Attributes:
        similarity: the cosine between the query and the region: its meaning alone.
        quality: predicted IoU of the box with an object, in (0, 1]; None: not predicted.
        label: the class assigned by the detector, if the proposer has classes.
        term: which term of a query of several it shows; None: the query is one.
    """

    box: Box
    score: float
    whole: bool = False
    label: str | None = None
    similarity: float = float("nan")
    quality: float | None = None
    term: str | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why an image was found.

    Attributes:
        percentile: the share of the images of the index that score less for the query, in %.
        rivals: words that mean something else and fit the best region better, best first.
        keywords: the keywords of the index that are nearest to the best region, nearest first.
        term: of a query of several terms, the one that is explained: the least sure one.
    """

    percentile: float
    rivals: tuple[str, ...]
    keywords: tuple[str, ...]
    term: str | None = None


@dataclass(frozen=True, slots=True)
class ImageHit:
    """A matching image: its score, and its best regions, best first.

    Attributes:
        width, height: of the upright image in pixels; 0 where nobody said.
        confidence: one less the share of queries for absent things that do as well, in [0, 1]; comparable
            between queries (:mod:`felga.search.confidence`). None: the query was an image; or this was not
            measured for the encoder, or without a FENet, and not asked for.
        explanation: None unless asked for.
    """

    rank: int
    image_id: str
    path: str
    score: float
    regions: tuple[RegionHit, ...]
    width: int = 0
    height: int = 0
    confidence: float | None = None
    explanation: Explanation | None = None


@dataclass(frozen=True, slots=True)
class TextHit:
    """A matching text: its score, and its best keyword; a text without keywords is its own."""

    rank: int
    text_id: str
    text: str
    score: float
    keyword: str
    span: tuple[int, int]

    @property
    def generated(self) -> bool:
        """A network wrote it (``felga index --describe``)."""
        return is_generated(self.text_id)


@runtime_checkable
class RegionProposer(Protocol):
    """Proposes regions, class-agnostic, best first. Every method may be called from several threads."""

    @property
    def name(self) -> str:
        """The name under which it can be made again."""
        ...

    def settings(self) -> Mapping[str, Any]:
        """Everything that decides its output: json values, weights by sha256, a ``version`` of its code."""
        ...

    def propose(self, images: Sequence[DecodedImage], top: int) -> list[list[Region]]:
        """At most ``top`` regions per image, best first, never the whole image.

        Deterministic: an image gets the same regions whatever else is in the call.
        """
        ...


@runtime_checkable
class QualityPredictor(Protocol):
    """Predicts how well boxes fit an object, whoever proposed them. Every method may be called from several
    threads."""

    def settings(self) -> Mapping[str, Any]:
        """Everything that decides its output: json values, weights by sha256, a ``version`` of its code."""
        ...

    def quality(self, images: Sequence[DecodedImage], boxes: Sequence[Boxes]) -> list[Scores]:
        """IoU with an object, in (0, 1]: ``boxes[i]`` (n_i, 4) of ``images[i]`` -> (n_i,) float32."""
        ...


@runtime_checkable
class KeywordProposer(Protocol):
    """Proposes keywords: the words or phrases a text is about. Every method may be called from several
    threads."""

    @property
    def name(self) -> str:
        """The name under which it can be made again."""
        ...

    def settings(self) -> Mapping[str, Any]:
        """Everything that decides its output: json values, weights by sha256, a ``version`` of its code."""
        ...

    def propose(self, texts: Sequence[str], top: int) -> list[list[Keyword]]:
        """At most ``top`` distinct keywords per text, best first, never as :attr:`Keyword.whole`."""
        ...


@runtime_checkable
class Encoder(Protocol):
    """A frozen vision-language model: regions and texts as unit vectors in one space.

    A tower is loaded on first use, so that a text query never loads the visual one. Every method may be
    called from several threads.
    """

    @property
    def name(self) -> str:
        """The name under which it can be made again."""
        ...

    @property
    def dim(self) -> int:
        """Length of its vectors."""
        ...

    def identity(self) -> Mapping[str, Any]:
        """What makes two vectors comparable, as json values.

        ``name``, ``dim``, ``weights`` (sha256), ``preprocessing``; ``pooling`` where there is a choice (it
        is passed to the factory again); ``version`` where felga's own code decides the vectors.
        """
        ...

    def encode_regions(self, images: Sequence[DecodedImage], boxes: Sequence[Boxes]) -> list[Vectors]:
        """Unit vectors of regions: ``boxes[i]`` (n_i, 4) of ``images[i]`` -> (n_i, dim) float32.

        The whole image is the region :attr:`DecodedImage.whole`.
        """
        ...

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors of words, phrases or sentences: (n, dim) float32."""
        ...


@runtime_checkable
class FeatureEncoder(Encoder, Protocol):
    """An encoder that also hands out what its network saw of a region, for a FENet that learns from it."""

    @property
    def feature_dim(self) -> int:
        """Length of the features of a region."""
        ...

    def encode_features(
        self, images: Sequence[DecodedImage], boxes: Sequence[Boxes]
    ) -> list[tuple[Vectors, RegionFeatures]]:
        """:meth:`encode_regions` with the features beside the vectors, from the same forward passes.

        Returns:
            Per image the vectors (n_i, dim) float32, equal to those of :meth:`encode_regions`, and the
            features (n_i, feature_dim) float16.
        """
        ...


class Embedding(Protocol):
    """From frozen vectors to the fragment embeddings that are searched: a FENet, or the identity."""

    def regions(self, vectors: Vectors, features: RegionFeatures | None) -> Vectors:
        """Embeddings (n, dim') of regions, of length 1.

        Args:
            vectors: (n, dim) of the encoder.
            features: (n, feature_dim), None where the encoder has none.
        """
        ...

    def keywords(self, vectors: Vectors) -> Vectors:
        """Embeddings (n, dim') of words, phrases or sentences, of length 1; vectors (n, dim)."""
        ...


class Frozen:
    """The :class:`Embedding` of a frozen encoder: its vectors unchanged."""

    def regions(self, vectors: Vectors, features: RegionFeatures | None = None) -> Vectors:
        """The vectors themselves."""
        return vectors

    def keywords(self, vectors: Vectors) -> Vectors:
        """The vectors themselves."""
        return vectors
