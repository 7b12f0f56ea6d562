"""Rendering of what adapting to classes of one's own brings, for readme.py."""

from __future__ import annotations

from typing import Any

from readme_quality import load, network


def adaptation() -> list[str]:
    """Labelled boxes and discovery, before and after felga adapt."""
    found = load("adapt")
    rows = found["results"]
    cpu = [entry["training"] for task in rows.values() for entry in task["cpu_seconds"]]
    seeing = max(entry["features"] or 0 for task in rows.values() for entry in task["cpu_seconds"])
    lines = [
        "## MIC21Summarizer: adaptation",
        "",
        f"`felga adapt` ([guide](adapt.md)) on the {found['images']['train2017']:,} images of train2017, measured on the"
        f" {found['images']['val2017']} of val2017 (`python bench/adapt.py`), mean and standard deviation of"
        f" {len(found['seeds'])} seeds, in %. Trained on boxes and class names of coco-mini train2017: no FELGA row. AP and AP50"
        " are pycocotools' for boxes with labels; before, each box of `learned` has the class name that is nearest to its"
        " conse vector. The mAP is object discovery's, by ten regions of `learned` and the whole image. With *three quarters*"
        " of the classes, every fourth is held out, and its boxes are background. MIC21Summarizer's paper re-trains the ROI"
        " head of a Mask R-CNN on its own 700 classes and reports no AP: there is nothing to compare with."
        f" Images were seen through {network(found)}.",
        "",
        "| learned | | AP | AP50 | mAP, learned classes | mAP, held-out classes |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for name, row in rows.items():
        title = f"{name} ({row['classes']})"
        for label, kind, when in LINES:
            boxes = [value(row["boxes"][when], key) if kind == "frozen" else "" for key in ("ap", "ap50")]
            maps = [value(row[kind][when], key) for key in ("learned", "others")]
            lines.append(f"| {title} | {label} | {' | '.join([*boxes, *maps])} |")
            title = ""
    return [
        *lines,
        "",
        f"A training takes {min(cpu):.0f} to {max(cpu):.0f} CPU seconds, after one pass over the images of {seeing} CPU seconds.",
        "",
    ]


LINES = (
    ("before", "frozen", "before"),
    ("after", "frozen", "after"),
    ("before, FENet that comes with felga", "packaged", "before"),
    ("after, the same FENet", "packaged", "after"),
)


def value(row: dict[str, Any], key: str) -> str:
    """A figure, or mean and deviation; empty where it does not exist."""
    if key not in row:
        return ""
    if isinstance(row[key], dict):
        return f"{row[key]['mean']:.1f} ± {row[key]['std']:.1f}"
    return f"{row[key]:.1f}"
