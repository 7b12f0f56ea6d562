"""The words of felga: region, keyword, fragment, box, owner, score, and the protocols of its parts.

A *fragment* is a region of an image or a keyword of a text. Its *owner* is that image or text. Boxes
are absolute ``x1, y1, x2, y2`` pixels of the upright (EXIF-turned) original image, everywhere.
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
Scores: TypeAlias = npt.NDArray[np.float32]
Rows: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
Flags: TypeAlias = npt.NDArray[np.bool_]
Transform: TypeAlias = Callable[[Vectors], Vectors]
"""Unit vectors (n, dim) to unit vectors (n, dim'): what a FENet does."""
Progress: TypeAlias = Callable[[str, int, int], None]
"""``progress(stage, done, total)``, called as work proceeds; ``stage`` names what is counted."""


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """One decoded image, upright.

    Attributes:
        image_id: the name that its corpus gives it.
        pixels: (h, w, 3) uint8 RGB; a very large image is reduced when it is decoded, so ``(w, h)``
            may be less than ``(width, height)``.
        width, height: pixels of the upright original; every box refers to these.
    """

    image_id: str
    pixels: Pixels
    width: int
    height: int

    def in_pixels(self, boxes: Boxes) -> Boxes:
        """``boxes`` (n, 4) of the original, scaled to :attr:`pixels`."""
        height, width = self.pixels.shape[:2]
        scale = np.array([width / self.width, height / self.height] * 2, np.float32)
        return np.asarray(boxes, np.float32).reshape(-1, 4) * scale

    @property
    def whole(self) -> Box:
        """The box of the whole image."""
        return (0.0, 0.0, float(self.width), float(self.height))


@dataclass(frozen=True, slots=True)
class Region:
    """A proposed part of an image: a box and the proposer's own score (bigger is better)."""

    box: Box
    score: float
    whole: bool = False
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Keyword:
    """A proposed part of a text: ``text[span[0]:span[1]]`` reads it, but for its case.

    A phrase whose words do not stand side by side in the text (a stop word between them) has the span
    from its first word to its last.
    """

    text: str
    score: float
    span: tuple[int, int]


@dataclass(frozen=True, slots=True)
class RegionHit:
    """A region of an image that was found, with its score for the query."""

    box: Box
    score: float
    whole: bool = False


@dataclass(frozen=True, slots=True)
class ImageHit:
    """An image that was found; its score is that of ``regions[0]``, its best region."""

    rank: int
    image_id: str
    path: str
    score: float
    regions: tuple[RegionHit, ...]


@dataclass(frozen=True, slots=True)
class TextHit:
    """A text that was found; its score is that of ``keyword``, its best keyword."""

    rank: int
    text_id: str
    text: str
    score: float
    keyword: str
    span: tuple[int, int]


@runtime_checkable
class RegionProposer(Protocol):
    """Proposes regions: class-agnostic, best first."""

    name: str

    def settings(self) -> Mapping[str, Any]:
        """What makes two runs propose the same: json values, weights by their sha256."""
        ...

    def propose(self, images: Sequence[DecodedImage], top: int) -> list[list[Region]]:
        """For each image at most ``top`` regions, best first, never the whole image.

        Deterministic: the same image has the same regions, whatever else is in the call. May be
        called from several threads.
        """
        ...


@runtime_checkable
class KeywordProposer(Protocol):
    """Proposes keywords: the words or phrases that a text is about, best first."""

    name: str

    def settings(self) -> Mapping[str, Any]:
        """What makes two runs propose the same: json values, weights by their sha256."""
        ...

    def propose(self, texts: Sequence[str], top: int) -> list[list[Keyword]]:
        """For each text at most ``top`` keywords, best first, no two alike."""
        ...


@runtime_checkable
class Encoder(Protocol):
    """A frozen vision-language model: regions and texts as unit vectors of one space.

    A tower is loaded when it is first used, so that a search by a word never loads the visual one.
    """

    name: str
    dim: int

    def identity(self) -> Mapping[str, Any]:
        """What makes two vectors comparable: ``name``, ``dim``, ``weights`` by sha256, ``preprocessing``,
        and ``pooling`` where there is a choice (it reaches the factory again). Json values."""
        ...

    def encode_regions(self, images: Sequence[DecodedImage], boxes: Sequence[Boxes]) -> list[Vectors]:
        """Unit vectors of regions; ``boxes[i]`` (n_i, 4) of ``images[i]`` give (n_i, dim) float32.

        A crop of an image is that image with a box; the whole image is :attr:`Image.whole`.
        """
        ...

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors of words, phrases or sentences: (n, dim) float32."""
        ...
