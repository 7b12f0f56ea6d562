"""Grouped search of many regions, beside numpy, FAISS and LanceDB: recall, time, memory, disk.

    python bench/speed.py [--images 100000] [--dim 512] [--lancedb PYTHON] [--work runs/speed] [--out FILE]

Vectors are made (bench/clustered.py): ten regions an image, words as queries. The best ten images by their
best region are asked for (FELGA, 4.3). The yardstick is numpy: one product of matrices in single precision,
``maximum.reduceat`` over the images, ``argpartition``. It is timed before and after each row, and a row's
speed is its ratio to the mean of both. Recall is the share of the ten images that numpy finds. Depths are
chosen with other words than recall is measured with. Memory is what 64 queries at once take beside the
vectors. ``--lancedb`` names the Python of an environment with lancedb; ``make bench`` makes one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from clustered import REGIONS, Clustered

from felga.cli.progress import progress
from felga.search.approximate import ApproximateSearcher, Depth, depths, factory_for, write_approximate
from felga.search.flat import FlatSearcher, write_piece
from felga.search.owners import best_owners
from felga.types import Rows, Vectors

K, WORDS, TOGETHER = 10, 256, 64
PIECE = 100_000  # regions of a FAISS file
TARGETS = (0.95, 0.98)  # recalls that depths are chosen for
SINGLE = 40  # queries that are timed one by one


def made(folder: Path, images: int, dim: int, *, single: bool) -> tuple[FlatSearcher, Vectors, Vectors]:
    """FAISS files of the regions (and base.npy of them), words to choose by, and words to measure with.

    Args:
        single: also write single precision, which numpy and LanceDB need.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = Clustered(dim)
    words = drawn.queries(2 * WORDS)
    np.save(folder / "words.npy", words[WORDS:])
    total = images * REGIONS
    paths = [folder / f"regions-{start:09d}.faiss" for start in range(0, total, PIECE)]
    base = folder / "base.npy"
    if not (paths[-1].exists() and (base.exists() or not single)):
        out = np.lib.format.open_memmap(base, "w+", np.float32, (total, dim)) if single else None
        waiting: list[Vectors] = []
        at = written = 0
        with progress() as show:
            for vectors in drawn.regions(images):
                if out is not None:
                    out[at : at + len(vectors)] = vectors
                at += len(vectors)
                waiting.append(vectors)
                if sum(map(len, waiting)) == PIECE or at == total:
                    write_piece(waiting, dim, paths[written])
                    written, waiting = written + 1, []
                show("regions", at, total)
    return FlatSearcher(paths, dim, total), words[:WORDS], words[WORDS:]


class Brute:
    """numpy's answer, and what it takes."""

    def __init__(self, base: Vectors) -> None:
        self.base, self.starts = base, np.arange(0, len(base), REGIONS)

    def __call__(self, queries: Vectors) -> Rows:
        """(q, 10) the best images of (q, dim), in any order."""
        scores = self.base @ queries[0] if len(queries) == 1 else self.base @ queries.T
        best = np.maximum.reduceat(scores, self.starts)
        found: Rows = np.argpartition(-best, K, axis=0)[:K]
        return found.reshape(K, -1).T


def milliseconds(ask: Callable[[Vectors], Any], queries: Vectors, *, together: bool) -> float:
    """The median over single queries, or over three times 64 of them."""
    parts = [queries[at : at + 1] for at in range(SINGLE)] if not together else [queries[:TOGETHER]] * 3
    ask(parts[0])
    times = []
    for part in parts:
        start = time.perf_counter()
        ask(part)
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))


def megabytes_of(ask: Callable[[Vectors], Any], queries: Vectors) -> float:
    """Most memory that 64 queries take beside what is there before."""
    ask(queries[:TOGETHER])
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status("VmRSS")
    ask(queries[:TOGETHER])
    return (_status("VmHWM") - before) / 1024


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def recall(exact: Sequence[Sequence[int]] | Rows, found: Sequence[Sequence[int]]) -> float:
    """Share of the exact images that were found."""
    return float(
        np.mean([len({*map(int, a)} & {*map(int, b)}) / K for a, b in zip(exact, found, strict=True)])
    )


