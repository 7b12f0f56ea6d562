"""What a method achieves in the two tasks: plain values in [0, 1], as they stand in a results file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NewType, TypeAlias

from felga.fenet.recipes import TRAINED

Cosine = NewType("Cosine", float)
"""A number in [-1, 1]."""
Owner: TypeAlias = Literal["max", "soft"]
"""What an image or text scores (:mod:`felga.evaluation.ranking`)."""

UNTRAINED = ("entire", "frozen")
OWNER_LOSS = "+owner"
METHODS = tuple(dict.fromkeys((*UNTRAINED, *TRAINED, f"felga{OWNER_LOSS}")))
"""The rows of the paper's tables, by the names that felga gives them, and rows beside them: ``felga+owner``
adds the owner loss (``lambda4``), which no other row has."""
SCORINGS: dict[str, tuple[Owner, bool]] = {
    "": ("max", False),
    " soft": ("soft", False),
    " quality": ("max", True),
    " soft quality": ("soft", True),
}
"""What follows a method's name in a row of results -> how its owners score, and whether the quality of
regions counts. Without a suffix: the paper's protocol."""
ROWS = tuple(f"{method}{suffix}" for method in METHODS for suffix in SCORINGS)
"""All names of rows in a results file."""
TASKS = ("object_discovery", "description_assignment")


@dataclass(frozen=True, slots=True)
class Means:
    """Mean metrics; None where no query counts."""

    map: float | None
    r1: float | None = field(metadata={"json": "r@1"})
    r5: float | None = field(metadata={"json": "r@5"})
    r10: float | None = field(metadata={"json": "r@10"})
    ndcg10: float | None = field(metadata={"json": "ndcg@10"})


@dataclass(frozen=True, slots=True)
class SizeResult:
    """The mAP of the queries of one object size; None without any."""

    map: float | None
    queries: int


@dataclass(frozen=True, slots=True)
class TaskResult:
    """Means over the queries that count: those with at least one relevant owner. None where none counts.

    Attributes:
        map: mean average precision, with scikit-learn's convention for ties.
        map_optimistic, map_pessimistic: with the best and the worst order of ties.
        r1, r5, r10, ndcg10: R@k and nDCG@10, expected over the orders of ties.
        chance: expected for a random order.
        queries, left_out: how many count, and how many have no relevant owner.
        per_class: class name -> AP (discovery) or mean AP of its boxes (assignment); None where the class
            does not occur.
        per_size: ``small``, ``medium`` and ``large`` objects.
        map_std: sample standard deviation of the mAP over seeds; None with one seed.
    """

    map: float | None
    map_optimistic: float | None
    map_pessimistic: float | None
    r1: float | None = field(metadata={"json": "r@1"})
    r5: float | None = field(metadata={"json": "r@5"})
    r10: float | None = field(metadata={"json": "r@10"})
    ndcg10: float | None = field(metadata={"json": "ndcg@10"})
    chance: Means
    queries: int
    left_out: int
    per_class: Mapping[str, float | None] = field(default_factory=dict)
    per_size: Mapping[str, SizeResult] = field(default_factory=dict)
    map_std: float | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """A share, and of how many; None of none."""

    share: float | None
    of: int


@dataclass(frozen=True, slots=True)
class WinningBoxes:
    """The winning regions of the first images that show the class
    (:func:`felga.evaluation.localisation.winning_boxes`).

    Attributes:
        fits: share with IoU >= 0.5 with an object of the class.
        mean_iou: with the object of the class that it fits best.
        oracle, oracle_mean_iou: the same of the best region of each image.
        whole: share of winning regions that are the whole image.
        images: how many.
        per_size: ``fits`` by the size of the image's largest object of the class.
    """

    fits: float | None
    mean_iou: float | None
    oracle: float | None
    oracle_mean_iou: float | None
    whole: float | None
    images: int
    per_size: Mapping[str, Share]


@dataclass(frozen=True, slots=True)
class Detection:
    """COCO's AP over IoU 0.5 to 0.95, AP at 0.5, and AP by size; means over the classes that occur."""

    ap: float | None
    ap50: float | None
    per_size: Mapping[str, float | None]
    classes: int


@dataclass(frozen=True, slots=True)
class Grounding:
    """Phrases that name one box (:func:`felga.evaluation.localisation.grounding`).

    Attributes:
        accuracy: over the proposals.
        oracle: share of phrases with a proposal that fits.
        chance: of a proposal at random.
        accuracy_of_boxes, chance_of_boxes: over the ground-truth boxes of the image.
        phrases: how many.
        per_size: ``accuracy`` by the size of the box.
    """

    accuracy: float | None
    oracle: float | None
    chance: float | None
    accuracy_of_boxes: float | None
    chance_of_boxes: float | None
    phrases: int
    per_size: Mapping[str, Share]


@dataclass(frozen=True, slots=True)
class Localisation:
    """Whether boxes are right; ``grounding`` is None without phrases."""

    winning_boxes: WinningBoxes
    detection: Detection
    grounding: Grounding | None = None


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """What frozen fragments tell apart (:func:`felga.evaluation.diagnostic.diagnose`).

    Attributes:
        keyword, region, interaction: shares of the variance of cosines within a pair; None without any.
        pairs: over how many pairs they are the mean.
        within_image, between_images: mean cosine of two regions of one image, and of different images.
        within_image_centred, between_images_centred: the same after subtracting the mean vector.
    """

    keyword: float | None
    region: float | None
    interaction: float | None
    pairs: int
    within_image: Cosine | None
    between_images: Cosine | None
    within_image_centred: Cosine | None
    between_images_centred: Cosine | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Both tasks, once.

    Attributes:
        seed: of the training; None where nothing was trained.
        localisation: None where regions have no boxes to judge, as of whole images.
    """

    object_discovery: TaskResult
    description_assignment: TaskResult
    seed: int | None = None
    localisation: Localisation | None = None

    def task(self, name: str) -> TaskResult:
        """The result of one of :data:`TASKS`."""
        result: TaskResult = getattr(self, name)
        return result
