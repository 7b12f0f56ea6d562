"""What smaller numbers cost: mAP, and bytes of a region, in single and half precision and in bytes.

    python bench/storage.py --root COCO [--split val2017] [--out bench/results/storage.json]

The packaged FENet, soft scores and quality, as people search. An index keeps for each region what the FENet
reads (the encoder's vector, and its features) and what is searched (the FENet's vector). One of these at a
time is rounded: to half precision, or to bytes, with one scale for each vector, whose largest number is 127.
Queries are not rounded. Nothing is chosen by it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from felga.cli.progress import Log
from felga.corpus.coco import coco_files
from felga.evaluation.protocol import Split, description_assignment, object_discovery
from felga.evaluation.results import commit, machine
from felga.evaluation.split import encode_split, read_split
from felga.fenet.checkpoint import load_fenet
from felga.fenet.packaged import packaged
from felga.indexing import Options
from felga.indexing.parts import Parts
from felga.types import Embedding, Vectors


def half(vectors: Vectors) -> Vectors:
    """The nearest numbers of half precision."""
    return vectors.astype(np.float16).astype(np.float32)


def in_bytes(vectors: Vectors) -> Vectors:
    """The nearest of 255 numbers, of a scale for each vector."""
    vectors = vectors.astype(np.float32)
    scale = np.maximum(np.abs(vectors).max(1, keepdims=True), 1e-12) / 127
    rounded: Vectors = (np.rint(vectors / scale) * scale).astype(np.float32)
    return rounded


def same(vectors: Vectors) -> Vectors:
    """As they are."""
    return vectors


def measure(
    split: Split,
    fenet: Embedding,
    frozen: Callable[[Vectors], Vectors] = same,
    features: Callable[[Vectors], Vectors] = same,
    searched: Callable[[Vectors], Vectors] = same,
) -> dict[str, float]:
    """mAP of both tasks in percent."""
    assert split.region_features is not None
    kept = replace(
        split, region_vectors=frozen(split.region_vectors), region_features=features(split.region_features)
    ).embedded(fenet)
    assert kept.text_vectors is not None
    kept = replace(
        kept,
        region_vectors=searched(kept.region_vectors),
        keyword_vectors=searched(kept.keyword_vectors),
        text_vectors=searched(kept.text_vectors),
    )
    found = (
        object_discovery(kept, owner="soft", quality=True),
        description_assignment(kept, "box", owner="soft"),
    )
    discovery, assignment = (100 * float(one.result().map) for one in found)
    return {"discovery": round(discovery, 3), "assignment": round(assignment, 3)}


def main() -> None:
    """Encode, measure every row, write the json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--split", default="val2017")
    parser.add_argument("--work", type=Path, default=Path("runs/storage"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "storage.json")
    args = parser.parse_args()
    parts = Parts.make(Options(device="cpu"))
    encoded = encode_split(coco_files(args.root, args.split), args.work, parts, None, Log())
    checkpoint = packaged(parts.encoder.identity())
    assert checkpoint is not None
    split, fenet = read_split(encoded, parts.encoder, Log()), load_fenet(checkpoint)
    assert split.region_features is not None
    dims = {
        "frozen": split.region_vectors.shape[1],
        "features": split.region_features.shape[1],
        "searched": split.embedded(fenet).region_vectors.shape[1],
    }
    rows = [{"what": "", "as": "as they come", **measure(split, fenet)}]
    for what, dim in dims.items():
        for name, rounded, size in (("half precision", half, 2 * dim), ("bytes", in_bytes, dim + 4)):
            found = measure(split, fenet, **{what: rounded})
            rows.append({"what": what, "as": name, "bytes": size, **found})
            print(rows[-1])
    result = {
        "commit": commit(),
        "machine": machine(),
        "dataset": f"{args.root.resolve().name} {args.split}",
        "regions": len(split.region_vectors),
        "dims": dims,
        "rows": rows,
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
