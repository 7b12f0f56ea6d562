"""Hits as text: a table for people; json, jsonl and csv for programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from felga.files import shown
from felga.types import ImageHit, RegionHit, TextHit

Format: TypeAlias = Literal["table", "json", "jsonl", "csv"]
Kind: TypeAlias = Literal["images", "texts"]
COLUMNS = {
    "images": [
        "image_id",
        "path",
        "score",
        "region_score",
        "x1",
        "y1",
        "x2",
        "y2",
        "label",
        "similarity",
        "quality",
    ],
    "texts": ["text_id", "text", "score", "keyword", "start", "end"],
}


@dataclass(frozen=True, slots=True)
class Answer:
    """The hits of one query.

    Attributes:
        index: the index that was searched.
        kind: what was searched for, also if there is no hit.
        missing: paths of hits whose file no longer exists.
    """

    query: str
    index: str
    hits: Sequence[ImageHit | TextHit]
    kind: Kind
    missing: frozenset[str] = frozenset()

    def as_dict(self) -> dict[str, Any]:
        """``{"query", "index", "hits": [...]}``, json values; scores at full float32 precision."""
        return {"query": self.query, "index": self.index, "hits": [self._hit(hit) for hit in self.hits]}

    def _hit(self, hit: ImageHit | TextHit) -> dict[str, Any]:
        if isinstance(hit, TextHit):
            return {
                "rank": hit.rank,
                "text_id": hit.text_id,
                "text": hit.text,
                "score": hit.score,
                "keyword": hit.keyword,
                "span": list(hit.span),
            }
        return {
            "rank": hit.rank,
            "image_id": hit.image_id,
            "path": shown(hit.path),
            "score": hit.score,
            "regions": [_region(region) for region in hit.regions],
            **({"missing": True} if hit.path in self.missing else {}),
        }


def render(answers: Sequence[Answer], form: Format, *, many: bool, only_ascii: bool = False) -> str:
    """All answers in one format.

    Args:
        many: json is a list of answers, even of one.
        only_ascii: escape everything else in json.
    """
    if form == "json":
        values = [answer.as_dict() for answer in answers]
        return json.dumps(values if many else values[0], ensure_ascii=only_ascii, indent=1) + "\n"
    if form == "jsonl":
        return "".join(json.dumps(answer.as_dict(), ensure_ascii=only_ascii) + "\n" for answer in answers)
    if form == "csv":
        return _csv(answers)
    return "\n".join(_table(answer) for answer in answers)


def _region(region: RegionHit) -> dict[str, Any]:
    label = {} if region.label is None else {"label": region.label}
    return {
        "box": list(region.box),
        "score": region.score,
        "similarity": region.similarity,
        "quality": region.quality,
        "whole": region.whole,
        **label,
    }


def _csv(answers: Sequence[Answer]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["query", "rank", *COLUMNS[answers[0].kind]])
    for answer in answers:
        for hit in answer.hits:
            writer.writerows([answer.query, hit.rank, *cells] for cells in _csv_rows(hit))
    return out.getvalue()


def _csv_rows(hit: ImageHit | TextHit) -> Iterator[list[Any]]:
    if isinstance(hit, TextHit):
        yield [hit.text_id, hit.text, hit.score, hit.keyword, *hit.span]
        return
    for region in hit.regions:
        of_image = hit.image_id, shown(hit.path), hit.score
        fit = "" if region.quality is None else region.quality
        yield [*of_image, region.score, *region.box, region.label or "", region.similarity, fit]


def _table(answer: Answer) -> str:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(f"{answer.query}  ({answer.index})"), title_justify="left")
    table.add_column("rank", justify="right")
    table.add_column("score", justify="right")
    for name in ("text", "keyword") if answer.kind == "texts" else ("image", "box (x1, y1, x2, y2)"):
        table.add_column(name, overflow="fold")
    for hit in answer.hits:
        if isinstance(hit, TextHit):
            start, end = hit.span
            text = f"{escape(hit.text[:start])}[b]{escape(hit.text[start:end])}[/b]{escape(hit.text[end:])}"
            cells = [text, escape(hit.keyword)]
        else:
            missing = "  (not found)" if hit.path in answer.missing else ""
            boxes = [_box(region, scored=len(hit.regions) > 1) for region in hit.regions]
            cells = [escape(hit.image_id + missing), escape("\n".join(boxes))]
        table.add_row(str(hit.rank), f"{hit.score:.3f}", *cells)
    if not answer.hits:
        table.caption = f"nothing to rank: the index has no {answer.kind}"
    out = io.StringIO()
    console = Console()
    width = console.width if console.is_terminal else 120
    Console(file=out, width=width, force_terminal=console.is_terminal).print(table)
    return out.getvalue()


def _box(region: RegionHit, *, scored: bool) -> str:
    parts = [", ".join(f"{x:.0f}" for x in region.box)]
    parts += ["(whole)"] if region.whole else []
    parts += [region.label] if region.label is not None else []
    parts += [f"{region.score:.3f}"] if scored else []
    return "  ".join(parts)
