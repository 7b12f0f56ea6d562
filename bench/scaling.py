"""How cost grows with images, regions and dimensions; rendered with an extrapolation into bench/scaling.md.

    python bench/scaling.py [--images 10000 30000 100000] [--dims 128 256 512] [--work FOLDER] [--out FILE]

The whole job of ``felga index`` with an encoder and a proposer that cost nothing: tiny images, ten made
regions each (bench/clustered.py). What is measured is everything else: listing, decoding, store, FAISS files,
codes.
Each size is an index of its own, by a process of its own. *Start* is the wall time of a whole
``felga search WORD`` whose vector is in the cache, in a new process: the median of five, exact and by codes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from clustered import REGIONS, Clustered
from owners_memory import Still, Tiny

from felga.cli.progress import Log
from felga.engine import Engine
from felga.evaluation.results import commit, machine
from felga.indexing.job import index
from felga.indexing.options import Options
from felga.indexing.parts import Parts
from felga.registry import make_keywords
from felga.types import Boxes, DecodedImage, Region, Vectors

WORD, RUNS, SIDE = "boat", 5, 64


class Made(Still):
    """Nine regions of every image, and vectors like those of an encoder; free of charge."""

    name = "made"

    def __init__(self, dim: int, images: int) -> None:
        self.dim, self._drawn = dim, Clustered(dim)
        self._vectors, self._ready = self._drawn.regions(images), np.empty((0, dim), np.float32)
        self._lock = threading.Lock()

    def propose(self, images: Sequence[DecodedImage], top: int) -> list[list[Region]]:
        """A grid of three by three."""
        third = SIDE / 3
        boxes = [(x * third, y * third, (x + 1) * third, (y + 1) * third) for y in range(3) for x in range(3)]
        return [[Region(box, 1.0, quality=0.5) for box in boxes[:top]] for _ in images]

    def encode_regions(self, images: Sequence[DecodedImage], boxes: Sequence[Boxes]) -> list[Vectors]:
        """The next vectors of the distribution."""
        with self._lock:
            return [self._next(len(rows)) for rows in boxes]

    def _next(self, count: int) -> Vectors:
        if len(self._ready) < count:
            self._ready = np.concatenate([self._ready, next(self._vectors)])
        found, self._ready = self._ready[:count], self._ready[count:]
        return found

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Words of the distribution."""
        return self._drawn.queries(len(texts))


def measure(images: int, dim: int, out: Path) -> dict[str, Any]:
    """Index, add codes, and keep the word's vector for the command line; for a new process."""
    made = Made(dim, images)
    options = Options(quality=False, commit_every=4096, device="cpu", batch_size=64)
    parts = Parts(made, made, make_keywords("keybert", device="cpu"), options)
    corpus = Tiny(images, SIDE)
    start = time.perf_counter()
    report = index(corpus, out, options, parts=parts, fenet="none", progress=Log())
    flat = time.perf_counter()
    index(corpus, out, options, parts=parts, fenet="none", index="auto", min_recall=0.95, progress=Log())
    codes = time.perf_counter()
    index(corpus, out, options, parts=parts, fenet="none", progress=Log())
    done = time.perf_counter()
    with Engine.open(out, device="cpu", encoder=made) as engine:
        engine.search(WORD)
        recall = engine.manifest.approximate.recall if engine.manifest.approximate else None
    return {
        "images": images,
        "dim": dim,
        "regions": report.images.fragments,
        "index_seconds": flat - start,
        "codes_seconds": codes - flat,
        "sync_seconds": done - codes,
        "recall": recall,
        "bytes": sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def starts(out: Path, more: Iterable[str]) -> float:
    """Seconds of a whole ``felga search``."""
    command = [sys.executable, "-m", "felga", "search", WORD, "--index", str(out), "--device", "cpu", *more]
    taken = []
    for _ in range(RUNS):
        start = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main() -> None:
    """Measure every size, and write the json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--dims", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--work", type=Path, default=Path("runs/scaling"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/scaling.json"))
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ["FELGA_CACHE"] = str(args.work.resolve() / "cache")
    if args.one:
        images, dim = args.one
        print(json.dumps(measure(images, dim, args.work / f"{images}-{dim}")))
        return
    sizes = [(images, args.dims[-1]) for images in args.images]
    sizes += [(args.images[1], dim) for dim in args.dims[:-1]]
    rows = []
    for images, dim in sizes:
        again = [sys.executable, *sys.argv, "--one", str(images), str(dim)]
        done = subprocess.run(again, stdout=subprocess.PIPE, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        out = args.work / f"{images}-{dim}"
        row["start_seconds"] = starts(out, [])
        row["exact_start_seconds"] = starts(out, ["--exact"])
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
    result = {"commit": commit(), "machine": machine(), "regions_per_image": REGIONS, "rows": rows}
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
