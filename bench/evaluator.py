"""How fast the exact mAP evaluator is, against the bare matrix product and against a loop over scikit-learn.

    python bench/evaluator.py                     # COCO 2017: 36,781 boxes x 5,000 texts x 10 keywords, whole
    python bench/evaluator.py --size 2014         # 291,875 x 40,504 x 10: a slice of boxes, extrapolated
    python bench/evaluator.py --size 2014 --full  # all of it

Vectors are synthetic, clustered around 80 classes; the keywords of the texts follow a Zipf-Mandelbrot law,
with about as many distinct ones as in COCO's captions (6,900 of 50,000, and 19,000 of 405,000 by Heaps' law).
In each round, one after the other on two threads:

* *ours*: ``felga.evaluation.ranking.rank``, with all its metrics;
* *floor*: only the full float32 product of all boxes with all keywords of all texts;
* *loop*: for each box of a sample, a product with all keywords, the maximum of each text, and scikit-learn's
  ``average_precision_score``; extrapolated from the sample to all boxes.

Times are wall clock, with CPU seconds beside them: where the load of a shared machine changes within a round,
the ratio of CPU seconds is the one to read. Results are merged into
``bench/results/evaluator.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from sklearn.metrics import average_precision_score

from felga.cli.progress import Log
from felga.evaluation.ranking import rank
from felga.evaluation.results import commit, machine
from felga.search.matrix import owner_scores

BOXES = {"2017": 36_781, "2014": 291_875}
TEXTS = {"2017": 5_000, "2014": 40_504}
KEYWORDS, DIM, CLASSES, THREADS = 10, 512, 80, 2
SLICE = 8_192
LAW = {"words": 25_000, "exponent": 1.2, "shift": 8.0}
NAMED, CLASS_WORDS, LEAN = 0.5, 10, 0.35


@dataclass
class Job:
    """The arguments of ``rank``."""

    queries: np.ndarray
    fragments: np.ndarray
    rows: np.ndarray
    offsets: np.ndarray
    query_class: np.ndarray
    relevant: np.ndarray


def make_job(size: str, boxes: int) -> Job:
    """Texts of the given size, and this many boxes of it."""
    g = np.random.default_rng(0)
    texts = TEXTS[size]
    relevant = np.zeros((CLASSES, texts), bool)
    for kind in range(CLASSES):  # the first class stands for person: in 54 % of the images
        share = max(0.54 * (kind + 1) ** -0.75, 0.002)
        relevant[kind, g.choice(texts, int(share * texts), replace=False)] = True

    weight = 1.0 / (np.arange(LAW["words"]) + LAW["shift"]) ** LAW["exponent"]
    drawn = np.searchsorted(np.cumsum(weight / weight.sum()), g.random((texts, 6 * KEYWORDS)))
    named = g.random((CLASSES, texts)) < NAMED  # of the relevant texts, those with a keyword of the class
    rows = np.empty((texts, KEYWORDS), np.int64)
    for text in range(texts):
        kinds = np.flatnonzero(relevant[:, text] & named[:, text])
        own = kinds * CLASS_WORDS + g.integers(0, CLASS_WORDS, len(kinds))
        words = dict.fromkeys([*own, *drawn[text]])
        rows[text] = list(words)[:KEYWORDS]
    distinct, rows = np.unique(rows, return_inverse=True)

    centres = g.standard_normal((CLASSES, DIM), dtype=np.float32)
    fragments = g.standard_normal((len(distinct), DIM), dtype=np.float32)
    of_class = distinct < CLASS_WORDS * CLASSES
    fragments[of_class] += LEAN * centres[distinct[of_class] // CLASS_WORDS]
    commonness = 1.0 / np.arange(1, CLASSES + 1) ** 0.9
    query_class = np.where(
        g.random(boxes) < 0.3, 0, g.choice(CLASSES, boxes, p=commonness / commonness.sum())
    ).astype(np.int64)
    queries = g.standard_normal((boxes, DIM), dtype=np.float32)
    queries *= 1.5
    queries += centres[query_class]
    for vectors in (queries, fragments):
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Job(queries, fragments, rows.ravel(), np.arange(texts + 1) * KEYWORDS, query_class, relevant)


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Wall seconds, CPU seconds of all threads, and the result of ``work``."""
    wall, cpu = time.perf_counter(), time.process_time()
    value = work()
    return time.perf_counter() - wall, time.process_time() - cpu, value


def ours(job: Job) -> Any:
    """The evaluator with all its metrics."""
    return rank(**vars(job), workers=THREADS)


