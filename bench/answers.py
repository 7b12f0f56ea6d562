"""What a user sees: precision of the first hits, and how well the boxes fit.

    python bench/answers.py --root COCO [--split val2017] [--out bench/results/answers.json]

Every class name that occurs in the split is searched for in an index of the default parts: without a FENet
(``frozen``), and with the one that comes with felga (``default``), which was trained on captions of other
COCO images; the default regions were trained on boxes of those images. A hit is right if its image holds an
object of the class. Precision at k divides by min(k, images that hold the class). A box fits if its IoU with
an object of the class is at least 0.5; boxes are judged only where the image is right. ``unknown`` are the
class names that occur in no ImageNet class name, with the precision of their first five hits. ``absent`` are
the best scores of words that name nothing in COCO's images.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

import felga
from felga.boxes import iou
from felga.corpus.coco import CocoCorpus, read_coco
from felga.evaluation.results import commit, machine
from felga.fenet.packaged import packaged
from felga.indexing.job import apply_fenet
from felga.models.wordlist import class_names
from felga.registry import make_encoder
from felga.types import Box, ImageHit

CUTS = (1, 5, 10)
ABSENT = ("submarine", "spaceship", "xqzvblorp")


def ground_truth(instances: Path) -> dict[str, dict[str, list[Box]]]:
    """Class name -> image id -> its boxes; crowds are left out."""
    data = read_coco(instances)
    names = {row["id"]: row["name"] for row in data["categories"]}
    truth: dict[str, dict[str, list[Box]]] = defaultdict(lambda: defaultdict(list))
    for row in data["annotations"]:
        if not row.get("iscrowd"):
            x, y, width, height = row["bbox"]
            truth[names[row["category_id"]]][str(row["image_id"])].append((x, y, x + width, y + height))
    return truth


def judge(found: list[list[ImageHit]], truth: list[dict[str, list[Box]]]) -> dict[str, Any]:
    """Precision per cut, mean over the queries; fit of the boxes, mean over the right hits."""
    precision = {
        str(cut): statistics.fmean(
            sum(hit.image_id in own for hit in hits[:cut]) / min(cut, len(own))
            for hits, own in zip(found, truth, strict=True)
        )
        for cut in CUTS
    }
    right = [
        (hit.regions[0], own[hit.image_id])
        for hits, own in zip(found, truth, strict=True)
        for hit in hits
        if hit.image_id in own
    ]
    fits = [float(iou(np.array([region.box]), np.array(boxes)).max()) for region, boxes in right]
    return {
        "precision": {cut: round(value, 4) for cut, value in precision.items()},
        "right_hits": len(right),
        "whole_image": round(statistics.fmean(region.whole for region, _ in right), 4),
        "mean_iou": round(statistics.fmean(fits), 4),
        "boxes_that_fit": round(statistics.fmean(fit >= 0.5 for fit in fits), 4),
    }


def answers(out: Path, names: list[str], truth: dict[str, dict[str, list[Box]]]) -> dict[str, Any]:
    """What a search of an index answers, judged."""
    with felga.Engine.open(out, device="cpu") as engine:
        found = engine.search_all(names, max(CUTS))
        absent = {word: round(engine.search(word, 1)[0].score, 3) for word in ABSENT}
    known = {word for name in class_names() for word in name.lower().split()}
    unknown = [name for name in names if not set(name.split()) & known]
    return {
        **judge(found, [truth[name] for name in names]),
        "unknown": {
            name: round(
                sum(hit.image_id in truth[name] for hit in found[names.index(name)][:5])
                / min(5, len(truth[name])),
                3,
            )
            for name in unknown
        },
        "present": {name: round(hits[0].score, 3) for name, hits in zip(names, found, strict=True)},
        "absent": absent,
    }


def main() -> None:
    """Index the split, search, judge, write the json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--split", default="val2017")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "answers.json")
    arguments = parser.parse_args()
    root, split = arguments.root.resolve(), arguments.split
    annotations = root / "annotations"
    truth = ground_truth(annotations / f"instances_{split}.json")
    names = sorted(truth)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "index")
        corpus = CocoCorpus(annotations / f"captions_{split}.json", root / split)
        report = felga.index(corpus, out, felga.Options(device="cpu"), fenet="none")
        frozen = answers(out, names, truth)
        checkpoint = packaged(make_encoder("conse").identity())
        apply_fenet(out, checkpoint, device="cpu")
        default = answers(out, names, truth)
    result = {
        "felga": felga.__version__,
        "commit": commit(),
        "machine": machine(),
        "dataset": f"{root.name} {split}",
        "images": report.images.added,
        "queries": len(names),
        "frozen": frozen,
        "default": default,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
