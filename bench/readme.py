"""Render the measured numbers of the documentation from bench/results: python bench/readme.py [--check]

Each text between ``<!-- NAME -->`` and ``<!-- /NAME -->`` in a page of :data:`PAGES` comes from the
function of that name in :data:`PAGES`; nothing there is written by hand.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable

from readme_adapt import adaptation
from readme_alignment import alignment
from readme_captions import captions
from readme_duplicates import duplicates
from readme_papers import papers
from readme_people import audit, concepts, confidence, errors, false_alarms, meaning_and_quality, serving
from readme_quality import (
    ROOT,
    TASKS,
    answers,
    fits,
    load,
    network,
    percent,
    quality,
    quality_weight,
    region_trunks,
    text_weight,
)
from readme_questions import questions
from readme_scaling import billion, growth, millions
from readme_speed import search, storage


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


def recipes() -> list[str]:
    """What FENet's default recipe was chosen by."""
    found = load("fenet_recipes")
    lines = [
        "## FENet's recipe",
        "",
        "How the settings of `residual` were chosen, before `locked` existed: gain over the frozen vectors in points of an"
        " mAP computed from captions alone, on the quarter of the"
        f" {found['features']['pairs']:,} training pairs that was held out (`conse` at 384 pixels). No box, class name or test"
        " image takes part. The program, `python bench/fenet_recipes.py`, has since got the rows of `locked` and `paper+`, and"
        " a judge that asks by all regions and by words never seen; run it again to compare:",
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
        "The last four columns are working time per image, summed over threads. A script with the same proposers that"
        " crops, resizes and encodes region by region with eager torch, in the same run:",
        "",
        "| | script, images/s | felga, images/s | ratio |",
        "|---|--:|--:|--:|",
        *(
            f"| {entry['felga']['images']:,} {name} | {entry['script']['images_per_second']:.1f}"
            f" | {entry['felga']['images_per_second']:.1f} | {entry['ratio']:.1f}x |"
            for name, entry in found["crop_by_crop"].items()
        ),
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
        f" (`python bench/unseen_classes.py`; through {network(unseen)}):",
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
        " regions in one pass (`roi`) or one pass per region (`crop`; `python bench/pooling.py`). The default is lite2, roi,"
        " 512 px:",
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
        meaning_and_quality,
        text_weight,
        confidence,
        questions,
        recipes,
        search,
        storage,
        indexing,
        startup,
        serving,
        evaluator,
        proposals,
        region_trunks,
        alignment,
        captions,
        pooling,
        duplicates,
        concepts,
        audit,
        errors,
        adaptation,
        installation,
    )
    return [line for part in parts for line in part()]


PAGES: dict[str, dict[str, Callable[[], list[str]]]] = {
    "README.md": {
        "install-size": install_size,
        "scores": warning,
        "confidence": false_alarms,
        "numbers": summary,
        "words": unknown_words,
        "papers": papers,
    },
    "docs/measured.md": {"numbers": measured},
    "bench/scaling.md": {"growth": growth, "millions": millions, "billion": billion},
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
