"""Rendering of the figures of bench/speed.py for readme.py."""

from __future__ import annotations

from typing import Any

from readme_quality import load


def search() -> list[str]:
    """Recall, time, memory and disk of each way to search, beside numpy."""
    found = load("speed")
    lines = [
        "## Search",
        "",
        f"{found['regions']:,} regions of {found['images']:,} images, {found['dim']} dimensions, the ten best images of"
        f" {found['queries']} words (`python bench/speed.py`). The vectors are made, like those of an encoder, with the words"
        " apart from the regions (bench/clustered.py). *Speed* is the time of numpy's grouped brute force in single"
        " precision, taken before and after, divided by the time of the row: for one query, and for 64 together. *Recall*"
        " is the share of numpy's ten images; depths were chosen with other words. *Memory* is what 64 queries take"
        " beside the vectors. LanceDB does not group: fragments are fetched and grouped by hand, one query at a time.",
        "",
        "| | recall | ms, one | speed | ms, 64 | speed | memory, MB | disk, GB | built in, s |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in found["rows"]:
        depth = f", depth {row['effort']}/{row['fetch']}" if "effort" in row else ""
        asked = f", asked {row['asked']:g}" if "asked" in row else ""
        cells = [
            f"{row['recall']:.3f}",
            _number(row, "one_ms", ".1f"),
            _number(row, "one_ratio", ".1f", "x"),
            _number(row, "batch_ms", ".0f"),
            _number(row, "batch_ratio", ".1f", "x"),
            _number(row, "memory_mb", ".0f"),
            f"{row['bytes'] / 1e9:.2f}",
            _number(row, "build_seconds", ".0f"),
        ]
        lines.append(f"| {row['method']}{asked}{depth} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _number(row: dict[str, Any], name: str, form: str, unit: str = "") -> str:
    return f"{row[name]:{form}}{unit}" if name in row else ""


def storage() -> list[str]:
    """What rounding costs."""
    found = load("storage")
    names = {
        "": "nothing rounded",
        "frozen": "the encoder's vector",
        "features": "features",
        "searched": "what is searched",
    }
    lines = [
        "## Storage",
        "",
        f"mAP % on {found['dataset']} ({found['regions']:,} regions) with the packaged FENet, soft scores and quality"
        " (`python bench/storage.py`). One of the three things that an index keeps for each region is rounded: to half"
        " precision, or to bytes with a scale for each vector. An index keeps vectors in half precision and features in bytes;"
        " bytes for what is searched would lose nothing here either.",
        "",
        "| rounded | to | bytes per region | object discovery | description assignment |",
        "|---|---|--:|--:|--:|",
    ]
    for row in found["rows"]:
        size = f"{row['bytes']:,}" if "bytes" in row else ""
        to = row["as"] if row["what"] else ""
        lines.append(
            f"| {names[row['what']]} | {to} | {size} | {row['discovery']:.2f} | {row['assignment']:.2f} |"
        )
    return [*lines, ""]
