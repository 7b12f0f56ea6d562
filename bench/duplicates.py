"""From which cosine on two images are one: the threshold of felga/search/duplicates.py, chosen on train2017.

    python bench/duplicates.py --root COCO [--out bench/results/duplicates.json]

Every fourth image of train2017 is copied: as a JPEG of quality 50, at half its size, without 3 % of each
side, without 8 %, and all of the first three at once. What is counted: the copies whose cosine with their
original reaches a threshold, and the pairs of different images that do. The cosine is that of the whole
images: by the vectors of the encoder, by what its network saw (the features that an index keeps), and by the
FENet that comes with felga. Then 10,000 random rows are compared with one another, and the CPU time is taken.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from felga.corpus.decode import from_pil
from felga.evaluation.results import commit, machine
from felga.fenet.checkpoint import load_fenet
from felga.fenet.packaged import packaged
from felga.registry import make_encoder
from felga.search.duplicates import NEAR, Groups, join_near
from felga.types import Floats, Vectors

EVERY = 4
THRESHOLDS = (0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99)
TIMED = 10_000
NEAREST = 12  # pairs of different images to name


def encoded_again(image: Image.Image, quality: int = 50) -> Image.Image:
    """As a JPEG file would hold it."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def resized(image: Image.Image) -> Image.Image:
    """At half its size."""
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)


def cropped(image: Image.Image, share: float = 0.03) -> Image.Image:
    """Without a share of each side."""
    dx, dy = round(image.width * share), round(image.height * share)
    return image.crop((dx, dy, image.width - dx, image.height - dy))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "jpeg 50": encoded_again,
    "half size": resized,
    "cropped 3 %": cropped,
    "cropped 8 %": lambda image: cropped(image, 0.08),
    "all three": lambda image: encoded_again(resized(cropped(image))),
}


def whole_images(images: Sequence[Callable[[], Image.Image]]) -> dict[str, Vectors]:
    """Unit vectors of whole images, by what made them."""
    encoder = make_encoder("conse", device="auto")
    fenet_file = packaged(encoder.identity())
    assert fenet_file is not None, "felga comes with a FENet for conse"
    fenet = load_fenet(fenet_file, encoder="conse", identity=encoder.identity(), device="cpu")
    vectors, features = [], []
    for n, image in enumerate(images):
        decoded = from_pil(image(), f"{n}")
        ((vector, feature),) = encoder.encode_features([decoded], [np.array([decoded.whole], np.float32)])
        vectors.append(vector)
        features.append(feature)
        if n % 200 == 0:
            print(n, "of", len(images), flush=True)
    raw, seen = np.concatenate(vectors), np.concatenate(features)
    return {"vectors": raw, "features": unit(seen.astype(np.float32)), "fenet": fenet.regions(raw, seen)}


def unit(rows: Vectors) -> Vectors:
    """Rows of length 1."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def judged(own: Vectors, copies: dict[str, Vectors], names: Sequence[str]) -> dict[str, Any]:
    """Copies and different pairs at each threshold, and the closest of the different pairs."""
    cosines = np.triu(own @ own.T, 1)
    cosines[np.tril_indices(len(own))] = -1
    order = np.argsort(-cosines, axis=None)[:NEAREST]
    pairs = [divmod(int(at), len(own)) for at in order]
    kept = {kind: (own[::EVERY] * rows).sum(1) for kind, rows in copies.items()}
    return {
        "copies": {kind: spread(found) for kind, found in kept.items()},
        "copies_found_percent": {
            kind: {str(t): round(100 * float((found >= t).mean()), 1) for t in THRESHOLDS}
            for kind, found in kept.items()
        },
        "different_pairs": {str(t): int((cosines >= t).sum()) for t in THRESHOLDS},
        "closest_different": [[names[i], names[j], round(float(cosines[i, j]), 4)] for i, j in pairs],
    }


def spread(cosines: Floats) -> dict[str, float]:
    """The least, some quantiles."""
    shares = {"least": 0.0, "1%": 0.01, "5%": 0.05, "median": 0.5}
    return {name: round(float(np.quantile(cosines, share)), 4) for name, share in shares.items()}


def main() -> None:
    """Encode, copy, count, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("bench/results/duplicates.json"))
    args = parser.parse_args()
    paths = sorted((args.root / "train2017").glob("*.jpg"))

    def opened(path: Path) -> Image.Image:
        return Image.open(path).convert("RGB")

    jobs = [lambda path=path: opened(path) for path in paths]
    for change in COPIES.values():
        jobs += [lambda path=path, change=change: change(opened(path)) for path in paths[::EVERY]]
    found = whole_images(jobs)
    count = len(paths[::EVERY])
    results = {}
    for made_by, rows in found.items():
        parts = np.split(rows[len(paths) :], len(COPIES))
        results[made_by] = judged(
            rows[: len(paths)], dict(zip(COPIES, parts, strict=True)), [path.name for path in paths]
        )
    timed = np.random.default_rng(0).standard_normal((TIMED, 1280)).astype(np.float32)
    timed = unit(timed)
    start = time.process_time()
    join_near(Groups(TIMED), lambda low, high: timed[low:high], np.arange(TIMED), NEAR)
    seconds = time.process_time() - start
    report = {
        "chosen": {"by": "features", "threshold": NEAR},
        "compared": {"images": TIMED, "dim": 1280, "cpu_seconds": round(seconds, 1)},
        "images": len(paths),
        "pairs": len(paths) * (len(paths) - 1) // 2,
        "copied": count,
        "by": results,
        "commit": commit(),
        "machine": machine(),
    }
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({k: v["different_pairs"] for k, v in results.items()}, indent=1))


if __name__ == "__main__":
    main()
