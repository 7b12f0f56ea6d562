"""What a method achieves in the two tasks: plain values in [0, 1], as they stand in a results file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from felga.fenet.recipes import TRAINED

UNTRAINED = ("entire", "frozen")
METHODS = (*UNTRAINED, *TRAINED)
"""The rows of the paper's tables, by the names that felga gives them."""
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
class Evaluation:
    """Both tasks, once.

    Attributes:
        seed: of the training; None where nothing was trained.
    """

    object_discovery: TaskResult
    description_assignment: TaskResult
    seed: int | None = None

    def task(self, name: str) -> TaskResult:
        """The result of one of :data:`TASKS`."""
        result: TaskResult = getattr(self, name)
        return result
