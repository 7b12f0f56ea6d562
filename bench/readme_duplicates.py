"""Rendering of the figures on near duplicates for readme.py."""

from __future__ import annotations

from readme_quality import load

SHOWN = ("0.8", "0.85", "0.9", "0.92", "0.95", "0.98")
NAMES = {
    "features": "features of `conse`, which felga compares",
    "vectors": "vectors of `conse`",
    "fenet": "vectors of the FENet",
}


def duplicates() -> list[str]:
    """Copies and different images at each threshold."""
    found = load("duplicates")
    kinds = next(iter(found["by"].values()))["copies"]
    lines = [
        "## Near duplicates",
        "",
        f"Which cosine of whole images tells copies from different images (`python bench/duplicates.py`):"
        f" {found['copied']} of {found['images']:,} images of train2017 were copied, re-encoded, halved (to 224 pixels on the"
        " longer side, half of what `conse` looks at), and cropped on each side. *Copies* are those whose cosine with their"
        f" original reaches the threshold, in %; *pairs* are the pairs of different images, of {found['pairs']:,}, that do,"
        " and should not. Features tell images apart, vectors say what is in them: two baseball games are one. The default"
        f" is {found['chosen']['threshold']}; the one pair there is two shots of one jump.",
        "",
        "| | threshold | " + " | ".join(f"copies, {kind}" for kind in kinds) + " | pairs |",
        "|---|--:|" + "--:|" * (len(kinds) + 1),
    ]
    for made_by, name in NAMES.items():
        own = found["by"][made_by]
        for threshold in SHOWN:
            copies = " | ".join(f"{own['copies_found_percent'][kind][threshold]:.1f}" for kind in kinds)
            lines.append(f"| {name} | {threshold} | {copies} | {own['different_pairs'][threshold]:,} |")
    compared = found["compared"]
    lines += [
        "",
        f"`felga dups` compares every pair: {compared['images']:,} images, {compared['dim']} features each, take"
        f" {compared['cpu_seconds']:.0f} s of CPU time beside the reading of the index, and time grows with the square of"
        " their number. Memory does not.",
        "",
    ]
    return lines
