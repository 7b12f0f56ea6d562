"""What a search found, read from the store: images with their boxes, texts with their keywords."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from felga.boxes import distinct
from felga.files import located
from felga.proposals.inflection import singular
from felga.search.owners import Owner
from felga.store.owner_table import OwnerTable
from felga.types import Box, ImageHit, RegionHit, TextHit

OVERLAP = 0.5
"""Of two boxes of a hit with a higher IoU, only the better one is listed."""
_IMAGE_COLUMNS = ("image_id", "path", "boxes", "whole", "labels", "quality", "width", "height")
_TEXT_COLUMNS = ("text_id", "text", "keywords", "starts", "ends", "whole")


def image_hits(
    table: OwnerTable, found: Sequence[Sequence[Owner]], root: str | Path, regions: int
) -> list[list[ImageHit]]:
    """The hits of several queries; ``root`` is the folder of the images, ``regions`` the boxes per hit."""
    rows = _rows(table, found, _IMAGE_COLUMNS)
    return [
        [
            ImageHit(
                rank,
                (row := rows[owner.position])["image_id"],
                located(root, row["path"]),
                owner.score,
                tuple(_region(row, owner, at) for at in _best(owner, row["boxes"], row["whole"], regions)),
                row["width"],
                row["height"],
            )
            for rank, owner in enumerate(hits, 1)
        ]
        for hits in found
    ]


def text_hits(table: OwnerTable, found: Sequence[Sequence[Owner]]) -> list[list[TextHit]]:
    """The hits of several queries."""
    rows = _rows(table, found, _TEXT_COLUMNS)
    return [
        [
            TextHit(
                rank,
                (row := rows[owner.position])["text_id"],
                row["text"],
                owner.score,
                row["keywords"][at := _best_keyword(owner, row["whole"])],
                (row["starts"][at], row["ends"][at]),
            )
            for rank, owner in enumerate(hits, 1)
        ]
        for hits in found
    ]


def keyword_concepts(table: OwnerTable, positions: Sequence[int]) -> list[list[Hashable]]:
    """The keywords of some texts in the singular, None for the whole text, in any order of texts."""
    order = sorted(set(positions))
    rows = dict(zip(order, table.take(order, ["keywords", "whole"]), strict=True))
    return [
        [
            None if whole else singular(keyword)
            for keyword, whole in zip(rows[at]["keywords"], rows[at]["whole"], strict=True)
        ]
        for at in positions
    ]


def _best_keyword(owner: Owner, whole: Sequence[bool]) -> int:
    """The best fragment of a text that is not the whole text, unless it has no other."""
    order: list[int] = np.argsort(-owner.scores, kind="stable").tolist()
    return min(order, key=lambda at: whole[at])


def _best(owner: Owner, boxes: Sequence[Sequence[float]], whole: Sequence[bool], most: int) -> list[int]:
    """The best regions of an image, best first, without those that overlap a better one (greedy NMS).

    The whole image neither suppresses nor is suppressed.
    """
    order = [at for at in np.argsort(-owner.scores, kind="stable").tolist() if owner.scores[at] > -np.inf]
    parts = [at for at in order if not whole[at]]
    corners = np.array([boxes[at] for at in parts], np.float64).reshape(-1, 4)
    kept = {parts[row] for row in distinct(corners, most, OVERLAP)}
    return [at for at in order if whole[at] or at in kept][:most]


def _region(row: dict[str, Any], owner: Owner, at: int) -> RegionHit:
    x1, y1, x2, y2 = row["boxes"][at]
    box: Box = (x1, y1, x2, y2)
    return RegionHit(
        box,
        float(owner.scores[at]),
        row["whole"][at],
        row["labels"][at],
        similarity=float(owner.products[at]),
        quality=row["quality"][at],
    )


def _rows(
    table: OwnerTable, found: Sequence[Sequence[Owner]], columns: Sequence[str]
) -> dict[int, dict[str, Any]]:
    positions = sorted({owner.position for hits in found for owner in hits})
    return dict(zip(positions, table.take(positions, columns), strict=True))
