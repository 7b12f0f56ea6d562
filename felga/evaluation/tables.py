"""Tables 1-5 of the FELGA paper with an encoder's results beside its numbers, and what it did not measure.

Results are compared with the paper's only where encoder and data are the paper's.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Literal, TypeAlias

from felga.errors import BadInputError
from felga.evaluation.paper_numbers import TITLES, comparable
from felga.evaluation.results import Results
from felga.evaluation.table_rows import BESIDE, DIAGNOSTIC, TABLES, TableRow, table_rows
from felga.evaluation.task_results import METHODS, TASKS

Format: TypeAlias = Literal["markdown", "json", "csv"]
_BOXES = {
    "winning box right": "winning box right",
    "small": "winning box right, small",
    "medium": "winning box right, medium",
    "large": "winning box right, large",
    "mean IoU": "mean IoU of the winning box",
    "AP": "AP",
    "AP50": "AP50",
    "phrases": "phrase grounding",
    "phrases, given boxes": "phrase grounding in given boxes",
}
_OWNER_NOTE = (
    "Not in the paper, whose protocol the rows without a suffix follow. *soft*: an image scores "
    "(best + whole / 2) / 1.5, a text (soft + whole / 2) / 1.5 with 0.1 log mean exp(score / 0.1) of its "
    "keywords for soft. *quality*: a region scores its meaning and the predicted IoU of its box."
)
_BOX_NOTE = (
    "In percent; not in the paper. *Winning box right*: of the first ten images of each class name that show "
    "the class, those whose winning region has IoU ≥ 0.5 with an object of the class, by the size of the "
    "largest one. *AP*: COCO's, every region a detection of every class name. *Phrases*: noun phrases that "
    "name the only object of their class in the image (not RefCOCO): the best region has IoU ≥ 0.5 with it, "
    "or it is the best of the image's given boxes."
)


def render_tables(results: Results, form: Format = "markdown", tables: Sequence[int] = TABLES) -> str:
    """The paper's tables with an encoder's results beside its numbers, and what the paper did not measure.

    Tables 1-3 have the same rows for CLIP, BLIP and BLIPv2, so one encoder stands beside each of them.
    Markdown has only the rows that were measured, and the tables that have one.

    Args:
        form: ``markdown`` for people; ``json`` or ``csv`` with every :class:`TableRow`.
        tables: of :func:`table_rows`.

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
        parts = [
            _beside(results, each) if number == BESIDE else _markdown(results, number, each)
            for number, each in by_table.items()
            if _measured(each)
        ]
        return "\n".join([*parts, _footnote(results)])
    raise BadInputError(f"there is no format {form!r}; known: markdown, json, csv")


def _markdown(results: Results, number: int, rows: Sequence[TableRow]) -> str:
    name = results.encoder.get("name", "ours")
    extra = " difference |" if comparable(results, number) else ""
    lines = [
        f"**Table {number}.** {TITLES[number]} (COCO {results.year}); {_about(results)}.",
        "",
        f"| | Object discovery: paper | {name} |{extra}"
        f" Description assignment: paper | {name} | bounds by ties |{extra}",
        "|---" + "|--:" * (7 if extra else 5) + "|",
    ]

    def cells(row: TableRow) -> str:
        difference = f" {_number(row.difference, '+.1f')} |" if extra else ""
        ties = f" {_bounds(row)} |" if row.task == TASKS[1] else ""
        return f" {_number(row.paper)} | {_ours(row)} |{ties}{difference}"

    for discovery, assignment in zip(rows[::2], rows[1::2], strict=True):
        if _measured([discovery, assignment]):
            lines.append(f"| {discovery.label} |{cells(discovery)}{cells(assignment)}")
    for label, key in (("*proposal ceiling*", "ceiling"), ("*chance*", "chance")):
        left, right = (
            next((value for row in side if (value := getattr(row, key)) is not None), None)
            for side in (rows[::2], rows[1::2])
        )
        gap = " |" if extra else ""
        lines.append(f"| {label} | | {_number(left)} |{gap} | {_number(right)} | |{gap}")
    return "\n".join(lines) + "\n"