def against(brute: Brute, ask: Callable[[Vectors], Any], queries: Vectors) -> dict[str, float]:
    """A row's times, and how often it is as fast as numpy."""
    row = {}
    for name, together in (("one", False), ("batch", True)):
        before = milliseconds(brute, queries, together=together)
        own = milliseconds(ask, queries, together=together)
        after = milliseconds(brute, queries, together=together)
        row |= {f"{name}_ms": own, f"{name}_numpy_ms": (before + after) / 2}
        row[f"{name}_ratio"] = row[f"{name}_numpy_ms"] / own
    return row


def asking(flat: FlatSearcher, codes: ApproximateSearcher | None) -> Callable[[Vectors], list[list[int]]]:
    """felga's answer."""
    offsets = np.arange(0, len(flat) + 1, REGIONS)

    def ask(queries: Vectors) -> list[list[int]]:
        found = best_owners(flat, offsets, queries, K, shortlister=codes)
        return [[owner.position for owner in owners] for owners in found]

    return ask


def chosen_depths(
    codes: ApproximateSearcher, flat: FlatSearcher, words: Vectors, exact: Sequence[Sequence[int]]
) -> dict[float, Depth]:
    """The cheapest depth that reaches each target with these words."""
    found: dict[float, Depth] = {}
    for depth in depths(codes, len(flat)):
        codes.depth = depth
        reached = recall(exact, asking(flat, codes)(words))
        for target in TARGETS:
            if reached >= target:
                found.setdefault(target, depth)
        if len(found) == len(TARGETS):
            break
    return found


