"""How conse should encode regions: backbone, input size, pooling and padding; mAP against time.

    python bench/pooling.py --root COCO [--every 5] [--out bench/results/pooling.json]

Object discovery (the paper's 4.3) over every N-th image of train2017, 80 class names, default proposals.
The test images of val2017 are not used: this table chose the defaults.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import felga
from felga.cli.progress import Log
from felga.corpus.coco import read_coco, read_instances
from felga.corpus.decode import read_image
from felga.encoders import conse as module
from felga.evaluation.results import commit, machine
from felga.models import efficientnet
from felga.registry import make_regions
from felga.search.average_precision import metrics
from felga.search.segments import segment_max
from felga.types import Boxes, DecodedImage

SWEEP: tuple[tuple[str, str, int, float], ...] = (
    *((f"lite{n}", "roi", side, 0.0) for n in (0, 1, 2) for side in (384, 448, 512, 576)),
    *(("lite0", "roi", 384, pad) for pad in (0.1, 0.25)),
    ("lite0", "crop", 224, 0.0),
    ("lite2", "crop", 260, 0.0),
)


def padded(boxes: Boxes, pad: float, image: DecodedImage) -> Boxes:
    """Boxes extended on each side by a share of their size, clipped to the image."""
    grow = np.tile((boxes[:, 2:] - boxes[:, :2]) * pad, 2) * np.array([-1, -1, 1, 1], np.float32)
    limits = np.array([image.width, image.height] * 2, np.float32)
    return np.clip(boxes + grow, 0, limits)


def measure(
    network: str, pooling: str, side: int, pad: float, images: Sequence[DecodedImage], boxes: Sequence[Boxes],
    names: Sequence[str], contains: np.ndarray[Any, Any],
) -> dict[str, Any]:  # fmt: skip
    """mAP with the whole image and the regions, with each alone, and CPU time per image."""
    if pooling == "roi":
        efficientnet.LONGER_SIDE = side
        efficientnet.shared_trunk.cache_clear()
    encoder = module.conse(network, device="cpu", batch_size=32, pooling=pooling)
    queries = encoder.encode_texts(names)
    asked = [
        np.concatenate([np.array([image.whole], np.float32), padded(rows, pad, image)])
        for image, rows in zip(images, boxes, strict=True)
    ]
    encoder.encode_regions(images[:1], asked[:1])  # loads the weights
    start = time.process_time()
    vectors = encoder.encode_regions(images, asked)
    seconds = (time.process_time() - start) / len(images)
    found: dict[str, Any] = {"network": network, "pooling": pooling, "side": side, "padding": pad}
    for name, part in (("both", slice(None)), ("whole", slice(0, 1)), ("regions", slice(1, None))):
        taken = [rows[part] for rows in vectors]
        offsets = np.cumsum([0, *map(len, taken)])
        scores = np.stack([segment_max(row, offsets)[0] for row in queries @ np.concatenate(taken).T])
        found[f"map_{name}"] = float(np.nanmean(metrics(scores, contains).average_precision))
    return {**found, "cpu_seconds_per_image": round(seconds, 4)}


def main() -> None:
    """Sweep, print and write the json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "pooling.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    annotations = arguments.root / "annotations" / "instances_train2017.json"
    truth = read_instances(annotations)
    rows = sorted(read_coco(annotations)["images"], key=lambda row: row["id"])[:: arguments.every]
    images = [read_image(arguments.root / "train2017" / row["file_name"], str(row["id"])) for row in rows]
    regions = make_regions("learned").propose(images, 10)
    boxes = [np.array([r.box for r in own], np.float32).reshape(-1, 4) for own in regions]
    contains = np.array(
        [
            [any(t.category_id == c for t in truth.truths[p.image_id]) for p in images]
            for c in truth.categories
        ]
    )
    found = []
    show = Log()
    for setting in SWEEP:
        show("settings", len(found), len(SWEEP))
        found.append(measure(*setting, images, boxes, list(truth.categories.values()), contains))
        print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    result = {
        "felga": felga.__version__,
        "commit": commit(),
        "machine": machine(),
        "dataset": f"{arguments.root.resolve().name} train2017, every {arguments.every}th of its images",
        "images": len(images),
        "results": found,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
