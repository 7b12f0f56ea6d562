"""Render the measured numbers of the documentation from bench/results: python bench/readme.py [--check]

Each text between ``<!-- NAME -->`` and ``<!-- /NAME -->`` in the README and in docs/measured.md comes from the
function of that name in :data:`PAGES`; nothing there is written by hand.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
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


def load(name: str) -> dict[str, Any]:
    """A results file."""
    data: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return data


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


def summary() -> list[str]:
    """The numbers of the README: what regions, FENet and scores bring, and the speed of indexing."""
    plain, learned = load("coco-mini-unsupervised")["results"], load("coco-mini-learned")["results"]
    found, indexing = load("answers"), load("indexing")
    run = indexing["runs"][-1]
    rows = (
        ("whole image / whole sentence", plain["entire"]),
        ("unsupervised regions, frozen encoder", plain["frozen"]),
        ("unsupervised regions, FENet", plain["felga+owner"]),
        ("learned regions, frozen encoder", learned["frozen"]),
        ("learned regions, FENet", learned["felga+owner"]),
        (
            "the same, soft scores and quality (what `search` and `assign` do)",
            learned["felga+owner soft quality"],
        ),
    )
    before, after = found["frozen"], found["default"]
    return [
        "| coco-mini, encoder `conse` | object discovery, mAP % | description assignment, mAP % | box fits, % |",
        "|---|--:|--:|--:|",
        *(
            f"| {label} | {percent(row[TASKS[0]])} | {percent(row[TASKS[1]])} | {fits(row)} |"
            for label, row in rows
        ),
        "",
        "FENet saw captions of other images, the learned regions boxes of these other images without class names, the test"
        " images nothing. *Box fits*: of the right images among the first ten for a class name, the share whose best region"
        " has an IoU ≥ 0.5 with an object of the class.",
        "",
        f"In a new index, {100 * after['precision']['1']:.0f} % of the first hits for a COCO class name show the class"
        f" ({100 * before['precision']['1']:.0f} % without the FENet that comes with felga), and"
        f" {100 * after['precision']['5']:.0f} % of the first five. Indexing takes"
        f" {indexing['machine']['cores']} CPU cores about {1 / run['images_per_second']:.2f} s per image with its captions"
        f" and peaks at {run['peak_mib'] / 1024:.1f} GiB of memory for {run['images']:,} images.",
    ]


def unknown_words() -> list[str]:
    """Class names that ImageNet lacks, before and after the FENet that comes with felga."""
    found = load("answers")
    before, after = found["frozen"]["unknown"], found["default"]["unknown"]
    order = sorted(before, key=lambda name: before[name] - after[name])
    return [
        f"Of the {found['queries']} class names in {found['images']} test images, {len(order)} share no word with ImageNet's"
        " classes. Right among their first five hits, in %, without and with the FENet:",
        "",
        "| " + " | ".join(order) + " |",
        "|" + "--:|" * len(order),
        "| " + " | ".join(f"{100 * before[name]:.0f} → {100 * after[name]:.0f}" for name in order) + " |",
    ]


def install_size() -> list[str]:
    """What the two commands put on disk."""
    found = load("environment")
    return [
        f"On a fresh Debian or Ubuntu with `python3` (3.11 or newer, with `venv`), `make` and PyPI. The environment takes"
        f" **{found['environment_mb'] / 1000:.1f} GB** on Linux x86-64, of which {found['cuda_of_torch_mb'] / 1000:.1f} GB is"
        f" CUDA for PyTorch and {found['faiss_gpu_and_what_only_it_needs_mb'] / 1000:.1f} GB is faiss-gpu with its second"
        " CUDA ([details](docs/measured.md#installation)). No GPU is needed.",
    ]


def warning() -> list[str]:
    """Scores of words that name nothing in the images."""
    found = load("answers")
    best = found["default"]
    absent = " and ".join(f"{best['absent'][word]:.2f} for `{word}`" for word in ("submarine", "xqzvblorp"))
    present = " and ".join(f"{best['present'][word]:.2f} for `{word}`" for word in ("dog", "person"))
    return [
        f"In {found['images']} photographs the best hit scores {present}, which they show, but {absent}, which they do not.",
    ]


def quality_of(name: str, regions: str, command: str) -> list[str]:
    """mAP and boxes of one results file."""
    found = load(name)
    frozen = found["results"]["frozen"]
    lines = [
        f"### {regions}",
        "",
        "| | object discovery | description assignment | bounds by ties | box fits | AP@50 of boxes | phrase grounding |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row, entry in found["results"].items():
        method, _, scoring = row.partition(" ")
        label = METHODS.get(method, method) + (f", {scoring.replace(' ', ' and ')}" if scoring else "")
        discovery, assignment = (entry[task] for task in TASKS)
        boxes = entry.get("localisation")
        more = (
            f"{fits(entry)} | {100 * boxes['detection']['ap50']:.1f} | {100 * boxes['grounding']['accuracy']:.1f}"
            if boxes
            else " | | "
        )
        lines.append(
            f"| {label} | {percent(discovery)} | {percent(assignment)} | {bounds(assignment)} | {more} |"
        )
    chance = (f"{100 * frozen[task]['chance']['map']:.1f}" for task in TASKS)
    ceiling = (f"{100 * found['ceiling'][task]:.1f}" for task in TASKS)
    shares = found["diagnostic"]
    return [
        *lines,
        f"| *chance* | {' | '.join(chance)} | | | | |",
        f"| *proposal ceiling*[^ceiling] | {' | '.join(ceiling)} | | | | |",
        "",
        f"Frozen cosines of a pair vary by keyword ({100 * shares['keyword']:.0f} %), by region ({100 * shares['region']:.0f} %)"
        f" and by both together ({100 * shares['interaction']:.0f} %).",
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
        "[^ceiling]: What the proposals alone allow: every image with a region of IoU ≥ 0.5 on an object ranked first, every"
        " text with a keyword that names the class ranked first. An encoder that sees around its region can exceed it.",
        "",
    ]


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


def recipes() -> list[str]:
    """What FENet's default recipe was chosen by."""
    found = load("fenet_recipes")
    lines = [
        "## FENet's recipe",
        "",
        "Gain over the frozen vectors in points of an mAP computed from captions alone, on the quarter of the"
        f" {found['features']['pairs']:,} training pairs that was held out (vectors of `{found['features']['encoder']}`,"
        " `python bench/fenet_recipes.py`). No box, class name or test image takes part. Unless stated otherwise, a row is"
        " trained on all other pairs and keeps the last epoch, as `felga train` does by default:",
        "",
        "| recipe | discovery | assignment | seeds | CPU s per training |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, entry in found["variants"].items():
        mean = entry["mean"]
        lines.append(
            f"| {name} | {mean['discovery']:+.1f} | {mean['assignment']:+.1f} | {len(entry['seeds'])} | {mean['cpu_seconds']:.0f} |"
        )
    return [*lines, ""]


def indexing() -> list[str]:
    """Indexing: speed, memory, and where the time goes."""
    found = load("indexing")
    plain = found["plain_loop_crop_by_crop"]
    lines = [
        "## Indexing",
        "",
        f"Images with their captions, default parts, {found['machine']['cores']} cores, no GPU"
        " (`python bench/indexing.py --corpus …/train2017`):",
        "",
        "| images | images/s | peak memory | decode | proposals | encoding | keywords |",
        "|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for run in found["runs"]:
        parts = " | ".join(
            f"{1000 * run['working_seconds'][name] / run['images']:.0f} ms"
            for name in ("decode", "proposals", "encoding", "keywords")
        )
        lines.append(
            f"| {run['images']:,} | {run['images_per_second']:.1f} | {run['peak_mib']:,} MiB | {parts} |"
        )
    return [
        *lines,
        "",
        "The last four columns are working time per image, summed over threads. This is"
        f" {found['times_faster_than_plain_loop']:.1f}x as fast as a plain loop over the same parts that encodes crop by crop"
        f" ({plain['images_per_second']:.1f} images/s in the same run).",
        "",
    ]


def evaluator() -> list[str]:
    """The exact mAP evaluator."""
    lines = [
        "## Evaluation",
        "",
        "The exact mAP of description assignment, 10 keywords per text (`python bench/evaluator.py`):",
        "",
        "| size of | boxes | texts | time, of the bare matrix product | faster than scikit-learn box by box | extra memory |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for size, entry in sorted(load("evaluator").items()):
        measured = f", {entry['boxes_measured']:,} measured" if entry["extrapolated"] else ""
        lines.append(
            f"| COCO {size} | {entry['boxes']:,}{measured} | {entry['texts']:,} | {entry['ours_over_floor']:.2f}x"
            f" | {entry['loop_over_ours']:.0f}x | {entry['memory_of_ours_mib']:.0f} MiB |"
        )
    return [*lines, ""]


def proposals() -> list[str]:
    """Recall of the region proposers."""
    from felga.evaluation.proposal_recall import as_table

    found, unseen = load("proposals"), load("unseen_classes")
    return [
        "## Region proposals",
        "",
        f"Recall at IoU 0.5 and COCO's average recall on {found['images']} images of {found['dataset']}"
        " (`felga bench proposals`):",
        "",
        as_table(found["results"]).rstrip(),
        "",
        f"`learned` was trained on boxes of train2017, without class names. Classes that it has never seen, {unseen['dataset']}"
        " (`python bench/unseen_classes.py`):",
        "",
        as_table(unseen["results"]).rstrip(),
        "",
    ]


def pooling() -> list[str]:
    """How conse looks at regions."""
    found = load("pooling")
    lines = [
        "## One pass per image",
        "",
        f"`conse` on {found['images']} images ({found['dataset']}): discovery mAP in % and CPU time of encoding per image, all"
        " regions in one pass (`roi`) or one pass per region (`crop`; `python bench/pooling.py`). The default is lite0, roi,"
        " 448 px:",
        "",
        "| network | pooling | side | padding | whole and regions | whole alone | regions alone | ms |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in found["results"]:
        maps = " | ".join(f"{100 * row[f'map_{name}']:.1f}" for name in ("both", "whole", "regions"))
        lines.append(
            f"| {row['network']} | {row['pooling']} | {row['side']} | {row['padding']:g} | {maps}"
            f" | {1000 * row['cpu_seconds_per_image']:.0f} |"
        )
    return [*lines, ""]


def startup() -> list[str]:
    """How long a command takes to start."""
    found = load("startup")
    lines = [
        "## Starting",
        "",
        f"CPU seconds of whole processes on {found['machine']['cores']} cores, median of {found['runs']} runs, beside"
        " `import torch` in the same rounds (`python bench/startup.py`):",
        "",
        "| process | CPU s | times `import torch` | goal |",
        "|---|--:|--:|--:|",
    ]
    for name, entry in found["cases"].items():
        goal = f"{entry['goal']:g}" if "goal" in entry else ""
        lines.append(f"| {name} | {entry['cpu_seconds']:.2f} | {entry['times_import_torch']:.2f} | {goal} |")
    return [*lines, ""]


def installation() -> list[str]:
    """What the environment weighs."""
    found = load("environment")
    return [
        "## Installation",
        "",
        f"The environment after `make demo` and `make test`, on Linux x86-64 with Python {found['machine']['python']}, takes"
        f" {found['environment_mb']:,} MB on disk (10^6 bytes, `python bench/environment.py`); what `make demo` needs is"
        f" {found['demo_mb']:,} MB of it:",
        "",
        "| part | MB |",
        "|---|--:|",
        f"| CUDA 13 and Triton, required by PyTorch's default wheels | {found['cuda_of_torch_mb']:,} |",
        "| faiss-gpu and what only it needs: a second set of CUDA 12 libraries"
        f" | {found['faiss_gpu_and_what_only_it_needs_mb']:,} |",
        f"| everything else | {found['demo_without_both_mb']:,} |",
        "",
        "felga runs without a GPU in this environment; the CUDA libraries are then dead weight. Installing PyTorch's CPU"
        " wheels first avoids the first row. The largest packages: "
        + ", ".join(f"{name} {size:,}" for name, size in found["largest_mb"].items())
        + " MB.",
        "",
    ]


def measured() -> list[str]:
    """All of docs/measured.md."""
    parts = (
        quality,
        answers,
        quality_weight,
        recipes,
        indexing,
        startup,
        evaluator,
        proposals,
        pooling,
        installation,
    )
    return [line for part in parts for line in part()]


PAGES: dict[str, dict[str, Callable[[], list[str]]]] = {
    "README.md": {
        "install-size": install_size,
        "scores": warning,
        "numbers": summary,
        "words": unknown_words,
    },
    "docs/measured.md": {"numbers": measured},
}


def render(text: str, parts: dict[str, Callable[[], list[str]]], name: str) -> str:
    """``text`` with the lines of each part between its marks."""
    for mark, lines in parts.items():
        pattern = rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)"
        body = "\n".join(lines()).rstrip() + "\n"
        text, count = re.subn(
            pattern, lambda match, body=body: f"{match[1]}\n{body}\n{match[2]}", text, flags=re.S
        )
        if count != 1:
            raise SystemExit(f"{name} has {count} sections <!-- {mark} -->, expected 1")
    return text


def main() -> None:
    """Rewrite the pages, or with --check fail if one differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 on a difference")
    check = parser.parse_args().check
    for name, parts in PAGES.items():
        path = ROOT / name
        old = path.read_text("utf-8")
        new = render(old, parts, name)
        if check and new != old:
            raise SystemExit(f"{name} differs from bench/results: run python bench/readme.py")
        if not check:
            path.write_text(new, "utf-8")


if __name__ == "__main__":
    main()
