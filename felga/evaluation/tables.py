"""Tables 1-5 of the FELGA paper, with an encoder's results beside the paper's numbers."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Literal, TypeAlias

from felga.errors import BadInputError
from felga.evaluation.results import Results
from felga.evaluation.task_results import TASKS, TaskResult

Format: TypeAlias = Literal["markdown", "json", "csv"]


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the paper: mAP in percent, (object discovery, description assignment) for each COCO year."""

    method: str
    label: str
    coco2017: tuple[float, float]
    coco2014: tuple[float, float]

    def paper(self, year: int, task: str) -> float:
        """The paper's number."""
        return (self.coco2017 if year == 2017 else self.coco2014)[TASKS.index(task)]


TITLES: dict[int, str] = {
    1: "mAP of different methods with CLIP",
    2: "mAP of different methods with BLIP",
    3: "mAP of different methods with BLIPv2",
    4: "Ablation of local-level and global-level alignment, with CLIP",
    5: "Ablation of adding global-level alignment, with CLIP",
}

PAPER: dict[int, tuple[Row, ...]] = {
    1: (
        Row("entire", "entire image/sentence", (50.7, 38.6), (50.7, 39.3)),
        Row("frozen", "proposals", (50.7, 35.6), (50.7, 36.2)),
        Row("dense", "Dense", (50.9, 39.2), (50.5, 39.5)),
        Row("sparse", "Sparse", (59.4, 40.3), (54.7, 41.0)),
        Row("dynamic", "Dynamic", (57.5, 41.0), (56.9, 41.7)),
        Row("felga", "FELGA", (63.1, 42.2), (63.6, 42.8)),
    ),
    2: (
        Row("entire", "entire image/sentence", (45.8, 36.3), (46.4, 36.6)),
        Row("frozen", "proposals", (42.4, 39.5), (40.1, 40.4)),
        Row("dense", "Dense", (53.3, 41.5), (54.0, 42.0)),
        Row("sparse", "Sparse", (53.7, 41.1), (50.0, 40.8)),
        Row("dynamic", "Dynamic", (58.7, 44.6), (58.6, 45.2)),
        Row("felga", "FELGA", (66.4, 46.1), (66.1, 46.7)),
    ),
    3: (
        Row("entire", "entire image/sentence", (55.3, 35.1), (55.6, 35.5)),
        Row("frozen", "proposals", (52.6, 39.1), (52.2, 39.6)),
        Row("dense", "Dense", (56.8, 42.9), (57.1, 43.3)),
        Row("sparse", "Sparse", (64.2, 42.0), (59.3, 41.9)),
        Row("dynamic", "Dynamic", (62.7, 43.7), (62.4, 44.2)),
        Row("felga", "FELGA", (69.7, 45.5), (69.9, 46.3)),
    ),
    4: (
        Row("dynamic", "local-level only", (57.5, 41.0), (56.9, 41.7)),
        Row("global", "global-level only", (59.8, 34.6), (58.9, 35.7)),
        Row("felga", "local-level and global-level", (63.1, 42.2), (63.6, 42.8)),
    ),
    5: (
        Row("dense", "Dense", (50.9, 39.2), (50.5, 39.5)),
        Row("dense+global", "Dense + global alignment", (59.6, 41.7), (60.7, 41.7)),
        Row("sparse", "Sparse", (59.4, 40.3), (54.7, 41.0)),
        Row("sparse+global", "Sparse + global alignment", (61.0, 41.0), (59.6, 41.6)),
        Row("dynamic", "Dynamic", (57.5, 41.0), (56.9, 41.7)),
        Row("felga", "Dynamic + global alignment (FELGA)", (63.1, 42.2), (63.6, 42.8)),
    ),
}
"""The paper's numbers, mAP in percent, transcribed from its Tables 1-5."""


@dataclass(frozen=True, slots=True)
class TableRow:
    """A method and task of one table; mAP in percent, None where nothing was measured.

    Attributes:
        ours, std: mean and standard deviation over seeds.
        difference: ours - paper, in points.
        optimistic, pessimistic: bounds over the orders of ties.
        seeds: number of runs.
    """

    table: int
    method: str
    label: str
    task: str
    paper: float
    ours: float | None
    std: float | None
    difference: float | None
    optimistic: float | None
    pessimistic: float | None
    chance: float | None
    ceiling: float | None
    seeds: int


