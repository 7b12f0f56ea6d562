"""Write the numbers of the README from the committed json files: python bench/readme.py [--check]."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
LABELS = {
    "entire": "entire image / sentence",
    "frozen": "frozen proposals",
    "dense": "Dense",
    "sparse": "Sparse",
    "dynamic": "Dynamic",
    "global": "global only",
    "felga": "**FELGA**",
    "dense+global": "Dense + global",
    "sparse+global": "Sparse + global",
}


def load(name: str) -> dict[str, Any] | None:
    """A results file, or None where it was not made yet."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def quality() -> list[str]:
    """mAP on coco-mini."""
    found = load("coco-mini-conse")
    if found is None:
        return []
    lines = [
        "### Quality",
        "",
        "mAP in per cent on coco-mini (1,526 real COCO images to train, captions alone; 300 others to test), encoder",
        "`conse`, mean of seeds "
        + ", ".join(map(str, found["seeds"]))
        + " (± their standard deviation). These images"
        " are few and chosen:",
        "the numbers compare with each other and not with published COCO figures. All tables of the paper, with its",
        "numbers beside: [bench/results/coco-mini-conse.md](bench/results/coco-mini-conse.md). The trainings of the table held",
        "a tenth of the pairs out to choose the best epoch; the default recipe takes all pairs and the last epoch, which the",
        "captions prefer (below). It became the default after its row here had been seen, so the table's own row is the",
        "cleaner figure.",
        "",
        "| | object discovery | description assignment |",
        "|---|--:|--:|",
    ]
    for method, label in LABELS.items():
        if method in found["results"]:
            entry = found["results"][method]
            lines.append(
                f"| {label} | {cell(entry['object_discovery'])} | {cell(entry['description_assignment'])} |"
            )
    if (whole := load("coco-mini-conse-all-pairs")) is not None:
        entry = whole["results"]["felga"]
        lines.append(
            "| **FELGA**, all pairs (the default)"
            f" | **{cell(entry['object_discovery'])}** | **{cell(entry['description_assignment'])}** |"
        )
    chance = found["results"]["frozen"]
    row = [chance[task]["chance"]["map"] for task in ("object_discovery", "description_assignment")]
    ceiling = [found["ceiling"][task] for task in ("object_discovery", "description_assignment")]
    lines.append(f"| *chance* | {100 * row[0]:.1f} | {100 * row[1]:.1f} |")
    lines.append(f"| *proposal ceiling*[^ceiling] | {100 * ceiling[0]:.1f} | {100 * ceiling[1]:.1f} |")
    lines += [
        "",
        "[^ceiling]: what the proposals alone allow: every image with a region of IoU ≥ 0.5 on an object ranked first,"
        " every text with a keyword that names the class. An encoder that sees around its region can be above it.",
        "",
        "```sh",
        "felga bench coco --root ../shared/coco-mini --set validation=0.1 --out bench/results/coco-mini-conse.json",
        "felga bench coco --root ../shared/coco-mini --methods frozen,felga --out bench/results/coco-mini-conse-all-pairs.json",
        "```",
        "",
    ]
    return lines


def cell(entry: dict[str, Any]) -> str:
    """``45.8 ± 0.2``."""
    std = f" ± {100 * entry['map_std']:.1f}" if entry.get("map_std") is not None else ""
    return f"{100 * entry['map']:.1f}{std}"


def speed() -> list[str]:
    """Indexing and evaluation."""
    lines = []
    found = load("indexing")
    if found:
        lines += [
            "### Speed and memory",
            "",
            f"Indexing real images with their captions by the default parts, {found['machine']['cores']} cores, no GPU"
            " (`python bench/indexing.py --corpus …/train2017`):",
            "",
            "| images | images/s | peak memory | decode | proposals | encoding | keywords |",
            "|--:|--:|--:|--:|--:|--:|--:|",
        ]
        for run in found["runs"]:
            parts = run["working_seconds"]
            cells = " | ".join(
                f"{1000 * parts[name] / run['images']:.0f} ms"
                for name in ("decode", "proposals", "encoding", "keywords")
            )
            lines.append(
                f"| {run['images']:,} | {run['images_per_second']:.1f} | {run['peak_mib']:,} MiB | {cells} |"
            )
        plain = found["plain_loop_crop_by_crop"]
        lines += [
            "",
            f"Working time an image, over threads. That is {found['times_faster_than_plain_loop']:.1f}x a plain loop over the"
            f" same parts that encodes crop by crop ({plain['images_per_second']:.1f} images/s in the same run).",
            "",
        ]
    found = load("evaluator")
    if found:
        lines += evaluator(found)
    return lines


