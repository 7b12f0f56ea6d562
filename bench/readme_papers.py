"""The README's table of the sibling papers, for readme.py: what each reports, what runs here, with and without."""

from __future__ import annotations

import statistics
from typing import Any

from readme_quality import fits, load, network


def papers() -> list[str]:
    """One line for each thing that was taken from a paper."""
    seen = {network(load(name)) for name in ("adapt", "captions", "alignment")}
    return [
        "| paper | reports | here | without | with |",
        "|---|---|---|--:|--:|",
        *(f"| {' | '.join(row)} |" for row in _rows()),
        "",
        "On the test images of coco-mini, means of three seeds. The region head learned from boxes of train2017 without class"
        " names, `adapt` from boxes and class names, `align` from these and captions: no FELGA rows. The papers' figures are of"
        " other data and do not compare. Each part on its own: [docs/measured.md](docs/measured.md). Captions, tags and aligned"
        " vectors are not good enough to ship; train them on data of your own."
        f" `adapt`, `caption` and `align` saw images through {' and '.join(sorted(seen))}.",
    ]


def _rows() -> list[tuple[str, str, str, str, str]]:
    """Paper, what it reports, what runs here, without, with."""
    learned, adapted, written, aligned = (
        load(name) for name in ("coco-mini-learned", "adapt", "captions", "alignment")
    )
    owner = learned["results"]
    part, words = adapted["results"]["three quarters"], written["results"]
    return [
        (
            "ObjEmbed: meaning times localisation",
            "53.0 AP (4B parameters); separating the two +3.2",
            "predicted IoU in the score of a region; box fits, %",
            fits(owner["felga+owner"]),
            fits(owner["felga+owner quality"]),
        ),
        (
            "MIC21Summarizer: a detector of one's own",
            "no AP",
            "`felga adapt`; mAP of the 60 classes that it learned",
            _percent(part["frozen"]["before"], "learned"),
            _percent(part["frozen"]["after"], "learned"),
        ),
        (
            "",
            "",
            "and of 19 that it did not",
            _percent(part["frozen"]["before"], "others"),
            _percent(part["frozen"]["after"], "others"),
        ),
        (
            "MIC21Summarizer: captions",
            "BLEU-4 .39 on its own titles",
            "`felga caption`; BLEU-4 (CIDEr-D), beside the nearest image's caption",
            f"{words['nearest']['bleu'][3]:.2f} ({words['nearest']['cider']:.2f})",
            f"{words['beam']['mean']['bleu4']['mean']:.2f} ({words['beam']['mean']['cider']['mean']:.2f})",
        ),
        (
            "AlignCap: region captions",
            "no figures",
            "`felga align`; CIDEr-D, beside the nearest region's phrase",
            f"{aligned['baselines']['nearest']['captions']['cider']:.2f}",
            f"{_mean(aligned, lambda seed: seed['captions']['cider']):.2f}",
        ),
        (
            "AlignCap: region vectors",
            "no figures",
            "region to phrase, R@1 in %, beside `conse` with its FENet",
            f"{100 * aligned['baselines']['fenet']['vectors']['region to phrase'][0]:.1f}",
            f"{100 * _mean(aligned, lambda seed: seed['vectors']['m']['region to phrase'][0]):.1f}",
        ),
    ]


def _percent(row: dict[str, Any], name: str) -> str:
    value = row[name]
    return f"{value['mean'] if isinstance(value, dict) else value:.1f}"


def _mean(found: dict[str, Any], read: Any) -> float:
    return statistics.mean(read(seed) for seed in found["rows"]["full"]["seeds"].values())
