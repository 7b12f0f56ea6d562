"""Rendering of the figures on answers for people, for readme.py: how sure they are."""

from __future__ import annotations

from readme_quality import load

GROUPS = {
    "carved": "class names whose images were all taken out, while related ones stay",
    "absent": "ImageNet names that no caption mentions",
    "nonsense": "nonsense",
    "misspelt": "misspelt class names",
    "languages": "class names in other languages",
}


def confidence() -> list[str]:
    """What a confidence promises and what it costs, and how confidences are spread."""
    found = load("confidence")
    lines = [
        "## Confidence",
        "",
        "Queries for things that are there (class names), and for things that are not. Weights and promise were chosen on"
        " train2017: a FENet that was trained on one half of its images judges the other. val2017 was only measured"
        " (`python bench/confidence.py --root ../shared/coco-mini`). *kept*: the share of class names whose best image"
        " reaches the confidence; *right*: of these, how many best images show the class; *false alarms*: the share of"
        " queries for absent things that reach it, mean of the five groups to the right of it. All in %.",
        "",
        f"| | confidence | kept | right | false alarms | {' | '.join(GROUPS.values())} |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for split in ("train2017", "val2017"):
        for row in found[split]["levels"]:
            groups = " | ".join(f"{row[group]:.0f}" for group in GROUPS)
            right = "" if row["right"] is None else f"{row['right']:.0f}"
            lines.append(
                f"| {split} | {row['confidence']} | {row['kept']:.0f} | {right} | {row['false_alarms']:.1f} | {groups} |"
            )
    return [*lines, "", *histograms(found["val2017"]), ""]


def histograms(measured: dict[str, dict[str, list[int]]]) -> list[str]:
    """How many queries of each group have a best image of which confidence, in %."""
    lines = [
        "The confidences of the best images on val2017, in % of the queries of a group:",
        "",
        "| confidence | below 0.2 | 0.2-0.4 | 0.4-0.6 | 0.6-0.8 | 0.8-0.9 | 0.9-0.95 | from 0.95 |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for group, counts in measured["histogram"].items():
        parts = [
            counts[:4],
            counts[4:8],
            counts[8:12],
            counts[12:16],
            counts[16:18],
            counts[18:19],
            counts[19:],
        ]
        cells = " | ".join(f"{100 * sum(part) / sum(counts):.0f}" for part in parts)
        lines.append(f"| {group} | {cells} |")
    return lines


def false_alarms() -> list[str]:
    """The promise in a sentence, for the README."""
    row = next(row for row in load("confidence")["val2017"]["levels"] if row["confidence"] == 0.95)
    return [
        f"Measured on 300 photographs: {row['kept']:.0f} % of the class names that they show reach 0.95, and"
        f" {row['right']:.0f} % of these best images are right; of queries for absent things {row['false_alarms']:.1f} % do"
        f" (nonsense {row['nonsense']:.0f} %, misspelt words {row['misspelt']:.0f} %, absent ImageNet classes"
        f" {row['absent']:.0f} %, and, hardest, class names whose images were all taken out while related ones stayed,"
        f" {row['carved']:.0f} %).",
    ]
