"""How meaning and quality make the score of a region: ablations of its form.

    python bench/localisation.py --root COCO [--regions NAME] [--split val2017] [--out FILE]

Frozen vectors of the default encoder, regions of a proposer, and their quality u: predicted (``predicted``),
and the true IoU with the nearest object of any class (``oracle``), which is what a perfect prediction would
bring. The forms, each ranked exactly:

* ``cos``: meaning alone;
* ``cos + gamma ln u``, which ranks as ``exp(cos / gamma) u``: felga's;
* ``u^g cos``; with g = 1 that of ObjEmbed's paper; a product with a cosine below 0 prefers bad boxes;
* ``sigmoid(a cos + b) u`` with a = 20, b = -3 ln 99, the start of ObjEmbed's code; it ranks as
  ``ln sigmoid(a cos + b) + ln u``.

Constants are rows, none is chosen here: the test split is no place to choose.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from felga.boxes import iou
from felga.cli.progress import Log
from felga.corpus.coco import coco_files
from felga.evaluation.localisation import detection, winning_boxes
from felga.evaluation.protocol import Split
from felga.evaluation.results import commit, machine, to_json
from felga.evaluation.split import encode_split, read_split
from felga.indexing import Options
from felga.indexing.parts import Parts
from felga.search.average_precision import metrics
from felga.search.segments import segment_max

GAMMAS = (0.02, 0.05, 0.1)
POWERS = (0.1, 0.25, 0.5, 1.0)
SLOPE, BIAS = 20.0, -3 * np.log(99)


def true_quality(split: Split) -> np.ndarray:
    """IoU of each region with the nearest ground-truth box of its image, at least 0.01."""
    best = np.full(len(split.region_vectors), 0.01)
    for p in range(split.images):
        part = slice(split.region_offsets[p], split.region_offsets[p + 1])
        objects = split.boxes[split.box_image == p].astype(np.float64)
        if len(objects) and part.start < part.stop:
            best[part] = np.maximum(
                iou(split.region_boxes[part].astype(np.float64), objects).max(axis=1), 0.01
            )
    return best


def forms(cosines: np.ndarray, u: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Each form's scores, (classes, regions)."""
    for gamma in GAMMAS:
        yield f"cos + {gamma:g} ln u", cosines + gamma * np.log(u)
    for power in POWERS:
        yield f"u^{power:g} cos", u**power * cosines
    yield "sigmoid(a cos + b) u", np.log(u) - np.log1p(np.exp(-(SLOPE * cosines + BIAS)))


def measure(split: Split, scores: np.ndarray) -> dict[str, Any]:
    """Discovery mAP, the winning boxes and AP of one form."""
    scores = scores.astype(np.float32)
    images = np.stack([segment_max(np.ascontiguousarray(row), split.region_offsets)[0] for row in scores])
    precision = metrics(images, split.contains).average_precision
    return {
        "discovery": float(np.nanmean(precision)),
        "winning_boxes": to_json(winning_boxes(split, images, scores)),
        "detection": to_json(detection(split, scores)),
    }


def main() -> None:
    """Encode the split, measure every form, write the json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--split", default="val2017")
    parser.add_argument("--regions", default=Options().regions)
    parser.add_argument("--work", type=Path, default=Path("indexes"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "localisation.json")
    arguments = parser.parse_args()
    parts = Parts.make(replace(Options(device="cpu"), regions=arguments.regions))
    files = coco_files(arguments.root, arguments.split)
    encoded = encode_split(files, arguments.work, parts, None, Log())
    split = read_split(encoded, parts.encoder, Log())
    cosines = split.class_vectors.astype(np.float64) @ split.region_vectors.T
    rows = {"cos": measure(split, cosines)}
    qualities = {"oracle": true_quality(split)}
    if split.region_quality is not None:
        qualities["predicted"] = np.nan_to_num(split.region_quality.astype(np.float64), nan=1.0)
    for kind, u in qualities.items():
        rows |= {f"{name}, {kind}": measure(split, scores) for name, scores in forms(cosines, u)}
    for name, row in rows.items():
        right, ap = row["winning_boxes"]["fits"], row["detection"]["ap"]
        print(f"{name:32} mAP {100 * row['discovery']:.1f}  right {100 * right:.1f}  AP {100 * ap:.2f}")
    result = {
        "commit": commit(),
        "machine": machine(),
        "dataset": f"{arguments.root.resolve().name} {arguments.split}",
        "encoder": parts.encoder.name,
        "regions": dict(encoded.manifest.contract.regions),
        "rows": rows,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
