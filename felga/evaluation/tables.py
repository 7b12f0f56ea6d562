"""Tables 1-5 of the FELGA paper, and an encoder's results beside them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from felga.errors import BadInputError
from felga.evaluation.results import TASKS, check_results

Format: TypeAlias = Literal["markdown", "json", "csv"]


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the paper: mAP in per cent, (object discovery, description assignment) of each COCO year."""

    method: str
    label: str
    coco2017: tuple[float, float]
    coco2014: tuple[float, float]

    def paper(self, year: int, task: str) -> float:
        """The paper's figure."""
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
"""The paper's figures, mAP in per cent, transcribed from its Tables 1-5."""


def table_rows(results: Mapping[str, Any], tables: Sequence[int] = tuple(PAPER)) -> list[dict[str, Any]]:
    """One flat row for each table, method and task; percentages, None where nothing was measured.

    Args:
        results: a results file's content, see :mod:`felga.evaluation.results`.
        tables: which of the paper's.

    Returns:
        Rows with ``table``, ``method``, ``label``, ``task``, ``paper``, ``ours`` (mean over seeds), ``std``,
        ``difference`` (ours - paper, points), ``optimistic``, ``pessimistic`` (bounds at ties), ``chance``,
        ``ceiling``, ``seeds`` (how many).

    Raises:
        BadInputError: no results file, or no such table.
    """
    check_results(results)
    unknown = [number for number in tables if number not in PAPER]
    if unknown:
        raise BadInputError(f"the paper has no table {unknown[0]}; it has {min(PAPER)}-{max(PAPER)}")
    rows = []
    for number in tables:
        for row in PAPER[number]:
            entry = results["results"].get(row.method, {})
            for task in TASKS:
                found = entry.get(task, {})
                paper, ours = row.paper(results["year"], task), _percent(found.get("map"))
                rows.append(
                    {
                        "table": number,
                        "method": row.method,
                        "label": row.label,
                        "task": task,
                        "paper": paper,
                        "ours": ours,
                        "std": _percent(found.get("map_std")),
                        "difference": None if ours is None else ours - paper,
                        "optimistic": _percent(found.get("map_optimistic")),
                        "pessimistic": _percent(found.get("map_pessimistic")),
                        "chance": _percent(found.get("chance", {}).get("map")),
                        "ceiling": _percent(results["ceiling"].get(task)),
                        "seeds": len(entry.get("seeds", [])),
                    }
                )
    return rows


def render_tables(
    results: Mapping[str, Any], form: Format = "markdown", tables: Sequence[int] = tuple(PAPER)
) -> str:
    """The paper's tables with an encoder's results beside its figures.

    Tables 1-3 have the same rows for CLIP, BLIP and BLIPv2, so one encoder stands beside each of them.

    Args:
        results: a results file's content.
        form: ``markdown`` for people, ``json`` or ``csv`` with the rows of :func:`table_rows`.
        tables: which of the paper's.

    Raises:
        BadInputError: no results file, no such table or format.
    """
    rows = table_rows(results, tables)
    if form == "json":
        return json.dumps(rows, indent=1, allow_nan=False) + "\n"
    if form == "csv":
        out = io.StringIO()
        writer = csv.DictWriter(out, list(rows[0]) if rows else ["table"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue()
    if form == "markdown":
        parts = [_markdown(results, number, [r for r in rows if r["table"] == number]) for number in tables]
        return "\n".join([*parts, _footnote(results)])
    raise BadInputError(f"there is no format {form!r}; known: markdown, json, csv")


def _markdown(results: Mapping[str, Any], number: int, rows: Sequence[Mapping[str, Any]]) -> str:
    name = results["encoder"].get("name", "ours")
    lines = [
        f"**Table {number}.** {TITLES[number]} (COCO {results['year']}); {name} on {results['dataset']}.",
        "",
        f"| | Object discovery: paper | {name} | difference "
        f"| Description assignment: paper | {name} | difference |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for discovery, assignment in zip(rows[::2], rows[1::2], strict=True):
        cells = [cell for row in (discovery, assignment) for cell in _cells(row)]
        lines.append(f"| {discovery['label']} | {' | '.join(cells)} |")
    for label, key in (("*proposal ceiling*", "ceiling"), ("*chance*", "chance")):
        left, right = (
            next((row[key] for row in side if row[key] is not None), None) for side in (rows[::2], rows[1::2])
        )
        lines.append(f"| {label} | | {_number(left)} | | | {_number(right)} | |")
    return "\n".join(lines) + "\n"


def _cells(row: Mapping[str, Any]) -> tuple[str, str, str]:
    ours = _number(row["ours"])
    if row["std"] is not None:
        ours += f" ± {row['std']:.1f}"
    return f"{row['paper']:.1f}", ours, "" if row["difference"] is None else f"{row['difference']:+.1f}"


def _footnote(results: Mapping[str, Any]) -> str:
    protocol, seeds = results["protocol"], results["seeds"]
    queries = ", ".join(f"{protocol['queries'].get(task)} ({task.replace('_', ' ')})" for task in TASKS)
    return (
        f"mAP in per cent. Queries: {queries}. Relevance: {protocol['relevance']}. Ties: {protocol['ties']}. "
        f"Crowds: {protocol['crowds']}. Seeds: {', '.join(map(str, seeds)) or 'none'}; ± is the standard "
        f"deviation over them. felga {results['felga']}, commit {(results['commit'] or 'unknown')[:12]}.\n"
    )


def _percent(value: float | None) -> float | None:
    return None if value is None else 100.0 * value


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
