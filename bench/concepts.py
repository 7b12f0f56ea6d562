"""Two ways to say what is in a collection: regions by name (felga concepts), or clusters of their vectors.

    python bench/concepts.py --root COCO [--work DIR] [--out bench/results/concepts.json]

Of the thirty concepts that most images show: the share of regions whose class is the commonest of their
concept (purity), and how many concepts are named by that class. The class of a region is that of the box that
it overlaps most, with an IoU of at least 0.5; other regions are not judged. Clusters are those of spherical
k-means, named by the word that stands out most in their mean. The FENet that comes with felga has read the
captions of train2017.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from felga.boxes import iou
from felga.cli.progress import Log
from felga.corpus.class_names import mentions
from felga.corpus.coco import coco_files, read_instances
from felga.engine import Engine
from felga.evaluation.results import commit, machine
from felga.evaluation.split import encode_split
from felga.indexing.options import Options
from felga.indexing.parts import Parts
from felga.survey.concepts import QUALITY, STANDING, concepts
from felga.survey.names import Surveyed
from felga.types import Rows, Vectors

TOP, CLUSTERS, ROUNDS, OVERLAP = 30, (30, 60, 100), 25, 0.5


def classes(seen: Surveyed, root: Path, split: str) -> npt.NDArray[Any]:
    """The class name of each region, "" where it overlaps no box."""
    instances = read_instances(coco_files(root, split).instances)
    found: list[str] = []
    for batch in seen.index.images.batches(["image_id", "boxes"]):
        for row in batch.to_pylist():
            truths = [one for one in instances.truths[row["image_id"]] if not one.crowd]
            overlaps = iou(
                np.array(row["boxes"], float), np.array([one.box for one in truths]).reshape(-1, 4)
            )
            for own in overlaps:
                best = int(own.argmax()) if len(own) else 0
                hit = len(own) and own[best] >= OVERLAP
                found.append(instances.categories[truths[best].category_id] if hit else "")
    return np.array(found, object)


def clusters(vectors: Vectors, count: int, seed: int = 0) -> Rows:
    """Spherical k-means: the cluster of each row."""
    rng = np.random.default_rng(seed)
    centers = vectors[rng.permutation(len(vectors))[:count]]
    for _ in range(ROUNDS):
        own = (vectors @ centers.T).argmax(1)
        sums = np.zeros_like(centers)
        np.add.at(sums, own, vectors)
        filled = np.linalg.norm(sums, axis=1) > 0
        centers[filled] = sums[filled] / np.linalg.norm(sums[filled], axis=1, keepdims=True)
    return (vectors @ centers.T).argmax(1)


def judged(groups: Rows, words: dict[int, str], shown: npt.NDArray[Any], owners: Rows) -> dict[str, Any]:
    """The largest groups of regions against their classes."""
    sizes = {group: len(set(owners[groups == group].tolist())) for group in words}
    purest = total = right = named = 0
    kinds = set()
    for group in sorted(sizes, key=lambda one: (-sizes[one], one))[:TOP]:
        counts = Counter(shown[(groups == group) & (shown != "")].tolist())
        if not counts:
            continue
        (name, most), *_ = counts.most_common(1)
        kinds.add(name)
        purest, total, named = purest + most, total + sum(counts.values()), named + 1
        right += bool(mentions([words[group]], [name])[0, 0])
    return {
        "purity_percent": round(100 * purest / total, 1),
        "regions": total,
        "classes": len(kinds),
        "named_rightly": right,
        "judged": named,
    }


def measure(folder: Path, root: Path, split: str) -> dict[str, Any]:
    """Both ways on the index of a split."""
    with Engine.open(folder, device="cpu") as engine:
        seen = Surveyed(engine)
        names, shown = seen.names(), classes(seen, root, split)
        usable = np.flatnonzero(~seen.extras["whole"] & (seen.extras["quality"] >= QUALITY))
        vectors = seen.index.regions.vectors(0, len(shown))[usable]
        owners = np.repeat(np.arange(len(seen.offsets) - 1), np.diff(seen.offsets))[usable]
        shown = shown[usable]
        own, standing = names.of(vectors)
        kept = standing >= STANDING
        words = {int(at): names.words[at] for at in np.unique(own[kept])}
        result = {"names": judged(own[kept], words, shown[kept], owners[kept])}
        for count in CLUSTERS:
            groups = clusters(vectors, count)
            filled = np.unique(groups).tolist()
            means = np.stack([vectors[groups == group].mean(0) for group in filled])
            words = dict(zip(filled, [names.words[at] for at in names.of(means)[0]], strict=True))
            result[f"{count} clusters"] = judged(groups, words, shown, owners)
        result["largest"] = [[one.name, one.images, one.regions] for one in concepts(engine, TOP)]  # type: ignore[assignment]
    return result


def main() -> None:
    """Measure, print and write the json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/audit"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/concepts.json"))
    args = parser.parse_args()
    torch.set_num_threads(2)
    args.work.mkdir(parents=True, exist_ok=True)
    parts = Parts.make(Options(device="cpu"))
    result: dict[str, Any] = {"commit": commit(), "machine": machine()}
    for split in ("train2017", "val2017"):
        files = coco_files(args.root, split)
        folder = encode_split(files, args.work, parts, None, Log()).index.folder
        result[split] = measure(folder, args.root, split)
    print(json.dumps(result, indent=1))
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
