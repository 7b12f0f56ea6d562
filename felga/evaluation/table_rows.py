"""Every figure of the tables as a flat row: those of the paper's Tables 1-5, and what it did not measure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from felga.errors import BadInputError
from felga.evaluation.paper_numbers import PAPER, Row, comparable
from felga.evaluation.results import MethodResults, Results
from felga.evaluation.task_results import METHODS, OWNER_LOSS, TASKS, Localisation, TaskResult

BESIDE = 0
"""The number of the table that the paper has not: soft owner scores, boxes, the diagnostic."""
TABLES = (*PAPER, BESIDE)
SIZE_NAMES = ("small", "medium", "large")
_LABELS = {row.method: row.label for rows in PAPER.values() for row in rows} | {
    "felga": "FELGA",
    "random": "random labels",
}
_SUFFIXES = {"": "", " soft": ", soft", " quality": ", quality", " soft quality": ", soft, quality"}


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row and task of one table; all figures in percent, None where nothing was measured.

    Attributes:
        table: of the paper, or :data:`BESIDE`.
        method: of :data:`felga.evaluation.task_results.METHODS`, or in :data:`BESIDE` one of its ``ROWS``.
        task: one of ``TASKS``, or in :data:`BESIDE` a measure of boxes or of the diagnostic.
        paper: None for a row that the paper has not.
        ours, std: mean and standard deviation over seeds.
        difference: ours - paper, in points; None unless encoder and data are the paper's.
        optimistic, pessimistic: bounds over the orders of ties.
        chance, ceiling: of a random choice, and what the proposals or keywords allow.
        seeds: number of runs.
    """

    table: int
    method: str
    label: str
    task: str
    paper: float | None = None
    ours: float | None = None
    std: float | None = None
    difference: float | None = None
    optimistic: float | None = None
    pessimistic: float | None = None
    chance: float | None = None
    ceiling: float | None = None
    seeds: int = 0


@dataclass(frozen=True, slots=True)
class _Measure:
    """A figure of localisation, and where its chance and ceiling are."""

    name: str
    value: Callable[[Localisation], float | None]
    chance: Callable[[Localisation], float | None] = lambda found: None
    ceiling: Callable[[Localisation], float | None] = lambda found: None


def _grounded(name: str) -> Callable[[Localisation], float | None]:
    def value(found: Localisation) -> float | None:
        return None if found.grounding is None else getattr(found.grounding, name)

    return value


def _of_size(part: str, size: str) -> Callable[[Localisation], float | None]:
    def value(found: Localisation) -> float | None:
        measured: Any = getattr(found, part)
        if measured is None:
            return None
        entry = measured.per_size.get(size)
        share: float | None = getattr(entry, "share", entry)
        return share

    return value


MEASURES: tuple[_Measure, ...] = (
    _Measure("winning box right", lambda x: x.winning_boxes.fits, ceiling=lambda x: x.winning_boxes.oracle),
    *(_Measure(f"winning box right, {size}", _of_size("winning_boxes", size)) for size in SIZE_NAMES),
    _Measure(
        "mean IoU of the winning box",
        lambda x: x.winning_boxes.mean_iou,
        ceiling=lambda x: x.winning_boxes.oracle_mean_iou,
    ),
    _Measure("AP", lambda x: x.detection.ap),
    _Measure("AP50", lambda x: x.detection.ap50),
    *(_Measure(f"AP, {size}", _of_size("detection", size)) for size in SIZE_NAMES),
    _Measure("phrase grounding", _grounded("accuracy"), _grounded("chance"), _grounded("oracle")),
    *(_Measure(f"phrase grounding, {size}", _of_size("grounding", size)) for size in SIZE_NAMES),
    _Measure("phrase grounding in given boxes", _grounded("accuracy_of_boxes"), _grounded("chance_of_boxes")),
)
"""Tasks of :data:`BESIDE` besides the two of the paper."""
DIAGNOSTIC: dict[str, str] = {
    "keyword": "variance within pairs: keyword",
    "region": "variance within pairs: region",
    "interaction": "variance within pairs: interaction",
    "within_image": "mean cosine within an image",
    "between_images": "mean cosine between images",
    "within_image_centred": "mean cosine within an image, centred",
    "between_images_centred": "mean cosine between images, centred",
}
"""Field of :class:`felga.evaluation.task_results.Diagnostic` -> its task in :data:`BESIDE`."""