def floor(queries: torch.Tensor, keywords: torch.Tensor) -> None:
    """The bare product, into one reused buffer."""
    rows = min(1024, (1 << 28) // len(keywords))  # at most 1 GiB
    out = torch.empty(rows, len(keywords))
    for start in range(0, len(queries), rows):
        part = queries[start : start + rows]
        torch.mm(part, keywords.T, out=out[: len(part)])


def loop(job: Job, keywords: np.ndarray, sample: np.ndarray) -> float:
    """Box by box; returns the seconds spent in scikit-learn alone."""
    alone = 0.0
    for box in sample:
        scores = (keywords @ job.queries[box]).reshape(-1, KEYWORDS).max(axis=1)
        start = time.perf_counter()
        average_precision_score(job.relevant[job.query_class[box]], scores)
        alone += time.perf_counter() - start
    return alone


def greatest_difference(job: Job, sample: np.ndarray) -> float:
    """Between felga's average precision and scikit-learn's, on the same scores."""
    queries, kinds = job.queries[sample], job.query_class[sample]
    shared = (job.fragments, job.rows, job.offsets)
    found = rank(queries, *shared, kinds, job.relevant, workers=THREADS).metrics.average_precision
    scores = owner_scores(queries, *shared, workers=THREADS)
    expected = [
        average_precision_score(job.relevant[kind], row) for kind, row in zip(kinds, scores, strict=True)
    ]
    return float(np.abs(found - expected).max())


def tied_share(job: Job, sample: np.ndarray) -> float:
    """The share of texts whose score another text has too."""
    scores = owner_scores(job.queries[sample], job.fragments, job.rows, job.offsets)
    alone = [(np.unique(row, return_counts=True)[1] == 1).sum() for row in scores]
    return float(1 - np.mean(alone) / scores.shape[1])


def most_memory(work: Callable[[], Any]) -> tuple[float | None, Any]:
    """Peak memory of ``work`` in MiB, beyond what the process held before, and its result; Linux only."""
    statm, pages, done = Path("/proc/self/statm"), [], threading.Event()
    if not statm.exists():
        return None, work()

    def watch() -> None:
        while not done.is_set():
            pages.append(int(statm.read_text().split()[1]))
            done.wait(0.005)

    before = int(statm.read_text().split()[1])
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        value = work()
    finally:
        done.set()
        watcher.join()
    return (max(pages) - before) * resource.getpagesize() / (1 << 20), value


def measure(size: str, full: bool, repeats: int, sampled: int) -> dict[str, Any]:
    """The entry of one size in the results file: medians of the rounds, and the rounds themselves."""
    whole = BOXES[size]
    boxes = whole if full or size == "2017" else SLICE
    job = make_job(size, boxes)
    sample = np.linspace(0, boxes - 1, sampled).astype(int)
    torch.set_num_threads(THREADS)
    say(f"{boxes} boxes x {TEXTS[size]} texts x {KEYWORDS} keywords, {len(job.fragments)} of them distinct")

    memory, ranking = most_memory(lambda: ours(job))  # also warms up
    every = torch.from_numpy(job.fragments)[torch.from_numpy(job.rows)]
    rounds = []
    show = Log()
    for i in range(repeats):
        show("rounds", i, repeats)
        part = sample[i::repeats]
        mine = timed(lambda: ours(job))
        plain = timed(lambda part=part: loop(job, every.numpy(), part))
        bare = timed(lambda: floor(torch.from_numpy(job.queries), every))
        more = boxes / len(part)
        rounds.append(
            {
                "ours_s": mine[0],
                "ours_cpu_s": mine[1],
                "floor_s": bare[0],
                "floor_cpu_s": bare[1],
                "loop_s": plain[0] * more,
                "loop_cpu_s": plain[1] * more,
                "loop_sklearn_alone_s": plain[2] * more,
                "ours_over_floor": mine[0] / bare[0],
                "ours_over_floor_cpu": mine[1] / bare[1],
                "loop_over_ours": plain[0] * more / mine[0],
                "loop_over_ours_cpu": plain[1] * more / mine[1],
            }
        )
        say(f"round {i + 1}: {json.dumps({key: round(value, 3) for key, value in rounds[-1].items()})}")
    mid = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
    scale = whole / boxes
    result = ranking.result()
    return {
        "boxes": whole,
        "boxes_measured": boxes,
        "extrapolated": boxes != whole,
        "texts": TEXTS[size],
        "keywords": len(job.rows),
        "distinct_keywords": len(job.fragments),
        "dim": DIM,
        **{key: value if "_over_" in key else value * scale for key, value in mid.items()},
        "loop_boxes": sampled,
        "greatest_difference_from_sklearn": greatest_difference(job, sample),
        "memory_of_ours_mib": memory,
        "figures": {key: getattr(result, key) for key in ("map", "map_optimistic", "map_pessimistic")},
        "tied_texts": tied_share(job, sample[:20]),
        "rounds": rounds,
        "threads": THREADS,
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "felga_commit": commit(),
        "machine": {**machine(), "sklearn": sklearn.__version__},
    }


def say(line: str) -> None:
    """Progress goes to stderr."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Parse, measure, merge into the results file, print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=sorted(BOXES), default="2017")
    parser.add_argument("--full", action="store_true", help="all boxes of 2014, not a slice")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sampled", type=int, default=200, help="boxes in the loop over scikit-learn")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "evaluator.json")
    given = parser.parse_args()
    entry = measure(given.size, given.full, given.repeats, given.sampled)
    content = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else {}
    content[given.size] = entry
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(
        json.dumps({key: value for key, value in entry.items() if key not in ("rounds", "machine")}, indent=1)
    )


if __name__ == "__main__":
    main()
