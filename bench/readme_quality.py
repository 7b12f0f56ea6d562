"""Rendering of the quality figures for readme.py: mAP, boxes, first hits, the weights of quality and whole texts."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
METHODS = {
    "entire": "entire image / sentence",
    "frozen": "frozen proposals",
    "dense": "Dense",
    "sparse": "Sparse",
    "dynamic": "Dynamic",
    "random": "random labels",
    "global": "global only",
    "felga": "**FELGA**",
    "felga+owner": "**FELGA** + owner loss",
    "dense+global": "Dense + global",
    "sparse+global": "Sparse + global",
}
TASKS = ("object_discovery", "description_assignment")
TEXT_SCORES = {
    "best keyword": "its best keyword",
    "whole text": "the cosine of the whole text",
    "soft": "a soft maximum",
}


def load(name: str) -> dict[str, Any]:
    """A results file."""
    data: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return data


def network(found: dict[str, Any]) -> str:
    """What images were seen through: ``Lite2 at 512 pixels``. Files from before they said so saw by Lite0."""
    own = found.get("network", {"name": "lite0", "side": 448})
    return f"{own['name'].capitalize()} at {own['side']} pixels"


def percent(entry: dict[str, Any]) -> str:
    """mAP and its standard deviation over the seeds: ``45.8 ± 0.2``."""
    std = f" ± {100 * entry['map_std']:.1f}" if entry.get("map_std") is not None else ""
    return f"{100 * entry['map']:.1f}{std}"


def bounds(entry: dict[str, Any]) -> str:
    """The mAP with every tie ordered against the ranking, and for it: ``41.6-47.6``."""
    return f"{100 * entry['map_pessimistic']:.1f}-{100 * entry['map_optimistic']:.1f}"


def fits(entry: dict[str, Any]) -> str:
    """How often the winning box of a right image fits, in percent."""
    found = entry.get("localisation")
    return f"{100 * found['winning_boxes']['fits']:.1f}" if found else ""


HEAD = [
    "| | object discovery | description assignment | bounds by ties | box fits | AP@50 of boxes | phrase grounding |",
    "|---|--:|--:|--:|--:|--:|--:|",
]


def quality_row(label: str, entry: dict[str, Any]) -> str:
    """mAP and boxes of one row of a results file, below :data:`HEAD`."""
    discovery, assignment = (entry[task] for task in TASKS)
    boxes = entry.get("localisation")
    more = (
        f"{fits(entry)} | {100 * boxes['detection']['ap50']:.1f} | {100 * boxes['grounding']['accuracy']:.1f}"
        if boxes
        else " | | "
    )
    return f"| {label} | {percent(discovery)} | {percent(assignment)} | {bounds(assignment)} | {more} |"


def quality_of(name: str, regions: str, command: str) -> list[str]:
    """mAP and boxes of one results file."""
    found = load(name)
    frozen = found["results"]["frozen"]
    lines = [f"### {regions}", "", *HEAD]
    for row, entry in found["results"].items():
        method, _, scoring = row.partition(" ")
        label = METHODS.get(method, method) + (f", {scoring.replace(' ', ' and ')}" if scoring else "")
        lines.append(quality_row(label, entry))
    chance = (f"{100 * frozen[task]['chance']['map']:.1f}" for task in TASKS)
    ceiling = (f"{100 * found['ceiling'][task]:.1f}" for task in TASKS)
    shares = found["diagnostic"]
    return [
        *lines,
        f"| *chance* | {' | '.join(chance)} | | | | |",
        f"| *proposal ceiling*[^ceiling] | {' | '.join(ceiling)} | | | | |",
        "",
        f"Frozen cosines of a pair vary by keyword ({100 * shares['keyword']:.0f} %), by region ({100 * shares['region']:.0f} %)"
        f" and by both together ({100 * shares['interaction']:.0f} %). Two regions of one image have a mean cosine of"
        f" {shares['within_image']:.2f}, two of different images {shares['between_images']:.2f}.",
        "",
        "```sh",
        command,
        "```",
        "",
    ]


def quality() -> list[str]:
    """mAP by the paper's protocol on coco-mini, with both kinds of regions."""
    found = load("coco-mini-learned")
    data = found["data"]
    return [
        "## Quality",
        "",
        f"mAP in % on coco-mini, encoder `conse`. FENet is trained on the captions of {data['train']['images']:,} COCO images,"
        f" without boxes or class names; {data['test']['images']} other images are the test. Mean of seeds"
        f" {', '.join(map(str, found['seeds']))} ± standard deviation. *Bounds by ties*: the mAP of assignment with every tie"
        " ordered against the ranking, and for it: many texts share their best keyword. *Box fits*: of the right images"
        " among the first ten, the share whose winning region has an IoU ≥ 0.5 with an object of the class.",
        "",
        "- The images are few and selected: compare the rows with each other, not with published COCO results.",
        "- Rows are trained with the recipe `locked`, not with the paper's own (`--recipe paper`); the owner loss of the"
        " default recipe is a row of its own.",
        "- *soft*: soft owner scores, *quality*: the predicted IoU of a region counts; neither is in the paper. Other rows"
        " score by the best fragment alone (4.3).",
        "",
        *quality_of(
            "coco-mini-unsupervised",
            "Unsupervised regions (`graphseg+edgeboxes`)",
            "felga bench coco --root ../shared/coco-mini --regions graphseg+edgeboxes --no-quality"
            " --out bench/results/coco-mini-unsupervised.json",
        ),
        *quality_of(
            "coco-mini-learned",
            "Learned regions (`learned`: trained on boxes of train2017, no class names)",
            "felga bench coco --root ../shared/coco-mini --methods entire,frozen,random,felga,felga+owner"
            " --out bench/results/coco-mini-learned.json",
        ),
        *paper_recipes(),
        "[^ceiling]: What the proposals alone allow: every image with a region of IoU ≥ 0.5 on an object ranked first, every"
        " text with a keyword that names the class ranked first. An encoder that sees around its region can exceed it.",
        "",
    ]