def table_rows(results: Results, tables: Sequence[int] = TABLES) -> list[TableRow]:
    """One row per table, method and task.

    Args:
        tables: which of the paper's, and :data:`BESIDE`.

    Raises:
        BadInputError: no such table.
    """
    if unknown := [number for number in tables if number not in TABLES]:
        raise BadInputError(f"the paper has no table {unknown[0]}; it has {min(PAPER)}-{max(PAPER)}")
    rows = []
    for number in tables:
        if number == BESIDE:
            rows += beside_rows(results)
            continue
        for row in _rows_of(results, number):
            rows += [_table_row(results, number, *row, task) for task in TASKS]
    return rows


def _rows_of(results: Results, number: int) -> list[tuple[str, str, Row | None]]:
    """Method, label and the paper's row: the paper's own, then what was measured beside them.

    Owner losses stand in the ablations (Tables 4 and 5), other pseudo-labels where the paper compares them.
    """
    own = [(row.method, row.label, row) for row in PAPER[number]]
    of_paper = {row.method for rows in PAPER.values() for row in rows}
    more = [name for name in METHODS if name in results.results and name not in of_paper]
    return own + [
        (name, label_of(name), None)
        for name in more
        if number == 5 or name.endswith(OWNER_LOSS) == (number == 4)
    ]


def label_of(row: str) -> str:
    """The label of a row of results."""
    method, _, _ = row.partition(" ")
    base = method.removesuffix(OWNER_LOSS)
    label = _LABELS.get(base, base) + (" + owner loss" if base != method else "")
    return label + _SUFFIXES[row.removeprefix(method)]


def _table_row(
    results: Results, number: int, method: str, label: str, row: Row | None, task: str
) -> TableRow:
    entry = results.results.get(method)
    paper = row.paper(results.year, task) if row else None
    measured = (entry.task(task), len(entry.seeds)) if entry else (None, 0)
    found = _figures(results, number, method, task, *measured)
    difference = None
    if paper is not None and found.ours is not None and comparable(results, number):
        difference = found.ours - paper
    return replace(found, label=label, paper=paper, difference=difference)


def _figures(
    results: Results, number: int, method: str, task: str, found: TaskResult | None, seeds: int
) -> TableRow:
    """One of the two tasks, without the paper's number."""
    return TableRow(
        table=number,
        method=method,
        label=label_of(method),
        task=task,
        ours=percent(found.map if found else None),
        std=percent(found.map_std if found else None),
        optimistic=percent(found.map_optimistic if found else None),
        pessimistic=percent(found.map_pessimistic if found else None),
        chance=percent(found.chance.map if found else None),
        ceiling=percent(results.ceiling.get(task)),
        seeds=seeds,
    )


def beside_rows(results: Results) -> list[TableRow]:
    """The rows of :data:`BESIDE`: both tasks and all measures of boxes for each row; the diagnostic."""
    rows = []
    for name, entry in results.results.items():
        for task in TASKS:
            rows.append(_figures(results, BESIDE, name, task, entry.task(task), len(entry.seeds)))
        if entry.localisation is not None:
            rows += [_measure(name, entry, measure) for measure in MEASURES]
    if results.diagnostic is not None:
        for field, task in DIAGNOSTIC.items():
            value = percent(getattr(results.diagnostic, field))
            rows.append(TableRow(BESIDE, "frozen", label_of("frozen"), task, ours=value, seeds=1))
    return rows


def _measure(name: str, entry: MethodResults, measure: _Measure) -> TableRow:
    mean: Localisation = entry.localisation  # type: ignore[assignment]
    each = [measure.value(run.localisation) for run in entry.seeds if run.localisation is not None]
    known = [value for value in each if value is not None]
    return TableRow(
        table=BESIDE,
        method=name,
        label=label_of(name),
        task=measure.name,
        ours=percent(measure.value(mean)),
        std=percent(statistics.stdev(known)) if len(known) > 1 else None,
        chance=percent(measure.chance(mean)),
        ceiling=percent(measure.ceiling(mean)),
        seeds=len(entry.seeds),
    )


def percent(value: float | None) -> float | None:
    """In percent."""
    return None if value is None else 100.0 * value
