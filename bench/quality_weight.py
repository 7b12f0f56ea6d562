"""How much quality should count beside meaning: gamma of felga/search/scoring.py, chosen on train2017 alone.

    python bench/quality_weight.py --root COCO [--out bench/results/quality_weight.json]

Every seventh image of train2017 is held out of both trainings, of the region head (boxes) and of the FENet
(captions). On these images, class names are queries: mAP, and the share of right images among the first ten
whose winning box has an IoU of at least 0.5 with an object of the class.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from felga.cli.progress import Log
from felga.corpus.coco import coco_files, read_coco
from felga.evaluation.localisation import winning_boxes
from felga.evaluation.protocol import Split
from felga.evaluation.results import commit, machine
from felga.evaluation.split import encode_split, read_split
from felga.fenet.recipes import make_recipe
from felga.fenet.train import train
from felga.indexing.options import Options
from felga.indexing.parts import Parts
from felga.proposals.region_training import train_regions
from felga.search.average_precision import metrics
from felga.search.matrix import owner_scores
from felga.search.rules import BestAndWhole, BestFragment
from felga.search.scoring import MeaningAndQuality
from felga.store.pairs import features_of
from felga.types import Embedding, Frozen

EVERY, HELD = 7, 3
GAMMAS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2)


def measure(split: Split, embedding: Embedding, gamma: float) -> dict[str, float]:
    """mAP and winning boxes, in percent, by the best region and by soft owner scores."""
    own = split.embedded(embedding)
    extras = {"quality": own.region_quality}
    scorer = MeaningAndQuality(gamma)
    regions = scorer.score(np.asarray(own.class_vectors @ own.region_vectors.T, np.float32), extras)
    found: dict[str, float] = {}
    for owner, rule in (("max", BestFragment()), ("soft", BestAndWhole())):
        scores = owner_scores(
            own.class_vectors, own.region_vectors, np.arange(len(own.region_vectors)), own.region_offsets,
            scorer=scorer, extras=extras, rule=rule, whole=own.region_whole,
        )  # fmt: skip
        found[f"map_{owner}"] = 100 * float(np.nanmean(metrics(scores, own.contains).average_precision))
        found[f"fits_{owner}"] = 100 * float(winning_boxes(own, scores, regions).fits or 0)
    return {name: round(value, 2) for name, value in found.items()}


def main() -> None:
    """Train, measure, print and write the json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/quality"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/quality_weight.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    files = coco_files(args.root, "train2017")
    ids = sorted((str(row["id"]) for row in read_coco(files.instances)["images"]), key=int)
    weights = args.work / "regions.safetensors"
    if not weights.exists():
        train_regions(
            files.instances, files.images, weights, supervision="boxes of train2017 but every seventh image",
            leave_out=(EVERY, HELD), resume=True, device="cpu", progress=Log(),
        )  # fmt: skip
    parts = Parts.make(Options(regions=f"learned:{weights}", device="cpu"))
    held = _subset(args.work / "held.txt", [one for at, one in enumerate(ids) if at % EVERY == HELD])
    fit = _subset(args.work / "fit.txt", [one for at, one in enumerate(ids) if at % EVERY != HELD])
    progress = Log()
    split = read_split(encode_split(files, args.work, parts, held, progress), parts.encoder, progress)
    pairs = features_of(encode_split(files, args.work, parts, fit, progress).index.folder)
    fenet = train(pairs, make_recipe("locked"), seed=0, device="cpu")
    embeddings: dict[str, Embedding] = {"frozen": Frozen(), "felga": fenet}
    rows: list[dict[str, Any]] = [
        {"method": name, "gamma": gamma, **measure(split, embedding, gamma)}
        for name, embedding in embeddings.items()
        for gamma in GAMMAS
    ]
    for row in rows:
        print(row)
    result = {"commit": commit(), "machine": machine(), "images": split.images, "results": rows}
    args.out.write_text(json.dumps(result, indent=1) + "\n")


def _subset(path: Path, ids: list[str]) -> Path:
    path.write_text("\n".join(ids) + "\n")
    return path


if __name__ == "__main__":
    main()
