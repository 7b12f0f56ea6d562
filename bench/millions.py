"""Search of ten million regions on a machine whose memory they do not fit: time, recall, memory, disk.

    python bench/millions.py [--images 1000000] [--memory 8] [--work runs/millions] [--out FILE]

Vectors are made (bench/clustered.py), ten regions an image, words as queries. Making, building and searching
are processes of their own. The searching one may hold ``--memory`` GB, files that the kernel caches included:
a control group (v1) keeps it to that, which needs root; 0 sets no limit. *First answer* is the time from the
start of the process, imports and reading of codes included. Depths are chosen with other words than recall is
measured with, against the exact search; that of numpy does not fit (bench/speed.py compares the two).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from clustered import REGIONS
from speed import PIECE, TOGETHER, K, asking, chosen_depths, made, recall

from felga.cli.progress import progress
from felga.search.approximate import ApproximateSearcher, Depth, write_approximate
from felga.search.flat import FlatSearcher
from felga.types import Vectors

WORDS, SINGLE, BATCHES = 64, 40, 3
SLOW = 2  # single words that the exact search is timed with: each reads all from disk
GROUP = Path("/sys/fs/cgroup/memory/felga-bench")


def opened(folder: Path, images: int, dim: int) -> FlatSearcher:
    """The regions that were made."""
    return FlatSearcher(sorted(folder.glob("regions-*.faiss")), dim, images * REGIONS)


def codes_of(folder: Path, flat: FlatSearcher) -> ApproximateSearcher:
    """Their codes."""
    counts = [min(PIECE, len(flat) - at) for at in range(0, len(flat), PIECE)]
    return ApproximateSearcher(
        folder / "codes.faiss", flat, counts, list(range(0, len(flat), PIECE)), Depth(64, 30)
    )


def build(folder: Path, images: int, dim: int, factory: str) -> dict[str, Any]:
    """Write the codes; CPU seconds, and the largest resident set."""
    start, path = time.process_time(), folder / "codes.faiss"
    with progress() as show:
        write_approximate(opened(folder, images, dim), factory, path, show)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"cpu_seconds": time.process_time() - start, "peak_bytes": peak, "bytes": path.stat().st_size}


def times(
    ask: Callable[[Vectors], Any], words: Vectors, single: int = SINGLE, batches: int = BATCHES
) -> dict[str, float]:
    """Milliseconds: median and 95th percentile of single words, median of 64 together."""
    found = []
    for part in [words[at : at + 1] for at in range(single)] + [words[:TOGETHER]] * batches:
        start = time.perf_counter()
        ask(part)
        found.append(1e3 * (time.perf_counter() - start))
    one, batch = found[:single], found[single:]
    p50, p95 = np.percentile(one, [50, 95]).tolist()
    return {"one_p50_ms": p50, "one_p95_ms": p95, "batch_ms": float(np.median(batch))}


def search(folder: Path, images: int, dim: int) -> dict[str, Any]:
    """First answer, then the rows."""
    flat = opened(folder, images, dim)
    codes = codes_of(folder, flat)
    words = np.load(folder / "words.npy")
    ask = asking(flat, codes)
    ask(words[:1])
    first = time.time() - _started()
    to_choose, words = np.load(folder / "to_choose.npy")[:WORDS], words[:WORDS]
    exact = asking(flat, None)
    both = exact(np.concatenate([words, to_choose]))
    truth, to_find = both[:WORDS], both[WORDS:]
    depths = chosen_depths(codes, flat, to_choose, to_find)
    rows = []
    for target, depth in depths.items():
        codes.depth = depth
        row = {"method": "approximate", "asked": target, "effort": depth.effort, "fetch": depth.fetch}
        rows.append({**row, "recall": recall(truth, ask(words)), **times(ask, words)})
    rows.append({"method": "exact", "recall": 1.0, **times(exact, words, SLOW, 1)})
    status = Path("/proc/self/status").read_text()
    anonymous = next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon:"))
    return {"first_answer_seconds": first, "anonymous_bytes": int(anonymous) * 1024, "rows": rows}


def _started() -> float:
    """When this process began, in seconds since 1970."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    boot = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
    return int(boot.split()[1]) + ticks / 100


@contextmanager
def limited(gigabytes: float) -> Iterator[list[str]]:
    """The start of a command whose memory, with the files that are cached for it, is limited."""
    if not gigabytes:
        yield []
        return
    GROUP.mkdir()
    try:
        (GROUP / "memory.limit_in_bytes").write_text(str(int(gigabytes * 1e9)))
        yield ["sh", "-c", f'echo $$ > {GROUP}/cgroup.procs && exec "$@"', "sh"]
    finally:
        GROUP.rmdir()


def main() -> None:
    """Make, build, search; write the json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--factory", default="IVF4096,PQ128x4fs")
    parser.add_argument("--memory", type=float, default=8, help="GB; 0: no limit")
    parser.add_argument("--work", type=Path, default=Path("runs/millions"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/millions.json"))
    parser.add_argument("--only", choices=("make", "build", "search"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    folder = args.work / f"{args.images}-{args.dim}"
    if args.only == "make":
        _, to_choose, _ = made(folder, args.images, args.dim, single=False)
        np.save(folder / "to_choose.npy", to_choose)
    elif args.only == "build":
        (folder / "build.json").write_text(json.dumps(build(folder, args.images, args.dim, args.factory)))
    elif args.only == "search":
        print(json.dumps(search(folder, args.images, args.dim)))
    if args.only:
        return
    from felga.evaluation.results import commit, machine  # torch, which a first answer does not need

    again = [sys.executable, *sys.argv, "--only"]
    if not (folder / "to_choose.npy").exists():
        subprocess.run([*again, "make"], check=True)
    if not (folder / "build.json").exists():
        subprocess.run([*again, "build"], check=True)
    with limited(args.memory) as start:
        done = subprocess.run([*start, *again, "search"], stdout=subprocess.PIPE, check=True)
        used = int((GROUP / "memory.max_usage_in_bytes").read_text()) if args.memory else None
    about = {"images": args.images, "regions": args.images * REGIONS, "dim": args.dim, "words": WORDS, "k": K}
    sizes = {"bytes": sum(path.stat().st_size for path in folder.glob("regions-*.faiss"))}
    result = {"commit": commit(), "machine": machine(), **about, **sizes, "factory": args.factory}
    result |= {
        "limit_gb": args.memory,
        "most_bytes": used,
        "build": json.loads((folder / "build.json").read_text()),
    }
    args.out.write_text(json.dumps(result | json.loads(done.stdout), indent=1) + "\n")


if __name__ == "__main__":
    main()