def paper_recipes() -> list[str]:
    """FENet by the paper's own recipe, and by that with three numbers changed."""
    plain, plus = load("coco-mini-paper"), load("coco-mini-paper-plus")
    recipe, sound = plain["data"]["recipe"], plus["data"]["recipe"]
    rows = {
        "frozen proposals": plain["results"]["frozen"],
        "**FELGA**, `paper`": plain["results"]["felga"],
        "**FELGA**, `paper+`": plus["results"]["felga"],
    }
    return [
        "### The paper's own recipe",
        "",
        "As in 4.2-4.5 of the paper, ten regions and no whole image, but of `graphseg+edgeboxes` instead of DETReg. Both recipes"
        " train on all pairs in float32 and keep the last epoch, with the"
        f" layers, losses, batches of {recipe['batch']} and {recipe['epochs']} epochs of the paper, but hidden layers of"
        f" {recipe['hidden']}, not 4,096, which take 20 times as long on a CPU. `paper+` has the temperature"
        f" {sound['temperature']:g}, not {recipe['temperature']:g}, the rate {sound['rate']:g}, not {recipe['rate']:g}, and the"
        f" input scale {sound['input_scale']:g}; these were chosen by captions alone. Mean of seeds"
        f" {', '.join(map(str, plain['seeds']))} ± standard deviation:",
        "",
        *HEAD,
        *(quality_row(label, entry) for label, entry in rows.items()),
        "",
        "```sh",
        *(
            "felga bench coco --root ../shared/coco-mini --regions graphseg+edgeboxes --no-quality --no-whole"
            f" --methods frozen,felga --recipe {name} --set hidden={recipe['hidden']} --out bench/results/{file}.json"
            for name, file in (("paper", "coco-mini-paper"), ("paper+", "coco-mini-paper-plus"))
        ),
        "```",
        "",
    ]


TRUNK_MEASURES = {
    "recall@10": "recall@10",
    "recall@50": "@50",
    "recall@100": "@100",
    "box_fits": "box fits",
    "ap": "AP",
    "ap50": "AP@50",
    "grounding": "phrase grounding",
    "discovery": "mAP of discovery",
}


