"""How good region proposals are: COCO's average recall, and seconds an image."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from felga.corpus.coco import read_coco
from felga.corpus.decode import read_image
from felga.errors import BadInputError
from felga.registry import make_regions

AT = (10, 50, 100)
"""How many proposals of an image count."""


def measure(
    name: str,
    instances: Path,
    images: Path,
    *,
    ids: Sequence[str] | None = None,
    device: str = "auto",
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Recall of a proposer over the ground-truth boxes of a COCO split, by pycocotools, class-agnostic.

    Crowds count neither as found nor as missed. A proposer that gives fewer than 100 regions is measured on
    what it gives.

    Args:
        name: of the registry.
        instances, images: COCO's json and its images.
        ids: image ids to take, None for all that have a box.

    Returns:
        ``recall@N`` (IoU 0.5) and ``AR@N`` (mean over IoU 0.5:0.05:0.95) for N of :data:`AT`,
        ``AR@100 small|medium|large``, ``seconds_per_image`` of the proposer alone (decoding left out),
        ``images``, ``proposals_per_image``.

    Raises:
        BadInputError: no image with a box.
    """
    data = read_coco(instances)
    wanted = {str(row["image_id"]) for row in data["annotations"]} & (
        set(ids) if ids else {str(r["id"]) for r in data["images"]}
    )
    rows = [row for row in data["images"] if str(row["id"]) in wanted]
    if not rows:
        raise BadInputError(f"{instances} has no image with a box among those asked for")
    proposer = make_regions(name, device=device)
    found, seconds = [], 0.0
    for done, row in enumerate(rows, 1):
        image = read_image(images / row["file_name"], str(row["id"]))
        start = time.perf_counter()
        (regions,) = proposer.propose([image], max(AT))
        seconds += time.perf_counter() - start
        for rank, region in enumerate(regions):
            x1, y1, x2, y2 = region.box
            # The rank decides, also where a proposer's scores tie.
            found.append(
                {"image_id": row["id"], "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": -rank}
            )
        progress(name, done, len(rows))
    recall = _recall(data, rows, found)
    return {
        "proposer": name,
        "settings": dict(proposer.settings()),
        **recall,
        "seconds_per_image": seconds / len(rows),
        "images": len(rows),
        "proposals_per_image": len(found) / len(rows),
    }


def _recall(
    data: dict[str, Any], rows: list[dict[str, Any]], found: list[dict[str, Any]]
) -> dict[str, float]:
    kept = {row["id"] for row in rows}
    truth = COCO()
    truth.dataset = {
        "images": rows,
        "annotations": [
            {
                **row,
                "iscrowd": row.get("iscrowd", 0),
                "area": row.get("area", row["bbox"][2] * row["bbox"][3]),
            }
            for row in data["annotations"]
            if row["image_id"] in kept
        ],
        "categories": data["categories"],
        "info": {},
    }
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints what it does
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found) if found else COCO(), "bbox")
        evaluation.params.useCats = 0
        evaluation.params.imgIds = sorted(kept)
        evaluation.params.maxDets = list(AT)
        if found:
            evaluation.evaluate()
            evaluation.accumulate()
    if not found:
        return {key: 0.0 for n in AT for key in (f"recall@{n}", f"AR@{n}")}
    recalls = evaluation.eval["recall"]  # (IoU thresholds, 1, areas: all small medium large, maxDets)
    out = {}
    for i, n in enumerate(AT):
        out[f"recall@{n}"] = float(recalls[0, 0, 0, i])
        out[f"AR@{n}"] = float(recalls[:, 0, 0, i].mean())
    for area, size in ((1, "small"), (2, "medium"), (3, "large")):
        values = recalls[:, 0, area, -1]
        out[f"AR@{AT[-1]} {size}"] = float(np.where(values < 0, np.nan, values).mean())
    return out


def as_table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown, a row a proposer."""
    names = [*(f"recall@{n}" for n in AT), *(f"AR@{n}" for n in AT)]
    lines = ["| regions | " + " | ".join(names) + " | ms an image |", "|---|" + "--:|" * (len(names) + 1)]
    for row in rows:
        cells = " | ".join(f"{row[name]:.3f}" for name in names)
        lines.append(f"| {row['proposer']} | {cells} | {1000 * row['seconds_per_image']:.0f} |")
    return "\n".join(lines) + "\n"
