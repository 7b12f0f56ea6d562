"""Rendering of bench/scaling.md for readme.py: what grows with what, and what 1e9 regions would take."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from readme_quality import load

BILLION = 10**9
REGIONS = 11  # of an image by default: ten, and the whole image
CORES, MEMORY_GB = 16, 128  # of the machine of the extrapolation
CORE_HOUR, DISK_MONTH = 0.04, 0.08  # US dollars, memory included; per GB


def growth() -> list[str]:
    """What was measured: indexes of several sizes, and the slopes."""
    found = load("scaling")
    rows = found["rows"]
    largest = max(row["dim"] for row in rows)
    by_images = [row for row in rows if row["dim"] == largest]
    count = by_images[1]["images"]
    by_dim = sorted((row for row in rows if row["images"] == count), key=lambda row: row["dim"])
    lines = [
        f"Ten regions an image, by an encoder that costs nothing (`python bench/scaling.py`, {found['machine']['cores']} cores)."
        " *Index* is the rest of the job: listing, decoding tiny images, store, FAISS files. *Codes*: building an approximate"
        " search by `--index auto` and measuring its recall. *Sync*: nothing has changed. *Start*: a whole `felga search WORD`"
        " in a new process, with codes and exact.",
        "",
        "| images | regions | dim | index, s | codes, s | sync, s | start, s | start, exact, s | disk, GB | peak memory, GiB |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in [*by_images, *(row for row in by_dim if row["dim"] != largest)]:
        codes = f"{row['codes_seconds']:.0f}" if row["recall"] else "none"
        lines.append(
            f"| {row['images']:,} | {row['regions']:,} | {row['dim']} | {row['index_seconds']:.1f} | {codes} |"
            f" {row['sync_seconds']:.2f} | {row['start_seconds']:.2f} | {row['exact_start_seconds']:.2f} |"
            f" {row['bytes'] / 1e9:.2f} | {row['peak_bytes'] / 2**30:.2f} |"
        )
    per_image = _slope(by_images, "images", "index_seconds")
    per_region = _slope(by_images, "regions", "bytes")
    per_dim = _slope(by_dim, "dim", "bytes") / by_dim[0]["regions"]
    sync = _slope(by_images, "images", "sync_seconds")
    return [
        *lines,
        "",
        _memory(),
        "",
        f"Slopes (least squares): {1e3 * per_image:.2f} ms of indexing beside encoding and {1e6 * sync:.0f} µs of an unchanged"
        f" sync for each image; {per_region:,.0f} bytes on disk for each region, {per_dim:.1f} of them for each dimension.",
    ]


def _memory() -> str:
    """Peak memory of indexing with the default encoder, by images."""
    parts = [
        f"{row['peak_own_mib']:,} MiB for {row['images']:,} images ({row['peak_mib']:,} with mapped pages)"
        for row in load("flat_memory")["rows"]
    ]
    return (
        "Peak memory of indexing images alone with the default encoder (`python bench/flat_memory.py --corpus IMAGES`): the"
        f" process's own {', '.join(parts)}. The kernel takes mapped pages of the index's files back when it needs them."
    )


def millions() -> list[str]:
    """Ten million regions."""
    found = load("millions")
    build = found["build"]
    limit = f", held to {found['limit_gb']:g} GB by the kernel" if found["limit_gb"] else ""
    beside = (
        f" Times are those of a busy machine: beside it was {found['beside']}." if "beside" in found else ""
    )
    lines = [
        f"{found['regions']:,} regions, {found['dim']} dimensions{limit} (`python bench/millions.py`): the vectors are"
        f" {found['bytes'] / 1e9:.1f} GB, mapped; codes (`{found['factory']}`) are {build['bytes'] / 1e9:.2f} GB, and took"
        f" {build['cpu_seconds'] / 60:.0f} core minutes to build. {found['anonymous_bytes'] / 1e9:.2f} GB of memory are the"
        " process's own. The first answer of a new process comes after"
        f" {found['first_answer_seconds']:.1f} s, in which it reads the codes.{beside}",
        "",
        "| | recall | one word: median, ms | 95th percentile, ms | 64 together, ms |",
        "|---|--:|--:|--:|--:|",
    ]
    for row in found["rows"]:
        name = row["method"]
        if "asked" in row:
            name += f", asked {row['asked']:g}, depth {row['effort']}/{row['fetch']}"
        lines.append(
            f"| {name} | {row['recall']:.3f} | {row['one_p50_ms']:,.1f} | {row['one_p95_ms']:,.1f} | {row['batch_ms']:,.0f} |"
        )
    return lines


def billion() -> list[str]:
    """What 1e9 regions would take: none of it was measured."""
    indexing, scaling, ten = load("indexing"), load("scaling"), load("millions")
    run = indexing["crop_by_crop"]["images alone"]["felga"]
    images = BILLION / REGIONS
    core_seconds = run["seconds"] / run["images"] * indexing["machine"]["cores"]
    hours = images * core_seconds / 3600
    row = max(scaling["rows"], key=lambda row: (row["dim"], row["images"]))
    disk = row["bytes"] / row["regions"] * BILLION / 1e9
    code = ten["build"]["bytes"] / ten["regions"]
    memory = (code * BILLION) / 1e9
    machines = math.ceil(memory / (0.7 * MEMORY_GB))
    each = BILLION / machines
    lists = 2 ** round(math.log2(4 * math.sqrt(each)))
    made = int(re.match(r"IVF(\d+)", ten["factory"])[1])  # type: ignore[index]
    build = ten["build"]["cpu_seconds"] * (each / ten["regions"]) * (lists / made) / CORES / 3600
    best = next(row for row in ten["rows"] if row.get("asked") == 0.95)
    search = best["one_p50_ms"] * (each / ten["regions"]) ** 0.5
    return [
        f"An extrapolation from these slopes, not a measurement: {BILLION:,} regions are {images / 1e6:.0f} million images."
        f" The machine has {CORES} cores like these and {MEMORY_GB} GB. Prices are assumptions, to be replaced by yours:"
        f" ${CORE_HOUR} for a core and its memory an hour, ${DISK_MONTH} for a GB of disk a month.",
        "",
        "| | takes | in money |",
        "|---|---|---|",
        f"| encode, images alone | {hours:,.0f} core hours: {hours / 24 / CORES / 10:.1f} days of ten machines (`--engine ray`) |"
        f" ${hours * CORE_HOUR:,.0f} |",
        f"| keep, features apart (1.28 TB by the default encoder) | {disk / 1e3:.2f} TB of disk | ${disk * DISK_MONTH:,.0f} a month |",
        f"| codes in memory | {memory:,.0f} GB: {_machines(machines)} of {MEMORY_GB} GB, {each / 1e6:,.0f} million regions each |"
        f" ${machines * CORES * CORE_HOUR * 730:,.0f} a month |",
        f"| build codes | {build:.1f} hours on each of them, with {lists:,} lists | ${build * machines * CORES * CORE_HOUR:,.0f} |",
        f"| a word at recall .95 | {search:.0f} ms on each of them at once, if time grows with the square root of the regions,"
        " as lists do | |",
        "",
        "felga serves one index from one machine: beyond it, an index for each machine behind a program that merges the ten best"
        " of each, or [Milvus](../docs/milvus.md), which shards by itself. The product of n regions and 4 √n lists makes the"
        " building of codes grow faster than the collection: past 100 million regions a machine, FAISS's own two-level lists"
        " (`IVF65536_HNSW32,PQ128x4fs`) are the better factory.",
    ]


def _machines(count: int) -> str:
    return "one machine" if count == 1 else f"{count} machines"


def _slope(rows: Sequence[dict[str, Any]], by: str, name: str) -> float:
    """Least squares of a column by another."""
    return float(np.polyfit([row[by] for row in rows], [row[name] for row in rows], 1)[0])
