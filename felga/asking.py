"""How images are asked for: the options that the engine, its client and the server share."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias, TypedDict

from felga.errors import BadInputError

OwnerScore: TypeAlias = Literal["soft", "max"]


class ImageOptions(TypedDict, total=False):
    """Options of a search by words or by an image.

    Attributes:
        regions: boxes per hit: the best ones, none overlapping a better one by an IoU above 0.5. [1]
        whole: the whole image counts as a region. [True]
        quality: a region scores ``cos + 0.1 ln(quality)``
            (:class:`felga.search.scoring.MeaningAndQuality`); False, or where it is unknown: its cosine.
            [True; by an image False: an image finds itself, be it an object or not]
        owner: ``soft``: an image scores ``(best region + cosine of the whole image / 2) / 1.5``
            (:class:`felga.search.rules.BestAndWhole`); ``max``: its best region (FELGA, 4.3). ["soft"]
        dedupe: leave out images that copy a better hit (:func:`felga.search.duplicates.without_copies`);
            still ``k``, still exact. [False]
        exact: look at every region, also where the index has an approximate search. [False]
        ids: only images with these ids. [None: all]
        path: only images whose path below the corpus matches this glob, ``*`` also across folders. [None]
        caption: only images with a caption that contains this text, whatever its case. [None]
    """

    regions: int
    whole: bool
    quality: bool
    owner: OwnerScore
    dedupe: bool
    exact: bool
    ids: Collection[str] | None
    path: str | None
    caption: str | None


class WordOptions(ImageOptions, total=False):
    """Options of a search by words; beside :class:`ImageOptions`:

    Attributes:
        min_confidence: leave out hits of a lower confidence. At 0.95 at most one query for an absent thing in
            twenty gets a hit (:mod:`felga.search.confidence`). [0]
        explain: give each hit its explanation. [False]
        same_region: one box, and not the whole image, must show all terms. [False]
    """

    min_confidence: float
    explain: bool
    same_region: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """:class:`WordOptions`, complete and checked.

    Raises:
        BadInputError: ``regions`` is below 1, ``owner`` is neither, ``min_confidence`` is not in [0, 1], or
            ``ids`` is one string.
    """

    regions: int = 1
    whole: bool = True
    quality: bool = True
    owner: OwnerScore = "soft"
    dedupe: bool = False
    exact: bool = False
    ids: Collection[str] | None = None
    path: str | None = None
    caption: str | None = None
    min_confidence: float = 0.0
    explain: bool = False
    same_region: bool = False

    def __post_init__(self) -> None:
        at_least_one(regions=self.regions)
        check_owner(self.owner)
        if not 0 <= self.min_confidence <= 1:
            raise BadInputError(f"min_confidence must lie between 0 and 1, got {self.min_confidence}")
        if isinstance(self.ids, str):
            raise BadInputError(f"ids are a list of image ids, got the string {self.ids!r}")

    @classmethod
    def by_image(cls, options: Mapping[str, Any]) -> Self:
        """Options of a search by an image, whose quality does not count unless asked for."""
        if unknown := options.keys() - ImageOptions.__annotations__.keys():
            raise TypeError(f"a search by an image has no option {min(unknown)!r}")
        return cls(**{"quality": False, **options})

    @property
    def filtered(self) -> bool:
        """Whether only some images may be hits."""
        return not (self.ids is None and self.path is None and self.caption is None)

    def values(self) -> dict[str, Any]:
        """Every option by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def check_queries(queries: Collection[str]) -> None:
    """Refuse what is not a list of words or phrases.

    Raises:
        BadInputError: says which is not.
    """
    if isinstance(queries, str):
        raise BadInputError("search_all takes a list of queries, got one string: use search")
    for query in queries:
        if not isinstance(query, str) or not query.strip():
            raise BadInputError(f"a query must be a word or a phrase, got {query!r}")


def check_owner(owner: OwnerScore) -> OwnerScore:
    """``owner``, if it is one.

    Raises:
        BadInputError: it is not.
    """
    if owner not in ("soft", "max"):
        raise BadInputError(f"there is no owner score {owner!r}: use 'soft' or 'max'")
    return owner


def at_least_one(**values: int) -> None:
    """Refuse numbers below 1.

    Raises:
        BadInputError: names the first.
    """
    for name, value in values.items():
        if value < 1:
            raise BadInputError(f"{name} must be at least 1, got {value}")