def region_trunks() -> list[str]:
    """The IoU of regions from the trunk of their boxes, or from one of its own."""
    found = load("region_trunks")
    one, two = (found["results"][name] for name in ("one", "two"))
    seconds = [
        statistics.fmean(seed["cpu_seconds"] for seed in entry["seeds"].values()) for entry in (one, two)
    ]
    lines = [
        "## IoU and box: one trunk or two",
        "",
        f"The head of `learned` gives the box of a region and its IoU from the same convolutions ({one['weights']:,} weights;"
        f" {seconds[0] / 60:.0f} CPU minutes a training). Beside it, one with a tower of its own for the IoU"
        f" ({two['weights']:,}; {seconds[1] / 60:.0f}). Both saw the boxes of {found['images']['trained']:,} images of train2017,"
        f" without class names, {found['steps']:,} steps, mean of seeds {', '.join(one['seeds'])} ± standard deviation, in %"
        " (`python bench/region_trunks.py`). Meaning is that of the frozen encoder, so it shares nothing with the IoU in either:"
        " ObjEmbed's two tokens, for meaning and for IoU, are apart here from the start. Columns but recall count meaning and"
        " quality, as `felga bench coco` does in its rows *quality*."
        f" The maps are those of {network(found)}.",
        "",
        "| judged on | trunks | " + " | ".join(TRUNK_MEASURES.values()) + " |",
        "|---|---|" + "--:|" * len(TRUNK_MEASURES),
    ]
    judges = (("train2017", "held-out images of train2017"), ("val2017", "val2017, nothing chosen on it"))
    for split, label in judges:
        for name, entry in (("one", one), ("two", two)):
            mean = entry["mean"][split]
            cells = (f"{mean[key]['mean']:.1f} ± {mean[key]['std']:.1f}" for key in TRUNK_MEASURES)
            lines.append(f"| {found['images'][split]} {label} | {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def answers() -> list[str]:
    """What a user sees."""
    found = load("answers")
    lines = [
        "## First hits and boxes",
        "",
        f"The {found['queries']} class names that occur in the {found['images']} images of {found['dataset']}, searched for in"
        " an index of the default parts, without a FENet and with the one that comes with felga (`python bench/answers.py`):",
        "",
        "| | precision at 1 | at 5 | at 10 | box fits (IoU ≥ 0.5) | mean IoU of the box | best region is the whole image |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for label, row in (("no FENet", found["frozen"]), ("default", found["default"])):
        cuts = " | ".join(f"{100 * row['precision'][cut]:.1f} %" for cut in ("1", "5", "10"))
        lines.append(
            f"| {label} | {cuts} | {100 * row['boxes_that_fit']:.1f} % | {row['mean_iou']:.2f}"
            f" | {100 * row['whole_image']:.1f} % |"
        )
    best = sorted(found["default"]["present"].items(), key=lambda row: -row[1])
    shown = [*best[:2], *(row for row in best if row[0] in ("bus", "dog", "person"))]
    return [
        *lines,
        "",
        "The box columns count only hits whose image is right. Scores of the best hit, for words that are in the images: "
        + ", ".join(f"{word} {score:.2f}" for word, score in shown)
        + "; and for words that are not: "
        + ", ".join(f"{word} {score:.2f}" for word, score in found["default"]["absent"].items())
        + ".",
        "",
    ]


def quality_weight() -> list[str]:
    """What the weight of quality was chosen by."""
    found = load("quality_weight")
    lines = [
        "## The weight of quality",
        "",
        f"On {found['images']} images of train2017 that neither region head nor FENet had seen (`python"
        " bench/quality_weight.py`): mAP of discovery by class names, and how often the winning box fits, in %. The default"
        " is 0.1: the boxes gain most of what they can at a small price in mAP.",
        "",
        "| | weight | mAP, best region | box fits | mAP, soft | box fits |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for row in found["results"]:
        values = " | ".join(f"{row[name]:.1f}" for name in ("map_max", "fits_max", "map_soft", "fits_soft"))
        lines.append(f"| {METHODS[row['method']].strip('*')} | {row['gamma']:g} | {values} |")
    return [*lines, ""]


def text_weight() -> list[str]:
    """What the weight of the whole text was chosen by."""
    found = load("assignment_score")
    folds = list(range(len(found["images"])))
    lines = [
        "## The weight of the whole text",
        "",
        "mAP of description assignment in %, by boxes of train2017. A FENet was trained on the captions of every second image;"
        f" boxes of the others are the queries over their texts: {' and '.join(map(str, found['images']))} images with"
        f" {' and '.join(f'{count:,}' for count in found['boxes'])} boxes, each half held out once (`python"
        " bench/assignment_score.py`). The mean over classes counts a rare class as much as persons. The default is t = 0.1"
        " and weight 0.5: near the best by all four, and in the middle of a wide optimum.",
        "",
        "| a text scores | t | weight of the whole text |"
        + "".join(f" half {fold + 1} |" for fold in folds)
        + "".join(f" half {fold + 1}, mean over classes |" for fold in folds),
        "|---|--:|--:|" + "--:|" * (2 * len(folds)),
    ]
    for row in found["results"]:
        values = " | ".join(f"{value:.1f}" for value in (*row["map_boxes"], *row["map_classes"]))
        settings = " | ".join(f"{row[name]:g}" if name in row else "" for name in ("t", "w"))
        lines.append(f"| {TEXT_SCORES[row['score']]} | {settings} | {values} |")
    return [*lines, ""]
