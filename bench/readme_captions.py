"""Rendering of the figures of generated captions for readme.py."""

from __future__ import annotations

from typing import Any

from readme_quality import load, network

PAPER = {  # MIC21Summarizer, Table 1
    "MIC21Summarizer": (0.71, 0.53, 0.47, 0.39),
    "Gemma 3": (0.79, 0.64, 0.53, 0.43),
}
ORDERS = (1, 2, 3, 4)


def _value(row: dict[str, Any], name: str, digits: int, times: float = 1) -> str:
    """A figure, or the mean of the seeds ± the standard deviation."""
    if "mean" in row:
        entry = row["mean"][name]
        return f"{times * entry['mean']:.{digits}f} ± {times * entry['std']:.{digits}f}"
    value = row["bleu"][int(name[-1]) - 1] if name.startswith("bleu") else row[name]
    return f"{times * value:.{digits}f}"


def _row(label: str, row: dict[str, Any]) -> str:
    cells = [_value(row, f"bleu{order}", 2) for order in ORDERS]
    cells += [_value(row, "cider", 2), _value(row, "finds@1", 1, 100), _value(row, "finds@10", 1, 100)]
    return f"| {label} | {' | '.join(cells)} |"


def captions() -> list[str]:
    """What a captioner writes, beside what needs none."""
    found = load("captions")
    results, seconds = found["results"], found["cpu_seconds"]
    of_seeds = [own for name, own in seconds.items() if name.startswith("seed")]
    rows = {
        "decoder, greedy": results["greedy"],
        f"decoder, beam of {found['beam']}": results["beam"],
        f"decoder that is shown the mean training image, beam of {found['beam']}": results["blind"],
        "caption of the nearest training image": results["nearest"],
        "of the captions of the 10 nearest, the one nearest to their mean (MiniLM)": results["voted"],
        "the most typical training caption (CIDEr-D), for every image": results["typical"],
        "a person, against the other four": results["people"],
    }
    return [
        "## Generated captions",
        "",
        f"`felga caption train` on {found['captions']:,} captions of {found['images']['train2017']:,} images of train2017, and"
        f" what it writes for the {found['images']['val2017']} images of val2017, on which nothing was chosen: BLEU-1 to 4"
        " (sacrebleu) and CIDEr-D against all captions by people, lower case, without punctuation. *Finds its image*: in % of"
        " the captions, their own image is the first hit for them in an index of val2017, or among the first ten. Decoders:"
        f" mean of {len(of_seeds)} seeds ± standard deviation, {found['epochs']} epochs, {sum(of_seeds) / len(of_seeds) / 60:.0f}"
        f" CPU minutes each, {found['megabytes']} MB (`python bench/captions.py`)."
        f" Images were seen through {network(found)}:",
        "",
        "| | BLEU-1 | 2 | 3 | 4 | CIDEr-D | finds its image, first | first ten |",
        "|---|" + "--:|" * 7,
        *(_row(label, row) for label, row in rows.items()),
        *(
            f"| *{name}, its paper's Table 1* | " + " | ".join(f"{own:.2f}" for own in values) + " | | | |"
            for name, values in PAPER.items()
        ),
        "",
        "The rows of the paper do not compare with the others: they are measured on titles of the authors' own, which are short,"
        " and on images of their own. The most typical caption is"
        f' "{found["typical"].strip()}".'
        f" {found['by_heart']['right']} of {found['by_heart']['images']} captions, one per image, are written word by word after"
        f" training on them alone. A decoder writes {_value(results['greedy'], 'different', 0)} different captions greedily,"
        f" {_value(results['beam'], 'different', 0)} with a beam.",
        "",
        *_leak(found),
    ]


def _leak(found: dict[str, Any]) -> list[str]:
    """What the mask as printed does."""
    rows = found["results"]["leak"]
    lines = [
        "The mask as the paper prints it (Eq. 7) lets the visual tokens see all words, and the words read their successors"
        f" there. Seed 0, {rows['printed']['epochs']} epochs of one caption per image; the loss is that of teacher forcing on"
        " held-out images of train2017, in nats per word, the rest greedy on val2017:",
        "",
        "| mask | loss by teacher forcing | BLEU-1 | 2 | 3 | 4 | CIDEr-D | CPU minutes |",
        "|---|" + "--:|" * 7,
    ]
    for mask, label in (("prefix", "visual tokens see each other"), ("printed", "as printed")):
        row = rows[mask]
        cells = [f"{row['held_out']:.2f}", *(_value(row, f"bleu{order}", 2) for order in ORDERS)]
        cells += [_value(row, "cider", 2), f"{found['cpu_seconds'][mask] / 60:.0f}"]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return [
        *lines,
        "",
        "The lower loss is the leak: what it predicts better with the next words in sight, it writes worse without.",
        "",
    ]
