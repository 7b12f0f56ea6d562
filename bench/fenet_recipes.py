"""Which recipe trains FENet best: the table behind `locked`, `residual` and `paper+`.

Captions are the only criterion (felga/fenet/validation.py): for each seed a quarter of the pairs is held out,
FENet is trained on the rest, and frozen and trained vectors are scored on the held-out quarter. Then every
other query word is deleted from the texts it is trained on, and these words are the queries: what it makes of
words that it has never seen. No box, class name or test image is used.

    felga train INDEX --features-out FILE
    python bench/fenet_recipes.py --features FILE [--seeds 0 1 2] [--only locked residual]

A row that the file named by --out has already is kept, unless --only names it.
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

from felga.cli.progress import Log
from felga.evaluation.results import commit, machine
from felga.fenet.closed_form import fit
from felga.fenet.features import Features
from felga.fenet.recipes import make_recipe
from felga.fenet.train import train
from felga.fenet.validation import Score, Validation
from felga.types import Embedding, Frozen

HELD_OUT = 0.25
CLOSED_FORM = "the closed form of locked, alone"
SMALL = {"hidden": 512, "epochs": 30}  # the paper's widths and epochs take hours here
VARIANTS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "locked": ("locked", {}),
    CLOSED_FORM: ("locked", {}),
    "locked without the ridge": ("locked", {"ridge": 0.0}),
    "locked, ridge of weight 2": ("locked", {"ridge": 2.0}),
    "locked without the owner loss": ("locked", {"method": "felga"}),
    "locked, random labels": ("locked", {"method": "random"}),
    "locked, width 1,024": ("locked", {"hidden": 1024}),
    "locked, batches of 128": ("locked", {"batch": 128, "rate": 0.1}),
    "locked, temperature .05": ("locked", {"temperature": 0.05}),
    "residual": ("residual", {}),
    "residual, best epoch of a tenth held out": ("residual", {"validation": 0.1}),
    "residual without the owner loss": ("residual", {"method": "felga"}),
    "residual without distinct keywords": ("residual", {"distinct": False}),
    "residual, lifted structure": ("residual", {"form": "lifted", "temperature": 0.1}),
    "residual, one layer": ("residual", {"layers": 1}),
    "paper, width 512, 30 epochs": ("paper", SMALL),
    "paper+, width 512, 30 epochs": ("paper+", SMALL),
    "paper+, width 512, 30 epochs, rate .003": ("paper+", {**SMALL, "rate": 0.003}),
    "paper+, width 512, 30 epochs, temperature .05": ("paper+", {**SMALL, "temperature": 0.05}),
    "paper+, width 512, 30 epochs, input scale 20": ("paper+", {**SMALL, "input_scale": 20.0}),
}


def trained(features: Features, label: str, seed: int) -> Embedding:
    """The embedding of a variant."""
    if label == CLOSED_FORM:
        return fit(features)
    name, changes = VARIANTS[label]
    return train(features, make_recipe(name, **changes), seed=seed, device="cpu")


def measure(features: Features, label: str, seed: int) -> dict[str, float]:
    """Three trainings, scored on pairs that they have not seen; gains over frozen in points of mAP."""
    order = np.random.default_rng([seed, 1]).permutation(features.usable)
    held, pairs = np.split(order, [round(HELD_OUT * len(order))])
    judge, seen = Validation(features.take(np.sort(held))), features.take(np.sort(pairs))
    start = time.process_time()
    embedding = trained(seen, label, seed)
    seconds = time.process_time() - start
    frozen, learnt = judge.score(Frozen()), judge.score(embedding)
    unseen = []
    for half in (0, 1):
        words = judge.queries[half::2]
        other = trained(seen.without(words), label, seed)
        unseen.append(gain(judge.score(other, words), judge.score(Frozen(), words)))
    return {
        "frozen_discovery": round(100 * frozen.discovery, 2),
        "frozen_assignment": round(100 * frozen.assignment, 2),
        **dict(zip(("discovery", "assignment"), gain(learnt, frozen), strict=True)),
        "unseen_discovery": round(statistics.mean(row[0] for row in unseen), 2),
        "unseen_assignment": round(statistics.mean(row[1] for row in unseen), 2),
        "cpu_seconds": round(seconds, 1),
    }


def gain(learnt: Score, frozen: Score) -> tuple[float, float]:
    """Discovery and assignment, in points."""
    return (
        round(100 * (learnt.discovery - frozen.discovery), 2),
        round(100 * (learnt.assignment - frozen.assignment), 2),
    )


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
    about = {
        "encoder": features.encoder,
        "fingerprint": features.fingerprint(),
        "pairs": len(features.usable),
        "left_out": features.left_out,
    }
    before = json.loads(args.out.read_text()) if args.out.exists() else {}
    rows = before["variants"] if before.get("features") == about else {}
    result: dict[str, Any] = {
        "protocol": f"{HELD_OUT:.0%} of the pairs held out by seed; gain over frozen, caption-only mAP x "
        "100; unseen: by words deleted from the training texts",
        "features": about,
        "variants": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    show = Log()
    for n, (label, (name, changes)) in enumerate(VARIANTS.items()):
        show("variants", n, len(VARIANTS))
        if label not in args.only if args.only else label in rows:
            continue
        seeds = {str(seed): measure(features, label, seed) for seed in args.seeds}
        mean = {
            key: round(statistics.mean(row[key] for row in seeds.values()), 2)
            for key in next(iter(seeds.values()))
        }
        rows[label] = {
            "recipe": make_recipe(name, **changes).to_json(),
            "commit": commit(),
            "machine": {**machine(), "threads": args.threads},
            "mean": mean,
            "seeds": seeds,
        }
        print(f"{label:48s}" + "".join(f" {key} {value:+.2f}" for key, value in mean.items()), flush=True)
        result["variants"] = {name: rows[name] for name in VARIANTS if name in rows}
        args.out.write_text(json.dumps(result, indent=1) + "\n")  # a long search keeps what it has


if __name__ == "__main__":
    main()