def table_rows(results: Results, tables: Sequence[int] = tuple(PAPER)) -> list[TableRow]:
    """One row per table, method and task.

    Args:
        tables: which of the paper's.

    Raises:
        BadInputError: no such table.
    """
    if unknown := [number for number in tables if number not in PAPER]:
        raise BadInputError(f"the paper has no table {unknown[0]}; it has {min(PAPER)}-{max(PAPER)}")
    return [
        _table_row(results, number, row, task) for number in tables for row in PAPER[number] for task in TASKS
    ]


def _table_row(results: Results, number: int, row: Row, task: str) -> TableRow:
    measured = results.results.get(row.method)
    ours: TaskResult | None = measured.task(task) if measured else None
    paper, percent = row.paper(results.year, task), _percent(ours.map if ours else None)
    return TableRow(
        table=number,
        method=row.method,
        label=row.label,
        task=task,
        paper=paper,
        ours=percent,
        std=_percent(ours.map_std if ours else None),
        difference=None if percent is None else percent - paper,
        optimistic=_percent(ours.map_optimistic if ours else None),
        pessimistic=_percent(ours.map_pessimistic if ours else None),
        chance=_percent(ours.chance.map if ours else None),
        ceiling=_percent(results.ceiling.get(task)),
        seeds=len(measured.seeds) if measured else 0,
    )


def render_tables(results: Results, form: Format = "markdown", tables: Sequence[int] = tuple(PAPER)) -> str:
    """The paper's tables with an encoder's results beside its numbers.

    Tables 1-3 have the same rows for CLIP, BLIP and BLIPv2, so one encoder stands beside each of them.
    Markdown has only the rows that were measured, and the tables that have one.

    Args:
        form: ``markdown`` for people; ``json`` or ``csv`` with every :class:`TableRow`.
        tables: which of the paper's.

    Raises:
        BadInputError: no such table or format.
    """
    rows = table_rows(results, tables)
    if form == "json":
        return json.dumps([asdict(row) for row in rows], indent=1, allow_nan=False) + "\n"
    if form == "csv":
        out = io.StringIO()
        writer = csv.DictWriter(out, [field.name for field in fields(TableRow)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
        return out.getvalue()
    if form == "markdown":
        by_table = {number: [row for row in rows if row.table == number] for number in tables}
        parts = [_markdown(results, number, each) for number, each in by_table.items() if _measured(each)]
        return "\n".join([*parts, _footnote(results)])
    raise BadInputError(f"there is no format {form!r}; known: markdown, json, csv")


def _markdown(results: Results, number: int, rows: Sequence[TableRow]) -> str:
    name = results.encoder.get("name", "ours")
    lines = [
        f"**Table {number}.** {TITLES[number]} (COCO {results.year}); {name} on {results.dataset}.",
        "",
        f"| | Object discovery: paper | {name} | difference "
        f"| Description assignment: paper | {name} | difference |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for discovery, assignment in zip(rows[::2], rows[1::2], strict=True):
        if not _measured([discovery, assignment]):
            continue
        cells = [cell for row in (discovery, assignment) for cell in _cells(row)]
        lines.append(f"| {discovery.label} | {' | '.join(cells)} |")
    for label, key in (("*proposal ceiling*", "ceiling"), ("*chance*", "chance")):
        left, right = (
            next((value for row in side if (value := getattr(row, key)) is not None), None)
            for side in (rows[::2], rows[1::2])
        )
        lines.append(f"| {label} | | {_number(left)} | | | {_number(right)} | |")
    return "\n".join(lines) + "\n"


def _measured(rows: Sequence[TableRow]) -> bool:
    return any(row.ours is not None for row in rows)


def _cells(row: TableRow) -> tuple[str, str, str]:
    ours = _number(row.ours)
    if row.std is not None:
        ours += f" ± {row.std:.1f}"
    return f"{row.paper:.1f}", ours, "" if row.difference is None else f"{row.difference:+.1f}"


def _footnote(results: Results) -> str:
    protocol, seeds = results.protocol, results.seeds
    queries = ", ".join(f"{protocol.queries.get(task)} ({task.replace('_', ' ')})" for task in TASKS)
    return (
        f"mAP in percent. Queries: {queries}. Relevance: {protocol.relevance}. Ties: {protocol.ties}. "
        f"Crowds: {protocol.crowds}. Seeds: {', '.join(map(str, seeds)) or 'none'}; ± is the standard "
        f"deviation over them. felga {results.felga}, commit {(results.commit or 'unknown')[:12]}.\n"
    )


def _percent(value: float | None) -> float | None:
    return None if value is None else 100.0 * value


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
