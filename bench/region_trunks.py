"""Should the IoU of a region come from the convolutions that place its box, or from a branch of its own?

    python bench/region_trunks.py --root COCO [--seeds 0 1 2] [--out bench/results/region_trunks.json]

felga's head has one tower per level, with five outputs: the logit of the IoU, and four sides. Here it is
measured beside one with a second tower for the IoU alone: same boxes of train2017 without class names, same
views in the same order, same steps, same loss. ObjEmbed separates the IoU from the *meaning* of a region; in
felga these share nothing in any case, because meaning comes from a frozen encoder.

Every seventh image of train2017 is held out of training; only these may choose between the two, val2017 is
reported. A training whose weights are in --work already is not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from felga.corpus.coco import CocoFiles, coco_files, read_coco
from felga.evaluation.localisation import localise
from felga.evaluation.proposal_recall import measure
from felga.evaluation.protocol import discovery_scores
from felga.evaluation.results import commit, machine
from felga.evaluation.split import encode_split, read_split
from felga.files import sha256_file
from felga.indexing.options import Options
from felga.indexing.parts import Parts
from felga.models.arrays import read_arrays, write_arrays
from felga.models.efficientnet import DEFAULT, LONGER_SIDE, NETWORKS
from felga.proposals.learned import Learned
from felga.proposals.region_head import RegionHead, weights_of
from felga.proposals.region_training import BATCH, Training, to_learn
from felga.proposals.region_views import Views
from felga.search.average_precision import metrics

EVERY, HELD = 7, 3
EPOCHS = 2  # felga's head is trained for 3


class TwoTrunks(RegionHead):
    """A tower and an output for the IoU beside those for the sides, with the same start."""

    def __init__(self) -> None:
        super().__init__()
        own = RegionHead()
        self.iou_towers, self.iou_out = own.towers, own.out

    def predict(self, level: int, features: Tensor) -> Tensor:
        """(b, 5, h, w): the first output is the second trunk's; what it says of sides is dropped."""
        iou, sides = self.iou_out(self.iou_towers[level](features)), super().predict(level, features)
        return torch.cat([iou[:, :1], sides[:, 1:]], 1)


class TwoTrunkRegions(Learned):
    """Regions of a head with two trunks."""

    head_type = TwoTrunks


TRUNKS: dict[str, type[Learned]] = {"one": Learned, "two": TwoTrunkRegions}


def say(stage: str, done: int, total: int) -> None:
    """Progress, now and then."""
    if done % 200 == 0 or done == total:
        print(stage, done, total, flush=True)


def train(trunks: str, seed: int, files: CocoFiles, views: Views, weights: Path) -> None:
    """Train one head, and write its weights and the CPU time that it took."""
    _, boxes = to_learn(files.instances, leave_out=(EVERY, HELD))
    start = time.process_time()
    torch.manual_seed(seed)
    run = Training(views, boxes, TRUNKS[trunks].head_type(), EPOCHS, seed)
    while run.epoch < EPOCHS:
        run.one_epoch(say)
    about = {
        "supervision": "boxes of train2017 but every seventh image, no class names",
        "network": {"name": DEFAULT, "weights": NETWORKS[DEFAULT].sha256},
        "instances": sha256_file(files.instances),
        "cpu_seconds": round(time.process_time() - start),
    }
    write_arrays(weights, "regions", weights_of(run.average), about)
    print(f"{weights.name}: {about['cpu_seconds']} CPU seconds", flush=True)


def judge(trunks: str, weights: Path, files: CocoFiles, ids: Path, work: Path) -> dict[str, float]:
    """Recall, and boxes and discovery by meaning (the frozen default encoder) and quality; in percent."""
    proposer = TRUNKS[trunks](weights, "cpu", named=True)
    recall = measure(proposer, files.instances, files.images, ids=ids.read_text().split()).row()
    parts = Parts.make(Options(regions=proposer.name, device="cpu"))
    parts = replace(parts, regions=proposer, quality=proposer)
    split = read_split(encode_split(files, work, parts, ids, say), parts.encoder, say)
    (boxes,) = localise(split, quality=True)
    precision = metrics(discovery_scores(split, quality=True), split.contains).average_precision
    assert boxes.grounding is not None
    found = {
        **{name: recall[name] for name in ("recall@10", "recall@50", "recall@100", "AR@100")},
        "box_fits": boxes.winning_boxes.fits,
        "mean_iou": boxes.winning_boxes.mean_iou,
        "ap": boxes.detection.ap,
        "ap50": boxes.detection.ap50,
        "grounding": boxes.grounding.accuracy,
        "discovery": float(np.nanmean(precision)),
    }
    return {name: round(100 * value, 3) for name, value in found.items()}


def summary(seeds: Mapping[str, Mapping[str, Any]], split: str) -> dict[str, dict[str, float]]:
    """Mean and standard deviation of each measure over the seeds."""
    rows = [entry[split] for entry in seeds.values()]
    values = {name: [row[name] for row in rows] for name in rows[0]}
    return {
        name: {"mean": statistics.fmean(own), "std": statistics.stdev(own) if len(own) > 1 else 0.0}
        for name, own in values.items()
    }


def main() -> None:
    """Train, measure, print and write the json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/trunks"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/region_trunks.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    files = {name: coco_files(args.root, name) for name in ("train2017", "val2017")}
    source = files["train2017"]
    rows, _ = to_learn(source.instances, leave_out=(EVERY, HELD))
    ids = {name: args.work / f"{name}.txt" for name in files}
    for name, own in files.items():
        judged = {str(row["id"]) for row in read_coco(own.instances)["images"]} - {str(r["id"]) for r in rows}
        ids[name].write_text("\n".join(sorted(judged)) + "\n")
    views = Views(args.work)
    views.fill([(str(row["id"]), source.images / row["file_name"]) for row in rows], torch.device("cpu"), say)
    results: dict[str, Any] = {}
    for trunks, regions in TRUNKS.items():
        each: dict[str, Any] = {}
        for seed in args.seeds:
            weights = args.work / f"{trunks}-{seed}.safetensors"
            if not weights.exists():
                train(trunks, seed, source, views, weights)
            each[str(seed)] = {"cpu_seconds": read_arrays(weights, "regions")[1]["cpu_seconds"]}
            for name, own in files.items():
                each[str(seed)][name] = judge(trunks, weights, own, ids[name], args.work)
            print(trunks, seed, each[str(seed)], flush=True)
        count = sum(weight.numel() for weight in regions.head_type().parameters())
        means = {name: summary(each, name) for name in files}
        results[trunks] = {"weights": count, "mean": means, "seeds": each}
    result = {
        "commit": commit(),
        "machine": machine(),
        "network": {"name": DEFAULT, "side": LONGER_SIDE},
        "dataset": args.root.resolve().name,
        "images": {"trained": len(rows), **{name: len(own.read_text().split()) for name, own in ids.items()}},
        "epochs": EPOCHS,
        "steps": EPOCHS * (len(views.views) // BATCH),
        "results": results,
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
