"""Memory that grows with the corpus: python bench/owners_memory.py [--owners 20000 200000] [--out FILE]

A corpus of tiny images is indexed, and synced once more unchanged, each in its own process; encoder and
proposer cost nothing. The slope of the largest resident set between the sizes is the memory per owner. It
counts the whole job: listing, plan, checks of the store and the manifest.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import felga
from felga.cli.progress import Log
from felga.corpus.items import ImageItem, Listing, make_listing
from felga.evaluation.results import commit, machine
from felga.indexing.job import index
from felga.indexing.options import Options
from felga.indexing.parts import Parts
from felga.registry import make_keywords


class Tiny:
    """A corpus of ``count`` images of a few pixels, all of the same bytes."""

    kind, root = "tiny", Path("/")

    def __init__(self, count, side=2):
        self._count = count
        image = io.BytesIO()
        Image.new("RGB", (side, side)).save(image, "PNG")
        self._image = image.getvalue()

    def settings(self):
        return {}

    def scan(self) -> Listing:
        names = (f"{n // 1000:05d}/{n:012d}.png" for n in range(self._count))
        return make_listing((ImageItem(name, name, len(self._image), 1) for name in names), [], [])

    def read(self, item):
        return self._image


class Still:
    """An encoder and a region proposer that do nothing."""

    name, dim = "still", 8

    def identity(self):
        return {"name": self.name, "dim": self.dim, "version": 1}

    def settings(self):
        return {"name": self.name}

    def propose(self, images, top):
        return [[] for _ in images]

    def encode_regions(self, images, boxes):
        return [np.eye(8, dtype=np.float32)[np.zeros(len(rows), int)] for rows in boxes]

    def encode_texts(self, texts):
        return np.eye(8, dtype=np.float32)[np.zeros(len(texts), int)]


def measure(count: int, out: Path) -> dict[str, float]:
    """Index, or sync, ``count`` images in this process."""
    options = Options(quality=False, commit_every=4096, device="cpu", batch_size=64)
    still = Still()
    parts = Parts(still, still, make_keywords("keybert", device="cpu"), options)
    start = time.perf_counter()
    report = index(Tiny(count), out, options, parts=parts, fenet="none", progress=Log())
    return {
        "unchanged": report.images.unchanged,
        "seconds": round(time.perf_counter() - start, 1),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def main() -> None:
    """Measure both runs of each size and write the json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--owners", type=int, nargs=2, default=[20_000, 200_000])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "owners_memory.json")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.owners[0], arguments.one)))
        return
    runs = []
    for count in arguments.owners:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--one", f"{folder}/index", "--owners", str(count), "0"]
            for kind in ("first", "sync"):
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                runs.append({"run": kind, "owners": count, **json.loads(done.stdout.splitlines()[-1])})
                print(runs[-1], file=sys.stderr, flush=True)
    fewer, more = arguments.owners
    slopes = {
        kind: round((large["peak_mib"] - small["peak_mib"]) * 2**20 / (more - fewer))
        for kind, small, large in (("first", runs[0], runs[2]), ("sync", runs[1], runs[3]))
    }
    result = {
        "felga": felga.__version__,
        "commit": commit(),
        "machine": machine(),
        "runs": runs,
        "bytes_per_owner": slopes,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
