"""Does the proposer `learned` find objects of classes whose boxes it never saw?

    python bench/unseen_classes.py --root COCO [--out bench/results/unseen_classes.json]

Every fourth of the 80 classes is left out of a training on train2017; recall is measured on the boxes of
these 20 classes in val2017 alone, beside the packaged weights (all 80 classes) and unsupervised proposals.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch

from felga.corpus.coco import coco_files, read_coco, read_instances
from felga.evaluation.proposal_recall import as_table, measure
from felga.evaluation.results import commit, machine
from felga.models.efficientnet import DEFAULT, LONGER_SIDE
from felga.proposals.region_training import train_regions
from felga.registry import make_regions

EVERY = 4


def main() -> None:
    """Train, measure, print and write the json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=Path("runs/regions-60-classes.safetensors"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/unseen_classes.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    train, test = coco_files(args.root, "train2017"), coco_files(args.root, "val2017")
    classes = list(read_instances(train.instances).categories.values())
    seen = [name for at, name in enumerate(classes) if at % EVERY != EVERY - 1]
    if not args.weights.exists():
        train_regions(
            train.instances,
            train.images,
            args.weights,
            supervision=f"boxes of {len(seen)} classes of train2017, no class names",
            classes=seen,
            resume=True,
            device="cpu",
            progress=lambda stage, done, total: print(stage, done, total) if done % 200 == 0 else None,
        )
    data = read_coco(test.instances)
    unseen = {row["id"] for row in data["categories"] if row["name"] not in seen}
    data["annotations"] = [row for row in data["annotations"] if row["category_id"] in unseen]
    with tempfile.TemporaryDirectory() as folder:
        only = Path(folder, "instances.json")
        only.write_text(json.dumps(data))
        rows = [
            measure(make_regions(name, device="cpu"), only, test.images).row()
            for name in (f"learned:{args.weights}", "learned", "graphseg+edgeboxes")
        ]
    rows[0]["proposer"] = "learned without these classes"
    result = {
        "commit": commit(),
        "machine": machine(),
        "network": {"name": DEFAULT, "side": LONGER_SIDE},
        "dataset": f"{args.root.resolve().name} val2017, boxes of {len(unseen)} classes",
        "classes": sorted(set(classes) - set(seen)),
        "results": rows,
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(as_table(rows))


if __name__ == "__main__":
    main()
