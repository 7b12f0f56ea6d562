"""Hits as text: a table for people; json, jsonl, csv, COCO json and paths for programs."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from felga.files import shown
from felga.show.detections import coco
from felga.types import Box, Explanation, ImageHit, RegionHit, TextHit

Format: TypeAlias = Literal["table", "json", "jsonl", "csv", "coco"]
"""``coco`` is for images alone."""
Kind: TypeAlias = Literal["images", "texts"]
COLUMNS = {
    "images": [
        "image_id",
        "path",
        "score",
        "confidence",
        "region_score",
        "x1",
        "y1",
        "x2",
        "y2",
        "label",
        "similarity",
        "quality",
        "term",
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
        image, box: what was asked with, if it was an image or a part of one.
    """

    query: str
    index: str
    hits: Sequence[ImageHit | TextHit]
    kind: Kind
    missing: frozenset[str] = frozenset()
    image: Path | None = None
    box: Box | None = None

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
                **({"generated": True} if hit.generated else {}),
            }
        return {
            "rank": hit.rank,
            "image_id": hit.image_id,
            "path": shown(hit.path),
            "score": hit.score,
            **({} if hit.confidence is None else {"confidence": round(hit.confidence, 4)}),
            **({} if hit.explanation is None else {"explanation": _said(hit.explanation)}),
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
    if form == "coco":
        hits = [[hit for hit in answer.hits if isinstance(hit, ImageHit)] for answer in answers]
        return json.dumps(coco([answer.query for answer in answers], hits), ensure_ascii=only_ascii) + "\n"
    return "\n".join(_table(answer) for answer in answers)


def paths(answers: Sequence[Answer], end: bytes) -> bytes:
    """The paths of all images that are there, byte for byte, each once and followed by ``end``."""
    found = {
        hit.path: None
        for answer in answers
        for hit in answer.hits
        if isinstance(hit, ImageHit) and hit.path not in answer.missing
    }
    return b"".join(os.fsencode(path) + end for path in found)


def _said(explanation: Explanation) -> dict[str, Any]:
    values = asdict(explanation)
    return {name: value for name, value in values.items() if name != "term" or value is not None}


def _region(region: RegionHit) -> dict[str, Any]:
    label = {} if region.label is None else {"label": region.label}
    term = {} if region.term is None else {"term": region.term}
    return {
        "box": list(region.box),
        "score": region.score,
        "similarity": region.similarity,
        "quality": region.quality,
        "whole": region.whole,
        **label,
        **term,
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
        sure = "" if hit.confidence is None else round(hit.confidence, 4)
        of_image = hit.image_id, shown(hit.path), hit.score, sure
        fit = "" if region.quality is None else region.quality
        of_region = region.label or "", region.similarity, fit, region.term or ""
        yield [*of_image, region.score, *region.box, *of_region]


def _table(answer: Answer) -> str:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(f"{answer.query}  ({answer.index})"), title_justify="left")
    table.add_column("rank", justify="right")
    table.add_column("score", justify="right")
    judged = any(isinstance(hit, ImageHit) and hit.confidence is not None for hit in answer.hits)
    explained = any(isinstance(hit, ImageHit) and hit.explanation is not None for hit in answer.hits)
    if judged:
        table.add_column("confidence", justify="right")
    for name in ("text", "keyword") if answer.kind == "texts" else ("image", "box (x1, y1, x2, y2)"):
        table.add_column(name, overflow="fold")
    if explained:
        table.add_column("why", overflow="fold")
    for hit in answer.hits:
        if isinstance(hit, TextHit):
            start, end = hit.span
            text = f"{escape(hit.text[:start])}[b]{escape(hit.text[start:end])}[/b]{escape(hit.text[end:])}"
            text += " [i](generated)[/i]" if hit.generated else ""
            cells = [text, escape(hit.keyword)]
        else:
            missing = "  (not found)" if hit.path in answer.missing else ""
            boxes = [_box(region, scored=len(hit.regions) > 1) for region in hit.regions]
            cells = [escape(hit.image_id + missing), escape("\n".join(boxes))]
            cells = [f"{hit.confidence:.2f}", *cells] if hit.confidence is not None else cells
            cells += [escape(_why(hit))] if explained else []
        table.add_row(str(hit.rank), f"{hit.score:.3f}", *cells)
    if not answer.hits:
        table.caption = "no match" if answer.kind == "images" else "nothing to rank: the index has no texts"
    out = io.StringIO()
    console = Console()
    width = console.width if console.is_terminal else 120
    Console(file=out, width=width, force_terminal=console.is_terminal).print(table)
    return out.getvalue()


def _why(hit: ImageHit) -> str:
    """An explanation, line by line."""
    if hit.explanation is None:
        return ""
    why = hit.explanation
    best = next(region for region in hit.regions if region.term == why.term)
    lines = [f"{why.term}:"] if why.term is not None else []
    lines += [f"cosine {best.similarity:.3f}, above {why.percentile:.1f} % of the images"]
    lines += [f"box fits an object: {best.quality:.2f}"] if best.quality is not None else []
    lines += [f"looks more like: {', '.join(why.rivals)}"] if why.rivals else []
    lines += [f"nearest keywords: {', '.join(why.keywords)}"] if why.keywords else []
    return "\n".join(lines)


def _box(region: RegionHit, *, scored: bool) -> str:
    parts = [f"{region.term}:"] if region.term is not None else []
    parts += [", ".join(f"{x:.0f}" for x in region.box)]
    parts += ["(whole)"] if region.whole else []
    parts += [region.label] if region.label is not None else []
    parts += [f"{region.score:.3f}"] if scored else []
    return "  ".join(parts)
