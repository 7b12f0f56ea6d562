"""Which recipe trains FENet best on few pairs: the table behind the `residual` recipe.

Captions are the only criterion (felga/fenet/validation.py): for each seed a quarter of the pairs is held out,
FENet is trained on the rest, and frozen and trained vectors are scored on the held-out quarter. No box, class
name or test image is used.

    python bench/fenet_recipes.py --features FILE --out bench/results/fenet_recipes.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from felga.evaluation.results import commit, machine
from felga.fenet.features import Features
from felga.fenet.recipes import make_recipe
from felga.fenet.train import train
from felga.fenet.validation import Validation

HELD_OUT = 0.25
PROTOTYPE = {  # the best recipe before this search
    "layers": 3,
    "rate": 0.05,
    "batch": 32,
    "epochs": 15,
    "schedule": "step",
    "form": "lifted",
    "temperature": 0.1,
    "lambda1": 0.5,
    "lambda2": 0.5,
    "lambda3": 0.2,
    "lambda4": 0.0,
    "distinct": False,
}
VARIANTS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "residual": ("residual", {}),
    "residual, best epoch of a tenth held out": ("residual", {"validation": 0.1}),
    "residual without the owner loss": ("residual", {"lambda4": 0.0}),
    "residual without distinct keywords": ("residual", {"distinct": False}),
    "residual, lifted structure": ("residual", {"form": "lifted", "temperature": 0.1}),
    "residual, one layer": ("residual", {"layers": 1}),
    "prototype": ("residual", PROTOTYPE),
}


def measure(features: Features, name: str, changes: Mapping[str, Any], seed: int) -> dict[str, float]:
    """One training, scored on pairs it has not seen; points of mAP."""
    order = np.random.default_rng([seed, 1]).permutation(features.usable)
    held, fit = np.split(order, [round(HELD_OUT * len(order))])
    judge = Validation(features.table(np.sort(held)))
    frozen = judge.score(lambda vectors: vectors)
    start = time.process_time()
    done = train(features.take(np.sort(fit)), make_recipe(name, **{"validation": 0.0, **changes}), seed=seed)
    seconds = time.process_time() - start
    learnt = judge.score(done.net.apply_to)
    return {
        "frozen_discovery": round(100 * frozen.discovery, 2),
        "frozen_assignment": round(100 * frozen.assignment, 2),
        "discovery": round(100 * (learnt.discovery - frozen.discovery), 2),
        "assignment": round(100 * (learnt.assignment - frozen.assignment), 2),
        "mean": round(100 * (learnt.mean - frozen.mean), 2),
        "cpu_seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=Path, required=True, help="features file of the training pairs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=sorted(VARIANTS), help="only these variants")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("bench/results/fenet_recipes.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    features = Features.load(args.features)
    result: dict[str, Any] = {
        "protocol": f"{HELD_OUT:.0%} of the pairs held out by seed; gain over frozen, caption-only mAP x 100",
        "commit": commit(),
        "machine": {**machine(), "threads": args.threads},
        "features": {
            "encoder": features.encoder,
            "fingerprint": features.fingerprint(),
            "pairs": len(features.usable),
            "left_out": features.left_out,
        },
        "variants": {},
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for label, (name, changes) in VARIANTS.items():
        if args.only and label not in args.only:
            continue
        rows = {seed: measure(features, name, changes, seed) for seed in args.seeds}
        mean = {
            key: round(statistics.mean(row[key] for row in rows.values()), 2) for key in rows[args.seeds[0]]
        }
        result["variants"][label] = {"recipe": name, "changes": dict(changes), "mean": mean, "seeds": rows}
        print(
            f"{label:45s} discovery {mean['discovery']:+.2f}  assignment {mean['assignment']:+.2f}",
            flush=True,
        )
        args.out.write_text(json.dumps(result, indent=1) + "\n")  # a long search keeps what it has


if __name__ == "__main__":
    main()
