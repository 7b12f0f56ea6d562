"""How much a whole text counts beside its keywords: w and t of felga/search/rules.py, by train2017 alone.

    python bench/assignment_score.py --root COCO [--out bench/results/assignment_score.json]

A FENet is trained on every second captioned image of train2017. On the other images, ground-truth boxes are
queries over the texts: mAP of description assignment (relevance ``box``), mean over boxes and over classes.
Each half is held out once.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from felga.cli.progress import Log
from felga.corpus.coco import coco_files
from felga.evaluation.protocol import Split
from felga.evaluation.ranking import with_wholes
from felga.evaluation.results import commit, machine
from felga.evaluation.split import encode_split, read_split
from felga.fenet.recipes import make_recipe
from felga.fenet.train import train
from felga.indexing.options import Options
from felga.indexing.parts import Parts
from felga.search.matrix import Rule, owner_metrics
from felga.search.rules import BestFragment, SoftAndWhole
from felga.store.pairs import features_of
from felga.types import Rows

TEMPERATURES = (0.05, 0.1, 0.2)
WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Held:
    """An embedded split, and the P' of its images (and texts) that were held out."""

    split: Split
    images: Rows

    def score(self, rule: Rule, *, keywords: bool = True, wholes: bool = True) -> dict[str, float]:
        """mAP in percent, mean over boxes and over classes, by some fragments of the texts."""
        split = self.split
        assert split.text_vectors is not None
        assert split.text_whole is not None
        rows = [split.keyword_rows[slice(*split.keyword_offsets[p : p + 2])] for p in self.images]
        rows = rows if keywords else [own[:0] for own in rows]
        fragments, whole = with_wholes(
            split.keyword_vectors, np.concatenate(rows), np.cumsum([0, *map(len, rows)]),
            split.text_vectors[self.images], split.text_whole[self.images] & wholes,
        )  # fmt: skip
        boxes = np.isin(split.box_image, self.images)
        classes = split.box_class[boxes]
        precision = owner_metrics(
            split.box_vectors[boxes], *fragments, classes, split.contains[:, self.images],
            rule=rule, whole=whole,
        ).average_precision  # fmt: skip
        by_class = [precision[classes == each].mean() for each in np.unique(classes)]
        return {
            "boxes": round(100 * float(precision.mean()), 2),
            "classes": round(100 * float(np.mean(by_class)), 2),
        }


def measure(folds: list[Held]) -> list[dict[str, Any]]:
    """A row per score of a text, with a value per fold."""
    ways: list[tuple[dict[str, Any], list[dict[str, float]]]] = [
        ({"score": "best keyword"}, [held.score(BestFragment(), wholes=False) for held in folds]),
        ({"score": "whole text"}, [held.score(BestFragment(), keywords=False) for held in folds]),
    ]
    for t in TEMPERATURES:
        for w in WEIGHTS:
            found = [held.score(SoftAndWhole(t, w)) for held in folds]
            ways.append(({"score": "soft", "t": t, "w": w}, found))
    return [
        {**way, **{f"map_{key}": [each[key] for each in found] for key in found[0]}} for way, found in ways
    ]


def main() -> None:
    """Encode, train, measure, print and write the json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/assignment"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/assignment_score.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    parts = Parts.make(Options(device="cpu"))
    encoded = encode_split(coco_files(args.root, "train2017"), args.work, parts, None, Log())
    split = read_split(encoded, parts.encoder, Log())
    assert split.image_ids is not None
    pairs = features_of(encoded.index.folder)
    folds = []
    for fold in (0, 1):
        fit = pairs.take(np.arange(fold, len(pairs), 2))
        fenet = train(fit, make_recipe("locked"), seed=0, device="cpu")
        held = np.flatnonzero(~np.isin(split.image_ids, fit.pair_ids))
        folds.append(Held(split.embedded(fenet), held))
    rows = measure(folds)
    for row in rows:
        print(row)
    result = {
        "commit": commit(),
        "machine": machine(),
        "images": [len(held.images) for held in folds],
        "boxes": [int(np.isin(split.box_image, held.images).sum()) for held in folds],
        "results": rows,
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