def evaluator(found: dict[str, Any]) -> list[str]:
    """The exact mAP evaluator."""
    lines = []
    for size, entry in sorted(found.items()):
        extrapolated = f" (from {entry['boxes_measured']:,} of its boxes)" if entry["extrapolated"] else ""
        lines.append(
            f"The exact mAP of description assignment at COCO-{size} size ({entry['boxes']:,} boxes x {entry['texts']:,}"
            f" texts x 10 keywords){extrapolated} takes {entry['ours_over_floor']:.2f}x of the bare matrix product alone"
            f" and is {entry['loop_over_ours']:.0f}x faster than a product and scikit-learn box by box, with"
            f" {entry['memory_of_ours_mib']:.0f} MiB on top of its input (`python bench/evaluator.py`)."
        )
    return [*lines, ""] if lines else []


def proposals() -> list[str]:
    """Recall of the proposers."""
    found = load("proposals")
    if found is None:
        return []
    from felga.evaluation.proposal_recall import as_table

    return [
        "### Proposals",
        "",
        f"Recall at IoU 0.5 and COCO's average recall on {found['images']} images of {found['dataset']}"
        " (`felga bench proposals`):",
        "",
        as_table(found["results"]).rstrip(),
        "",
    ]


def pooling() -> list[str]:
    """How conse looks at regions."""
    found = load("pooling")
    if found is None:
        return []
    lines = [
        "### One pass instead of eleven",
        "",
        f"conse on {found['images']} images ({found['dataset']}): discovery mAP by whole image and regions, and CPU time"
        " of encoding an image (`python bench/pooling.py`). The default is lite0, RoI, 384 px:",
        "",
        "| network | pooling | side | padding | both | whole alone | regions alone | ms |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in found["results"]:
        maps = " | ".join(f"{100 * row[f'map_{name}']:.1f}" for name in ("both", "whole", "regions"))
        lines.append(
            f"| {row['network']} | {row['pooling']} | {row['side']} | {row['padding']:g} | {maps}"
            f" | {1000 * row['cpu_seconds_per_image']:.0f} |"
        )
    return [*lines, ""]


def recipes() -> list[str]:
    """What FENet's default recipe was chosen by."""
    found = load("fenet_recipes")
    if found is None:
        return []
    lines = [
        "### FENet's recipe",
        "",
        "Gain over the frozen vectors in points of a caption-only mAP, on a quarter of the training pairs that was held out,"
        " mean of the seeds; no box, no class name, no test image (`python bench/fenet_recipes.py`). Unless it says otherwise a row"
        " trains on all other pairs and keeps the last epoch; so does `felga train` by itself:",
        "",
        "| recipe | discovery | assignment | seeds | CPU s a training |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, entry in found["variants"].items():
        mean = entry["mean"]
        lines.append(
            f"| {name} | +{mean['discovery']:.1f} | +{mean['assignment']:.1f} | {len(entry['seeds'])} | {mean['cpu_seconds']:.0f} |"
        )
    return [*lines, ""]


def render() -> str:
    """The README's part between the marks."""
    return (
        "\n".join(["## Measured", "", *quality(), *recipes(), *speed(), *proposals(), *pooling()]).rstrip()
        + "\n"
    )


def main() -> None:
    """Rewrite the README, or with --check say whether it is as the json files have it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    path = ROOT / "README.md"
    text = path.read_text()
    marks = r"(<!-- numbers -->\n).*(<!-- /numbers -->)"
    new = re.sub(marks, lambda match: match[1] + "\n" + render() + "\n" + match[2], text, flags=re.S)
    if check:
        raise SystemExit(
            "README.md differs from bench/results: run python bench/readme.py" if new != text else 0
        )
    path.write_text(new)


if __name__ == "__main__":
    main()