class ByHand:
    """What a researcher writes with FAISS: search, then group; exact as far as the index is.

    Ten regions an image: of the best hundred regions, ten images at least are whole.
    """

    def __init__(self, index: Any, name: str) -> None:
        self.index, self.name = index, name

    def __call__(self, queries: Vectors) -> list[list[int]]:
        _, found = self.index.search(np.ascontiguousarray(queries), K * REGIONS)
        return [list(dict.fromkeys((own[own >= 0] // REGIONS).tolist()))[:K] for own in found]


def by_hand(base: Vectors, folder: Path, rows: Sequence[dict[str, Any]]) -> list[ByHand]:
    """FAISS's exact index, and felga's codes at the depths of ``rows``, refined by it: all in memory."""
    exact = faiss.IndexFlatIP(base.shape[1])
    for at in range(0, len(base), PIECE):
        exact.add(base[at : at + PIECE])
    found = [ByHand(exact, "FAISS by hand, IndexFlatIP")]
    codes = faiss.read_index(str(next(folder.glob("codes-*.faiss"))))
    for row in rows:
        refined = faiss.IndexRefine(codes, exact)
        refined.k_factor = row["fetch"] / REGIONS
        found.append(
            ByHand(
                refined,
                f"FAISS by hand, the same codes and IndexRefine, depth {row['effort']}/{row['fetch']}",
            )
        )
    return found


def by_hand_rows(
    brute: Brute, words: Vectors, folder: Path, rows: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """FAISS without felga."""
    truth, found = brute(words), []
    size = brute.base.nbytes
    for ask, row in zip(by_hand(brute.base, folder, rows), [None, *rows], strict=True):
        if row:
            faiss.extract_index_ivf(ask.index.base_index).nprobe = row["effort"]
        used = {"bytes": row["codes_bytes"] + size if row else size, "memory_mb": megabytes_of(ask, words)}
        found.append(
            {"method": ask.name, "recall": recall(truth, ask(words)), **used, **against(brute, ask, words)}
        )
    return found


def peer(python: Path, folder: Path) -> dict[str, Any]:
    """LanceDB's answers and times."""
    program = Path(__file__).with_name("lancedb_peer.py")
    command = [str(python), str(program), str(folder), str(REGIONS), str(K)]
    found: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return found


def exact_rows(flat: FlatSearcher, brute: Brute, words: Vectors, size: int) -> list[dict[str, Any]]:
    """numpy, and felga's exact search."""
    truth, ask = brute(words), asking(flat, None)
    of_numpy = {"method": "numpy", "recall": 1.0, "bytes": brute.base.nbytes}
    own = {"method": "felga, exact", "recall": recall(truth, ask(words)), "bytes": size}
    of_numpy["memory_mb"], own["memory_mb"] = megabytes_of(brute, words), megabytes_of(ask, words)
    return [of_numpy, {**own, **against(brute, ask, words)}]


def approximate_rows(
    flat: FlatSearcher, brute: Brute, to_choose: Vectors, words: Vectors, folder: Path, size: int
) -> list[dict[str, Any]]:
    """felga's approximate search, at the depth that each target asks for."""
    factory = factory_for(len(flat), flat.dim) or sys.exit("too few regions for an approximate search")
    path, timed = folder / f"codes-{factory.replace(',', '-')}.faiss", folder / "codes.json"
    if not (path.exists() and timed.exists()):
        start = time.perf_counter()
        with progress() as show:
            write_approximate(flat, factory, path, show)
        timed.write_text(json.dumps(time.perf_counter() - start))
    counts = [min(PIECE, len(flat) - at) for at in range(0, len(flat), PIECE)]
    codes = ApproximateSearcher(path, flat, counts, list(range(0, len(flat), PIECE)), Depth(1, 1))
    truth, rows = brute(words), []
    for target, depth in chosen_depths(codes, flat, to_choose, asking(flat, None)(to_choose)).items():
        codes.depth = depth
        ask = asking(flat, codes)
        row = {"method": f"felga, {factory}", "asked": target, "effort": depth.effort, "fetch": depth.fetch}
        row |= {"recall": recall(truth, ask(words)), "bytes": size + path.stat().st_size}
        row["codes_bytes"] = path.stat().st_size
        row |= {"build_seconds": json.loads(timed.read_text()), "memory_mb": megabytes_of(ask, words)}
        rows.append({**row, **against(brute, ask, words)})
    return rows


def peer_rows(python: Path, folder: Path, brute: Brute, words: Vectors) -> list[dict[str, Any]]:
    """LanceDB, at several depths."""
    before = milliseconds(brute, words, together=False)
    found, truth = peer(python, folder), brute(words)
    numpy_ms = (before + milliseconds(brute, words, together=False)) / 2
    shared = {"method": f"LanceDB {found['version']}, IVF_RQ", "bytes": found["bytes"]}
    shared["build_seconds"] = found["build_seconds"]
    return [
        {**shared, "effort": row["nprobes"], "fetch": row["refine"], "recall": recall(truth, row["found"]),
         "one_ms": row["ms"], "one_numpy_ms": numpy_ms, "one_ratio": numpy_ms / row["ms"]}
        for row in found["rows"]
    ]  # fmt: skip


def main() -> None:
    """Measure, and write the json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--lancedb", type=Path, help="Python of an environment with lancedb")
    parser.add_argument("--work", type=Path, default=Path("runs/speed"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/speed.json"))
    args = parser.parse_args()
    from felga.evaluation.results import commit, machine  # torch, which bench/millions.py starts without

    folder = args.work / f"{args.images}-{args.dim}"
    flat, to_choose, words = made(folder, args.images, args.dim, single=True)
    brute = Brute(np.load(folder / "base.npy"))
    size = sum(path.stat().st_size for path in folder.glob("regions-*.faiss"))
    rows = exact_rows(flat, brute, words, size)
    approximate = approximate_rows(flat, brute, to_choose, words, folder, size)
    rows += approximate + by_hand_rows(brute, words, folder, approximate)
    if args.lancedb:
        rows += peer_rows(args.lancedb, folder, brute, words)
        shutil.rmtree(folder / "lancedb", ignore_errors=True)
        (folder / "lancedb.json").unlink(missing_ok=True)
    about = {"images": args.images, "regions": len(flat), "dim": args.dim, "queries": WORDS, "k": K}
    result = {"commit": commit(), "machine": machine(), **about, "rows": rows}
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
