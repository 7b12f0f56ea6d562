"""What goes wrong when class names are asked of val2017 (felga audit --labels).

    python bench/breakdown.py --root COCO [--work DIR] [--out bench/results/breakdown.json]

Default parts, and the FENet that comes with felga. Nothing is chosen here.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from felga.cli.progress import Log
from felga.corpus.coco import coco_files, read_instances
from felga.engine import Engine
from felga.evaluation.results import commit, machine
from felga.evaluation.split import encode_split
from felga.indexing.options import Options
from felga.indexing.parts import Parts
from felga.survey.breakdown import breakdown

SPLIT = "val2017"


def main() -> None:
    """Measure, print and write the json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/audit"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/breakdown.json"))
    args = parser.parse_args()
    torch.set_num_threads(2)
    args.work.mkdir(parents=True, exist_ok=True)
    files = coco_files(args.root, SPLIT)
    parts = Parts.make(Options(device="cpu"))
    folder = encode_split(files, args.work, parts, None, Log()).index.folder
    with Engine.open(folder, device="cpu", encoder=parts.encoder) as engine:
        found = breakdown(engine, read_instances(files.instances))
    result: dict[str, Any] = {
        "commit": commit(),
        "machine": machine(),
        "dataset": f"{SPLIT}, {found.images} images",
        "total": asdict(found.total),
        "classes": [asdict(one) for one in found.classes],
    }
    print(json.dumps(result["total"], indent=1))
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
