"""Concepts, findings and errors as text: a table for people; json, jsonl and csv for programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, Literal, TypeAlias

from felga.files import shown
from felga.survey.audit import Audit, Finding
from felga.survey.breakdown import Breakdown, ClassErrors, Mistake
from felga.survey.concepts import Concept, Exemplar
from felga.types import Box

Form: TypeAlias = Literal["table", "json", "jsonl", "csv"]
LISTED = 3  # exemplars of a concept in a table
BOX = ("x1", "y1", "x2", "y2")
EXEMPLAR = ("name", "images", "regions", "image_id", "path", *BOX, "score", "quality")
FINDING = (
    "kind",
    "rank",
    "score",
    "image_id",
    "path",
    "word",
    "text_id",
    "text",
    "start",
    "end",
    *BOX,
    "quality",
)
ERRORS = (
    "class",
    "images",
    "found",
    "wrong box",
    "wrong concept",
    "no box",
    "misplaced",
    "other class",
    "background",
    "mostly",
)
TITLES = {
    "caption": "captions that do not fit their image",
    "keyword": "keywords that nothing in the image supports",
    "region": "things that no caption of the image mentions",
}


def render_concepts(concepts: Sequence[Concept], form: Form, *, only_ascii: bool = False) -> str:
    """Concepts in one format: json a list, jsonl a concept per line, csv a row per exemplar.

    Args:
        only_ascii: escape everything else in json.
    """
    values = [_concept(concept) for concept in concepts]
    if form == "json":
        return json.dumps(values, ensure_ascii=only_ascii, indent=1) + "\n"
    if form == "jsonl":
        return _lines(values, only_ascii)
    if form == "csv":
        return _csv(
            EXEMPLAR,
            (
                [one.name, one.images, one.regions, *_of_exemplar(own)]
                for one in concepts
                for own in one.exemplars
            ),
        )
    rows = [
        [
            one.name,
            f"{one.images:,}",
            f"{one.regions:,}",
            ", ".join(own.image_id for own in one.exemplars[:LISTED]),
        ]
        for one in concepts
    ]
    nothing = "no region stands out" if not rows else None
    return _table(
        None, ("concept", "images", "regions", "shown best by"), rows, right=(1, 2), caption=nothing
    )


def render_audit(audit: Audit, form: Form, *, only_ascii: bool = False) -> str:
    """Findings in one format: json an object of three lists, jsonl and csv a finding per line.

    Args:
        only_ascii: escape everything else in json.
    """
    kinds = {"captions": audit.captions, "keywords": audit.keywords, "regions": audit.regions}
    findings = [one for own in kinds.values() for one in own]
    if form == "json":
        value: dict[str, Any] = {name: [one.as_dict() for one in own] for name, own in kinds.items()}
        return json.dumps({"texts": audit.texts, **value}, ensure_ascii=only_ascii, indent=1) + "\n"
    if form == "jsonl":
        return _lines([one.as_dict() for one in findings], only_ascii)
    if form == "csv":
        return _csv(FINDING, map(_cells, findings))
    tables = [_findings(kind, own) for kind, own in zip(TITLES, kinds.values(), strict=True)]
    return "\n".join(tables)


def render_breakdown(found: Breakdown, form: Form, *, only_ascii: bool = False) -> str:
    """The errors of a labelled set: json an object of all, jsonl and csv a class per line, the sums first.

    Args:
        only_ascii: escape everything else in json.
    """
    rows = [asdict(one) for one in (found.total, *found.classes)]
    if form == "json":
        mistakes = [one.as_dict() for one in found.mistakes]
        whole = {**asdict(found), "mistakes": mistakes}
        return json.dumps(whole, ensure_ascii=only_ascii, indent=1) + "\n"
    if form == "jsonl":
        return _lines(rows, only_ascii)
    if form == "csv":
        return _csv(tuple(rows[0]), ([_or_empty(value) for value in row.values()] for row in rows))
    unknown = f"; left out: {found.missing:,} that are not, and {found.unlabelled:,} images without labels"
    classes = _table(
        "errors per class, in % of the images that show it and of as many answers",
        ERRORS,
        [_errors(one) for one in (found.total, *found.classes)],
        right=range(1, 9),
        caption=f"{found.images:,} labelled images are in the index{unknown}",
    )
    first = _table(
        "the first mistakes",
        ("rank", "class", "mistake", "image", "box (x1, y1, x2, y2)"),
        [_mistake(one) for one in found.mistakes],
        right=(0,),
        caption=None if found.mistakes else "none",
    )
    return f"{classes}\n{first}"


def _errors(one: ClassErrors) -> list[str]:
    counts = (one.found, one.wrong_box, one.wrong_concept, one.no_box)
    wrong = (one.misplaced, one.other_class, one.background)
    shares = [f"{100 * count / one.images:.0f}" for count in counts]
    shares += [f"{100 * count / max(one.answers, 1):.0f}" for count in wrong]
    return [one.name, f"{one.images:,}", *shares, one.taken_for or ""]


def _mistake(one: Mistake) -> list[str]:
    what = one.kind if one.shows is None else f"{one.kind}: {one.shows}"
    return [str(one.rank), one.name, what, one.image_id, ", ".join(f"{x:.0f}" for x in one.box)]


def _findings(kind: str, findings: Sequence[Finding]) -> str:
    said = kind != "region"
    rows = [
        [
            str(one.rank),
            f"{one.score:.2f}",
            one.image_id,
            one.word,
            (one.text or "") if one.box is None else ", ".join(f"{x:.0f}" for x in one.box),
        ]
        for one in findings
    ]
    last = "text" if said else "box (x1, y1, x2, y2)"
    columns = ("rank", "score" if said else "confidence", "image", "keyword" if said else "name", last)
    return _table(TITLES[kind], columns, rows, right=(0, 1), caption=None if rows else "none")


def _concept(concept: Concept) -> dict[str, Any]:
    exemplars = [{**asdict(one), "path": shown(one.path), "box": list(one.box)} for one in concept.exemplars]
    return {**asdict(concept), "exemplars": exemplars}


def _of_exemplar(one: Exemplar) -> list[Any]:
    return [one.image_id, shown(one.path), *one.box, one.score, _or_empty(one.quality)]


def _cells(one: Finding) -> list[Any]:
    said = [_or_empty(value) for value in (one.text_id, one.text, *(one.span or (None, None)))]
    box: Box | tuple[str, ...] = one.box or ("",) * 4
    of_image = [one.kind, one.rank, one.score, one.image_id, shown(one.path), one.word]
    return [*of_image, *said, *box, _or_empty(one.quality)]


def _or_empty(value: Any) -> Any:
    return "" if value is None else value


def _lines(values: Iterable[Any], only_ascii: bool) -> str:
    return "".join(json.dumps(value, ensure_ascii=only_ascii) + "\n" for value in values)


def _csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return out.getvalue()


def _table(
    title: str | None,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[int],
    caption: str | None,
) -> str:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left", caption=caption)
    for at, name in enumerate(columns):
        table.add_column(name, overflow="fold", justify="right" if at in right else "left")
    for row in rows:
        table.add_row(*map(escape, row))
    out = io.StringIO()
    console = Console()
    width = console.width if console.is_terminal else 120
    Console(file=out, width=width, force_terminal=console.is_terminal).print(table)
    return out.getvalue()
