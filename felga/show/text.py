"""Hits as text: a table for people, json, jsonl and csv for programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from felga.types import ImageHit, TextHit

Format: TypeAlias = Literal["table", "json", "jsonl", "csv"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What was asked of which index, and what was found."""

    query: str
    index: str
    hits: Sequence[ImageHit] | Sequence[TextHit]

    def as_dict(self) -> dict[str, Any]:
        """``{"query", "index", "hits": [...]}``, json values; scores with full float32 precision."""
        return {"query": self.query, "index": self.index, "hits": [_hit(hit) for hit in self.hits]}


def render(answers: Sequence[Answer], form: Format, *, many: bool) -> str:
    """All answers in one format.

    Args:
        many: json is a list of answers, also if there is but one.
    """
    if form == "json":
        found = [answer.as_dict() for answer in answers]
        return json.dumps(found if many else found[0], ensure_ascii=False, indent=1) + "\n"
    if form == "jsonl":
        return "".join(json.dumps(answer.as_dict(), ensure_ascii=False) + "\n" for answer in answers)
    if form == "csv":
        return _csv(answers)
    return "\n".join(_table(answer) for answer in answers)


def _hit(hit: ImageHit | TextHit) -> dict[str, Any]:
    if isinstance(hit, ImageHit):
        return {
            "rank": hit.rank,
            "image_id": hit.image_id,
            "path": shown(hit.path),
            "score": hit.score,
            "regions": [
                {"box": list(region.box), "score": region.score, "whole": region.whole}
                for region in hit.regions
            ],
        }
    return {
        "rank": hit.rank,
        "text_id": hit.text_id,
        "text": hit.text,
        "score": hit.score,
        "keyword": hit.keyword,
        "span": list(hit.span),
    }


def shown(path: str) -> str:
    """A path that any terminal and any json reader takes: bytes that are no UTF-8 as ``\\xNN``."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _csv(answers: Sequence[Answer]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if answers and answers[0].hits and isinstance(answers[0].hits[0], TextHit):
        writer.writerow(["query", "rank", "text_id", "text", "score", "keyword", "start", "end"])
    else:
        writer.writerow(
            ["query", "rank", "image_id", "path", "score", "region_score", "x1", "y1", "x2", "y2"]
        )
    for answer in answers:
        for hit in answer.hits:
            if isinstance(hit, ImageHit):
                for region in hit.regions:
                    head = [answer.query, hit.rank, hit.image_id, shown(hit.path), hit.score, region.score]
                    writer.writerow([*head, *region.box])
            else:
                head = [answer.query, hit.rank, hit.text_id, hit.text, hit.score, hit.keyword]
                writer.writerow([*head, *hit.span])
    return out.getvalue()


def _table(answer: Answer) -> str:
    table = Table(title=escape(f"{answer.query}  ({answer.index})"), title_justify="left")
    table.add_column("rank", justify="right")
    table.add_column("score", justify="right")
    if answer.hits and isinstance(answer.hits[0], TextHit):
        for name in ("text", "keyword"):
            table.add_column(name, overflow="fold")
    else:
        for name in ("image", "box (x1, y1, x2, y2)"):
            table.add_column(name, overflow="fold")
    for hit in answer.hits:
        if isinstance(hit, ImageHit):
            boxes = [
                f"{', '.join(f'{x:.0f}' for x in region.box)}{' (whole)' if region.whole else ''}"
                + (f"  {region.score:.4f}" if len(hit.regions) > 1 else "")
                for region in hit.regions
            ]
            table.add_row(str(hit.rank), f"{hit.score:.4f}", escape(hit.image_id), "\n".join(boxes))
        else:
            start, end = hit.span
            text = f"{escape(hit.text[:start])}[b]{escape(hit.text[start:end])}[/b]{escape(hit.text[end:])}"
            table.add_row(str(hit.rank), f"{hit.score:.4f}", text, escape(hit.keyword))
    if not answer.hits:
        table.caption = "nothing to rank: the index has no such fragments"
    out = io.StringIO()
    console = Console()
    width = console.width if console.is_terminal else 120
    Console(file=out, width=width, force_terminal=console.is_terminal).print(table)
    return out.getvalue()
