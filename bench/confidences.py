"""Draw docs/confidence.png from bench/results/confidence.json: python bench/confidences.py [--out FILE]

How sure the best image for a query is, for things that are there and for things that are not: the share of
each group's queries in steps of 0.05. The line marks the confidence that an answer needs.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from readme_quality import ROOT, load

from felga.search.confidence import SURE
from felga.show.figures import new_figure, save_figure

SHOWN = {
    "present: class names that the images show": ("present",),
    "absent: the same, all their images taken out, while related ones stay": ("carved",),
    "absent: ImageNet names that no caption mentions": ("absent",),
    "nonsense, misspelt class names, other languages": ("nonsense", "misspelt", "languages"),
}
COLOURS = ("#0f7a45", "#c77d00", "#b3261e", "#6a6475")


def shares(counts: Mapping[str, Sequence[int]], groups: Sequence[str]) -> list[float]:
    """The share of queries in each step, in %; groups count the same."""
    parts = [[100 * count / sum(counts[group]) for count in counts[group]] for group in groups]
    return [sum(column) / len(groups) for column in zip(*parts, strict=True)]


def draw(counts: Mapping[str, Sequence[int]], path: Path) -> None:
    """One row of bars for each entry of :data:`SHOWN`, above the same axis."""
    figure, axes = new_figure((8, 5.2))
    axes.remove()
    rows = figure.subplots(len(SHOWN), 1, sharex=True, sharey=True)
    for row, (label, groups), colour in zip(rows, SHOWN.items(), COLOURS, strict=True):
        values = shares(counts, groups)
        width = 1 / len(values)
        row.bar([(at + 0.5) * width for at in range(len(values))], values, 0.92 * width, color=colour)
        row.axvline(SURE, color="black", linewidth=1, linestyle="--")
        row.set(xlim=(0, 1), ylim=(0, 100), yticks=(0, 50, 100))
        row.set_title(label, loc="left", fontsize=10)
        row.spines[["top", "right"]].set_visible(False)
        reached = sum(values[round(SURE * len(values)) :])
        row.text(0.94, 78, f"{reached:.0f} % reach {SURE}", ha="right", fontsize=9)
    rows[-1].set_xlabel("confidence of the best image")
    figure.supylabel("% of the queries", fontsize=10)
    save_figure(figure, path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "confidence.png")
    draw(load("confidence")["val2017"]["histogram"], parser.parse_args().out)


if __name__ == "__main__":
    main()
