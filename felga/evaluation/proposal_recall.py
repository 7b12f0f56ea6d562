"""Quality of region proposals: recall of ground-truth boxes, COCO's average recall, seconds per image."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from felga.corpus.coco import coco_files, read_coco
from felga.corpus.decode import read_image
from felga.errors import BadInputError
from felga.evaluation.localisation import pycocotools
from felga.evaluation.results import commit, machine
from felga.registry import make_regions
from felga.types import Progress, RegionProposer
from felga.version import __version__

AT = (10, 50, 100)
"""Numbers of proposals per image at which recall is measured."""
SIZES = ("small", "medium", "large")
"""COCO's sizes of an object: below 32 x 32, below 96 x 96, and larger, in pixels of area."""


@dataclass(frozen=True, slots=True)
class Recall:
    """How well a proposer covers the ground-truth boxes of a COCO split, classes ignored.

    Attributes:
        proposer: its name in the registry.
        settings: its settings.
        recall: N -> share of boxes that one of the N best proposals overlaps with an IoU of at least 0.5.
        average: N -> COCO's average recall, the mean over the IoU thresholds 0.5:0.05:0.95.
        by_size: size -> average recall at 100 of the boxes of that size, None if there are none.
        seconds_per_image: of the proposer alone, decoding excluded.
        images: how many images were measured.
        proposals_per_image: mean number of proposals, at most 100.
    """

    proposer: str
    settings: Mapping[str, Any]
    recall: Mapping[int, float]
    average: Mapping[int, float]
    by_size: Mapping[str, float | None]
    seconds_per_image: float
    images: int
    proposals_per_image: float

    def row(self) -> dict[str, Any]:
        """The json object of a results file: flat, with keys such as ``recall@10`` and ``AR@100 small``."""
        return {
            "proposer": self.proposer,
            "settings": dict(self.settings),
            **{f"recall@{n}": value for n, value in self.recall.items()},
            **{f"AR@{n}": value for n, value in self.average.items()},
            **{f"AR@{AT[-1]} {size}": value for size, value in self.by_size.items()},
            "seconds_per_image": self.seconds_per_image,
            "images": self.images,
            "proposals_per_image": self.proposals_per_image,
        }


def bench_proposals(
    root: Path,
    split: str,
    names: Sequence[str],
    *,
    every: int = 1,
    device: str = "auto",
    progress: Progress = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Measure region proposers on a COCO split.

    Args:
        root: COCO's folder in its official layout.
        split: such as ``val2017``.
        names: region proposers, by their names in the registry.
        every: take every N-th image, in the order of their ids as text.

    Returns:
        The content of a results file: version, commit and machine, ``dataset``, ``images`` and ``results``,
        one :meth:`Recall.row` per proposer.

    Raises:
        BadInputError: no such split or proposer, ``every`` below 1, or no image with a box.
        NotFoundError: a file of the split is missing.
    """
    if every < 1:
        raise BadInputError(f"every must be at least 1, got {every}")
    files = coco_files(root, split)
    ids = sorted(str(row["id"]) for row in read_coco(files.instances)["images"])[::every]
    rows = [
        measure(
            make_regions(name, device=device), files.instances, files.images, ids=ids, progress=progress
        ).row()
        for name in names
    ]
    return {
        "felga": __version__,
        "commit": commit(),
        "machine": machine(),
        "dataset": f"{root.resolve().name} {split}",
        "images": len(ids),
        "results": rows,
    }


def measure(
    proposer: RegionProposer,
    instances: Path,
    images: Path,
    *,
    ids: Sequence[str] | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Recall:
    """Recall of one proposer on a COCO split, by pycocotools.

    A crowd counts neither as recalled nor as missed. A proposer that yields fewer than 100 regions is
    measured on those.

    Args:
        proposer: what is measured, under its own name.
        instances: COCO's instances json.
        images: the folder of its images.
        ids: ids of the images to measure; images without a box are skipped. None: all.

    Raises:
        BadInputError: no image with a box, or an unreadable image.
        MissingError: pycocotools is not installed.
    """
    pycocotools()  # before the work
    data = read_coco(instances)
    chosen = {str(row["id"]) for row in data["images"]} if ids is None else set(ids)
    chosen &= {str(row["image_id"]) for row in data["annotations"]}
    rows = [row for row in data["images"] if str(row["id"]) in chosen]
    if not rows:
        raise BadInputError(f"{str(instances)!r} has no box in any of the chosen images")
    proposals, seconds = [], 0.0
    for done, row in enumerate(rows, 1):
        image = read_image(images / row["file_name"], str(row["id"]))
        start = time.perf_counter()
        (regions,) = proposer.propose([image], max(AT))
        seconds += time.perf_counter() - start
        for rank, region in enumerate(regions):
            x1, y1, x2, y2 = region.box
            box = [x1, y1, x2 - x1, y2 - y1]
            # scored by rank, so that ties keep the proposer's order
            proposals.append({"image_id": row["id"], "category_id": 1, "bbox": box, "score": -rank})
        progress(proposer.name, done, len(rows))
    recalls = _recalls(data, rows, proposals)
    return Recall(
        proposer=proposer.name,
        settings=dict(proposer.settings()),
        recall={n: float(recalls[0, 0, i]) for i, n in enumerate(AT)},
        average={n: float(recalls[:, 0, i].mean()) for i, n in enumerate(AT)},
        by_size={
            size: float(values.mean()) if (values := recalls[:, area, -1]).min() >= 0 else None
            for area, size in enumerate(SIZES, 1)
        },
        seconds_per_image=seconds / len(rows),
        images=len(rows),
        proposals_per_image=len(proposals) / len(rows),
    )


def _recalls(
    data: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], proposals: Sequence[Mapping[str, Any]]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """COCO's recalls, (IoU thresholds, all and :data:`SIZES`, :data:`AT`); -1 where there is no box."""
    coco, evaluator = pycocotools()
    kept = {row["id"] for row in rows}
    truth = coco()
    truth.dataset = {
        "images": list(rows),
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
    # COCO's loadRes refuses an empty list: a proposal far outside the image recalls nothing either
    nothing = [{"image_id": rows[0]["id"], "category_id": 1, "bbox": [-2e6, -2e6, 1, 1], "score": 0}]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth.createIndex()
        evaluation = evaluator(truth, truth.loadRes(list(proposals) or nothing), "bbox")
        evaluation.params.useCats = 0
        evaluation.params.imgIds = sorted(kept)
        evaluation.params.maxDets = list(AT)
        evaluation.evaluate()
        evaluation.accumulate()
    recalls: np.ndarray[Any, np.dtype[np.float64]] = evaluation.eval["recall"][:, 0]
    return recalls


def as_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The ``results`` of a results file as a Markdown table, one row per proposer."""
    names = [*(f"recall@{n}" for n in AT), *(f"AR@{n}" for n in AT)]
    lines = ["| regions | " + " | ".join(names) + " | ms per image |", "|---|" + "--:|" * (len(names) + 1)]
    for row in rows:
        cells = " | ".join(f"{row[name]:.3f}" for name in names)
        lines.append(f"| {row['proposer']} | {cells} | {1000 * row['seconds_per_image']:.0f} |")
    return "\n".join(lines) + "\n"
