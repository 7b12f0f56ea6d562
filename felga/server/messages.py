"""What goes over the wire: questions with their bounds, answers that mirror the hits of the engine."""

from __future__ import annotations

import math
import os
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from felga.asking import ImageOptions
from felga.errors import BadInputError
from felga.files import shown
from felga.questions.doubt import Doubt
from felga.search.confidence import SURE
from felga.types import Box, ImageHit, TextHit

MOST_QUERIES = 64
LONGEST_QUERY = 500  # characters
MOST_HITS = 200
MOST_REGIONS = 20
MOST_IDS, LONGEST_ID = 50, 256  # they may stand in a URL
LARGEST_JSON = 2**20  # bytes of a question

Words: TypeAlias = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=LONGEST_QUERY),
    Field(examples=["boat"]),
]
BoxText: TypeAlias = Annotated[
    str | None,
    Field(
        description="x1,y1,x2,y2 in pixels of the upright image", max_length=200, examples=["10,20,200,180"]
    ),
]
ImageId: TypeAlias = Annotated[str, Field(min_length=1, max_length=4096, examples=["scene-01.png"])]


class HowMany(BaseModel):
    """Bounds that every question shares. Unknown parameters are refused, as they are misspelt ones."""

    model_config = ConfigDict(extra="forbid")

    k: Annotated[int, Field(ge=1, le=MOST_HITS, description="Number of hits.")] = 10
    owner: Annotated[Literal["soft", "max"], Field(description="How fragments become a score.")] = "soft"
    fenet: Annotated[bool, Field(description="False: as before the FENet, by the frozen encoder.")] = True


class AboutImages(HowMany):
    """A question for images."""

    regions: Annotated[int, Field(ge=1, le=MOST_REGIONS, description="Boxes per hit.")] = 1
    whole: Annotated[bool, Field(description="The whole image counts as a region.")] = True
    dedupe: Annotated[bool, Field(description="Of images that look the same, the best alone.")] = False
    exact: Annotated[bool, Field(description="No approximate search, also where there is one.")] = False
    ids: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=LONGEST_ID)], ...] | None,
        Field(max_length=MOST_IDS, description="Only these images."),
    ] = None
    path: Annotated[
        str | None,
        Field(
            min_length=1, max_length=4096, description="Only images whose path matches.", examples=["2024/*"]
        ),
    ] = None
    caption: Annotated[
        str | None,
        Field(min_length=1, max_length=LONGEST_QUERY, description="Only images whose caption contains it."),
    ] = None


class AboutWords(AboutImages):
    """A question for images by words, without the words: what can be asked at once has these in common."""

    quality: Annotated[bool, Field(description="How well a box fits an object counts.")] = True
    min_confidence: Annotated[
        float, Field(ge=0, le=1, description=f"Leave out hits of a lower one; {SURE} is sure.")
    ] = 0.0
    explain: Annotated[bool, Field(description="Give each hit its explanation.")] = False
    same_region: Annotated[bool, Field(description="One region must show all terms of a query.")] = False

    def options(self) -> dict[str, Any]:
        """Arguments of :meth:`felga.engine.Engine.search_all` besides the queries, and ``fenet``."""
        return {name: getattr(self, name) for name in AboutWords.model_fields}


class WordSearch(AboutWords):
    """``GET /api/search?q=boat&q=zebra``."""

    q: Annotated[list[Words], Field(min_length=1, max_length=MOST_QUERIES)]


class WordSearchBody(AboutWords):
    """``POST /api/search``."""

    queries: Annotated[
        list[Words], Field(min_length=1, max_length=MOST_QUERIES, examples=[["boat", "zebra"]])
    ]


class PartSearch(AboutImages):
    """A search by the uploaded image, or by a part of it."""

    box: BoxText = None
    quality: Annotated[bool, Field(description="How well a box fits an object counts.")] = False

    def options(self) -> ImageOptions:
        """Options of :meth:`felga.engine.Engine.search_image`."""
        return cast(ImageOptions, {name: getattr(self, name) for name in ImageOptions.__annotations__})


class IndexedPartSearch(PartSearch):
    """A search by an image of the index, or by a part of it."""

    id: ImageId


class PartAssign(HowMany):
    """Texts for the uploaded image, or for a part of it."""

    box: BoxText = None


class IndexedPartAssign(PartAssign):
    """Texts for an image of the index, or for a part of it."""

    id: ImageId


class Thumbnail(BaseModel):
    """How an image is shown."""

    model_config = ConfigDict(extra="forbid")

    max_side: Annotated[int, Field(ge=16, le=2048, description="Pixels of the longer side, at most.")] = 480
    format: Literal["jpeg", "png"] = "jpeg"


class Crop(Thumbnail):
    """How a part of an image is shown."""

    box: Annotated[str, Field(max_length=200, examples=["10,20,200,180"])]


class ImageAnswer(BaseModel):
    """The images found for one query. The path of a hit is relative to the folder of the images."""

    query: str
    hits: list[ImageHit]
    unknown: Annotated[
        dict[str, list[str]], Field(description="Words that nothing here knows, with the nearest known ones.")
    ] = {}
    doubt: Annotated[
        Doubt | None, Field(description="There is no match: no image surely shows this term of the query.")
    ] = None


class SearchAnswer(BaseModel):
    """The answers in the order of the queries, and the state of the index that gave them."""

    answers: list[ImageAnswer]
    state: int


class SimilarAnswer(BaseModel):
    """The images that look most like the query."""

    hits: list[ImageHit]
    state: int


class TextAnswer(BaseModel):
    """The texts that match the query best."""

    hits: list[TextHit]
    state: int


class UnknownAnswer(BaseModel):
    """Words that neither the index nor its encoder knows, with the nearest known ones."""

    unknown: dict[str, list[str]]


class Info(BaseModel):
    """What is served."""

    felga: str
    index: Annotated[str, Field(description="The name of its folder.")]
    state: Annotated[int, Field(description="Grows by one whenever an update of the index is opened.")]
    opened: Annotated[str, Field(description="When this state was opened, ISO 8601.")]
    images: int
    regions: int
    texts: int
    keywords: int
    encoder: str
    fenet: bool
    measured: Annotated[bool, Field(description="Confidences keep their promise for this index.")]
    sure: Annotated[float, Field(description="The confidence that an answer needs.")] = SURE
    limits: dict[str, int]


class Health(BaseModel):
    """``stale``: the index was updated, and the update cannot be opened; the state before it is served."""

    status: Literal["ok", "stale"]
    state: int
    error: str | None = None


class Failure(BaseModel):
    """Any answer that is not a success."""

    error: Annotated[str, Field(description="One sentence.")]


def parse_box(text: str | None) -> Box | None:
    """The box of a question.

    Raises:
        BadInputError: not four finite numbers.
    """
    if text is None:
        return None
    try:
        x1, y1, x2, y2 = (float(part) for part in text.split(","))
    except ValueError:
        x1 = y1 = x2 = y2 = math.nan
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        raise BadInputError(f"box {text!r} is not a box: expected x1,y1,x2,y2 in pixels, e.g. 10,20,200,180")
    return x1, y1, x2, y2


def inner_path(path: str, root: str | os.PathLike[str]) -> str:
    """A path relative to the folder of the images: how this machine names it is nobody's business."""
    inside = os.path.relpath(path, root)
    return shown(os.path.basename(path) if inside.startswith("..") else inside)
