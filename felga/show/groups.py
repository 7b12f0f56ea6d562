"""Groups of copies as text: a table for people; json, jsonl and csv for programs."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal, TypeAlias

from felga.files import shown
from felga.store.copies import Copy

Groups: TypeAlias = Sequence[Sequence[Copy]]
COLUMNS = ("image_id", "path", "width", "height", "size", "exact", "similarity")


def render_groups(
    groups: Groups, form: Literal["table", "json", "jsonl", "csv"], *, only_ascii: bool = False
) -> str:
    """All groups in one format: json a list of lists, jsonl a list per line, csv a row per image.

    Args:
        only_ascii: escape everything else in json.
    """
    values = [[_values(copy) for copy in group] for group in groups]
    if form == "json":
        return json.dumps(values, ensure_ascii=only_ascii, indent=1) + "\n"
    if form == "jsonl":
        return "".join(json.dumps(group, ensure_ascii=only_ascii) + "\n" for group in values)
    if form == "csv":
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["group", *COLUMNS])
        for number, group in enumerate(values, 1):
            writer.writerows([number, *(copy[name] for name in COLUMNS)] for copy in group)
        return out.getvalue()
    return _table(groups)


def all_but_the_best(groups: Groups, end: bytes) -> bytes:
    """The paths of all images but the best of each group, byte for byte, each followed by ``end``.

    Images that are no longer there are left out.
    """
    paths = [copy.path for group in groups for copy in group[1:]]
    return b"".join(os.fsencode(path) + end for path in paths if os.path.lexists(path))


def _values(copy: Copy) -> dict[str, Any]:
    return {**asdict(copy), "path": shown(copy.path)}


def _table(groups: Groups) -> str:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    for name in ("group", "image", "pixels", "bytes", "similarity"):
        table.add_column(name, overflow="fold", justify="left" if name == "image" else "right")
    for number, group in enumerate(groups, 1):
        for at, copy in enumerate(group):
            like = "" if copy.similarity is None else f"{copy.similarity:.3f}"
            like = "best" if at == 0 else "equal file" if copy.exact else like
            size = f"{copy.width}x{copy.height}", f"{copy.size:,}"
            table.add_row(str(number), escape(copy.image_id), *size, like, end_section=at == len(group) - 1)
    if not groups:
        table.caption = "no copies"
    out = io.StringIO()
    console = Console()
    width = console.width if console.is_terminal else 120
    Console(file=out, width=width, force_terminal=console.is_terminal).print(table)
    return out.getvalue()