def _about(results: Results) -> str:
    """Encoder, data and recipe, for the head of a table."""
    about = f"{results.encoder.get('name', 'ours')} on {results.dataset}"
    recipe = results.data.get("recipe")
    if not isinstance(recipe, Mapping):
        return about
    changes = ", ".join(f"{key}={value}" for key, value in dict(recipe.get("changes", {})).items())
    return f"{about}; recipe {recipe.get('name', 'not recorded')}" + (f" with {changes}" if changes else "")


def _measured(rows: Sequence[TableRow]) -> bool:
    return any(row.ours is not None for row in rows)


def _ours(row: TableRow) -> str:
    return _number(row.ours) + ("" if row.std is None else f" ± {row.std:.1f}")


def _bounds(row: TableRow) -> str:
    if row.pessimistic is None or row.optimistic is None:
        return ""
    return f"{row.pessimistic:.1f}-{row.optimistic:.1f}"


def _footnote(results: Results) -> str:
    protocol, seeds = results.protocol, results.seeds
    queries = ", ".join(f"{protocol.queries.get(task)} ({task.replace('_', ' ')})" for task in TASKS)
    test = results.data.get("test")
    regions = test.get("proposers", {}).get("regions", {}) if isinstance(test, Mapping) else {}
    supervision = regions.get("proposer", {}).get("supervision")
    learned = f"Regions: learned from {supervision}. " if supervision else ""
    return (
        f"mAP in percent. Queries: {queries}. Relevance: {protocol.relevance}. Ties: {protocol.ties}. "
        f"Crowds: {protocol.crowds}. {learned}Seeds: {', '.join(map(str, seeds)) or 'none'}; ± is the "
        f"standard deviation over them. felga {results.felga}, commit "
        f"{(results.commit or 'unknown')[:12]}.\n"
    )


def _number(value: float | None, form: str = ".1f") -> str:
    return "" if value is None else format(value, form)


def _beside(results: Results, rows: Sequence[TableRow]) -> str:
    """What the paper did not measure: owner scores, boxes, the diagnostic."""
    found = {(row.method, row.task): row for row in rows}
    methods = [method for method, task in found if task == TASKS[0]]
    lines = []
    if any(method not in METHODS for method in methods):
        lines += [f"**Owner scores.** mAP; {_about(results)}.", ""]
        lines += ["| | object discovery | description assignment | bounds by ties |", "|---|--:|--:|--:|"]
        for method in methods:
            left, right = (found[method, task] for task in TASKS)
            lines.append(f"| {left.label} | {_ours(left)} | {_ours(right)} | {_bounds(right)} |")
        lines += ["", _OWNER_NOTE, ""]
    if with_boxes := [method for method in methods if (method, _BOXES["AP"]) in found]:
        lines += [
            f"**Boxes.** {_about(results)}.",
            "",
            f"| | {' | '.join(_BOXES)} |",
            "|---" + "|--:" * 9 + "|",
        ]
        for method in with_boxes:
            cells = [_ours(found[method, task]) for task in _BOXES.values()]
            lines.append(f"| {found[method, TASKS[0]].label} | {' | '.join(cells)} |")
        for label, key in (("best region of each image", "ceiling"), ("chance", "chance")):
            cells = [_number(getattr(found[with_boxes[0], task], key)) for task in _BOXES.values()]
            lines.append(f"| *{label}* | {' | '.join(cells)} |")
        lines += ["", _BOX_NOTE, ""]
    if results.diagnostic is not None:
        lines += [_diagnostic(rows), ""]
    return "\n".join(lines)


def _diagnostic(rows: Sequence[TableRow]) -> str:
    """What the frozen encoder tells apart, and the row of random labels to compare with."""
    value = {row.task: row.ours for row in rows if row.task in DIAGNOSTIC.values()}
    keyword, region, interaction, *cosines = (value[task] for task in DIAGNOSTIC.values())
    within, between, *centred = ("-" if cosine is None else f"{cosine / 100:.2f}" for cosine in cosines)
    return (
        "**Diagnostic.** Of the variance of frozen cosines within a pair, the keyword explains "
        f"{_number(keyword)} %, the region {_number(region)} %, their interaction {_number(interaction)} %: "
        "only the last says that a region fits a keyword. Mean cosine of two regions of one image "
        f"{within}, of different images {between}; after subtracting the mean vector {centred[0]} and "
        f"{centred[1]}. Pseudo-labels carry information if their rows beat that of random labels."
    )
