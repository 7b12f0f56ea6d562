"""Rendering of the figures of region captions, tags and aligned vectors for readme.py."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from readme_quality import load, network

Read = Callable[[dict[str, Any]], float]


def _over_seeds(row: dict[str, Any], read: Read, digits: int = 1, times: float = 100) -> str:
    """The mean of the seeds ± the standard deviation."""
    values = [times * read(seed) for seed in row["seeds"].values()]
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def _caption_row(label: str, row: dict[str, Any]) -> str:
    if "captions" not in next(iter(row["seeds"].values())):
        return f"| {label} | | | | | | | |"
    cells = [_over_seeds(row, lambda seed, at=at: seed["captions"]["bleu"][at], 1) for at in range(4)]
    cells.append(_over_seeds(row, lambda seed: seed["captions"]["cider"], 2, 1))
    cells += [
        _over_seeds(row, lambda seed, name=name: seed[name]["cider"], 2, 1)
        for name in ("captions of matched boxes", "captions of proposals")
    ]
    return f"| {label} | {' | '.join(cells)} |"


def _fixed(label: str, scores: dict[str, Any]) -> str:
    values = [f"{100 * value:.1f}" for value in scores["bleu"]] + [f"{scores['cider']:.2f}"]
    return f"| {label} | {' | '.join(values)} | | |"


WAYS = ("region to phrase", "phrase to region", "proposal to phrase", "phrase to proposal")


def _vector_row(label: str, row: dict[str, Any], read: Callable[[dict[str, Any]], dict[str, Any]]) -> str:
    cells = [
        " / ".join(_over_seeds(row, lambda seed, way=way, at=at: read(seed)[way][at]) for at in range(3))
        if way in WAYS[:2]
        else _over_seeds(row, lambda seed, way=way: read(seed)[way][1])
        for way in WAYS
    ]
    return f"| {label} | {' | '.join(cells)} |"


def _vectors(found: dict[str, Any]) -> list[str]:
    """The table of tags and of retrieval."""
    rows, base, test = found["rows"], found["baselines"], found["test"]
    full = rows["full"]
    frozen = {name: {"seeds": {"": base[name]}} for name in ("frozen", "fenet", "start")}
    lines = [
        "Tags and retrieval: mAP of the class names as tags over all boxes; recall in % at 1 / 5 / 10 between"
        f" {test['described']} boxes and {test['phrases']} phrases, and at 5 with proposals in place of boxes (a phrase is to"
        " find, among all proposals of all images, one that meets its box):",
        "",
        "| region vector | region to phrase | phrase to region | proposal to phrase | phrase to proposal | tag mAP |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    lines += [
        _vector_row(label, frozen[name], lambda seed: seed["vectors"])
        + f" {100 * base[name]['tag_map']:.1f} |"
        for name, label in (
            ("frozen", "`conse`, frozen"),
            ("fenet", "`conse` with felga's FENet"),
            ("start", "m of the regressions where training starts"),
        )
    ]
    for vector, label in (("x", "full, x (tags)"), ("c", "full, mean of c"), ("m", "full, m")):
        tags = _over_seeds(full, lambda seed: seed["tag_map"]) if vector == "x" else ""
        lines.append(_vector_row(label, full, lambda seed, v=vector: seed["vectors"][v]) + f" {tags} |")
    for label, row in rows.items():
        if label != "full":
            tags = _over_seeds(row, lambda seed: seed["tag_map"])
            lines.append(_vector_row(f"{label}, m", row, lambda seed: seed["vectors"]["m"]) + f" {tags} |")
    return lines


def alignment() -> list[str]:
    """AlignCap's four losses: full and each left out, beside what needs no alignment."""
    found = load("alignment")
    rows, base, train, test = found["rows"], found["baselines"], found["train"], found["test"]
    full = rows["full"]
    seeds = len(full["seeds"])
    seconds = _over_seeds(full, lambda seed: seed["cpu_seconds"], 0, 1)
    lines = [
        "## Regions and phrases",
        "",
        f"AlignCap's terms (`felga align`, [what they are](alignment.md)): trained on boxes, class names and captions of coco-mini train2017, so"
        " no FELGA row; AlignCap publishes no figures to compare with. Phrases are cut from captions where one names the only"
        f" object of its class: {train['described']:,} of {train['boxes']:,} boxes with {train['phrases_said']:,} phrases to learn"
        f" from, {test['described']} boxes of val2017 with {test['phrases']} distinct phrases to measure on. Settings were chosen"
        f" on a held-out seventh of train2017. Mean of {seeds} seeds ± standard deviation; {found['epochs']} epochs,"
        f" {seconds} CPU seconds per training on maps that are kept, beside those of the captioner whose decoder is frozen,"
        f" trained for {found['captioner']['epochs']} epochs on captions of the same images"
        f" (`python bench/alignment.py`). Images were seen through {network(found)}.",
        "",
        f"Region captions, by a beam of {found['beam']}, against the phrases of the box: BLEU-1 to 4 in %, CIDEr-D; and CIDEr-D on the"
        f" {test['matched']} boxes that a proposal of `learned` meets with an IoU ≥ 0.5, of the box itself and of the proposal:",
        "",
        "| | BLEU-1 | 2 | 3 | 4 | CIDEr-D | met boxes | their proposals |",
        "|---|" + "--:|" * 7,
        *(_caption_row(label, row) for label, row in rows.items()),
        _fixed("phrase of the nearest training region", base["nearest"]["captions"]),
    ]
    names = [_over_seeds(full, lambda seed, at=at: seed["class_name"]["bleu"][at]) for at in range(4)] + [
        _over_seeds(full, lambda seed: seed["class_name"]["cider"], 2, 1)
    ]
    lines += [
        f"| the likeliest class name (full) | {' | '.join(names)} | | |",
        "",
        "Most phrases are of one or two words, so BLEU-3 and 4 rest on few n-grams: CIDEr-D is steadier. *Without L_cap* the"
        " decoder reads vectors that nobody fitted to it.",
        "",
        *_vectors(found),
    ]
    return [*lines, ""]
