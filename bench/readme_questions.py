"""Rendering of the figures of AND and NOT for readme.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from readme_quality import load

AND = {
    "sentence": 'the sentence "a and b"',
    "sum of vectors": "the sum of their vectors",
    "mean of terms": "the mean of their scores",
    "minimum of terms": "the minimum of their scores",
    "standardized mean": "the mean in standard deviations of each",
    "standardized minimum": "the minimum in standard deviations of each",
    "mean of terms and sentence": "**`a AND b`**: that mean, and the sentence",
}
NOT = {
    "a alone": "a alone",
    "sentence": 'the sentence "a without b"',
    "difference of vectors": "the difference of their vectors",
}
CUTS = (0.8, 0.9, 0.95, 0.98)  # that are shown


def questions() -> list[str]:
    """How well AND and NOT answer."""
    found = load("composition")
    return ["## AND and NOT", "", *_of_and(found), *_of_not(found)]


def _of_and(found: dict[str, Any]) -> list[str]:
    halves, test = found["train2017"], found["val2017"]
    first = test["and"]["first_hit"]
    lines = [
        f"Pairs of classes that at least 3 images show, in %: {halves[0]['and']['pairs']} and {halves[1]['and']['pairs']}"
        " of the two halves of train2017, each judged by a FENet of the other half, where everything was chosen, and"
        f" {test['and']['pairs']} of val2017, which was only measured (`python bench/composition.py`). The best possible"
        f" share of right images among the first five is {_mean(halves, 'and', 'best_possible_at_5'):.0f} and"
        f" {test['and']['best_possible_at_5']:.0f}.",
        "",
        "| images that show both, by | first five, train | val | mAP, train | val | mAP of pairs with *person*, val | of others |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for way, label in AND.items():
        own = test["and"]["ways"][way]
        lines.append(
            f"| {label} | {_mean(halves, 'and', 'ways', way, 'at_5'):.1f} | {own['at_5']:.1f}"
            f" | {_mean(halves, 'and', 'ways', way, 'map'):.1f} | {own['map']:.1f}"
            f" | {own['map_with_person']:.1f} | {own['map_without_person']:.1f} |"
        )
    sure, each = first["sure_of_both_there"], first["sure_of_each_somewhere"]
    return [
        *lines,
        "",
        "Regions of their own find more than one vector for both. A sentence knows in what scenes things meet, which helps"
        " where one word says little (*person*); the mean of both keeps most of either. The minimum leaves the answer to"
        " the word that the network tells apart worst. No confidence says whether *one* image shows both: the first hit is"
        f" right for {first['right']:.0f} % of the pairs of val2017, and for {each[1]:.0f} % of those of which each class"
        f" is surely somewhere ({each[0]:.0f} % of the pairs: `felga search` answers these). Only {sure[0]:.0f} % of the"
        f" first hits are surely of both; {sure[1]:.0f} % of them are right.",
        "",
    ]


def _of_not(found: dict[str, Any]) -> list[str]:
    halves, test = found["train2017"], found["val2017"]
    lines = [
        f"One class without another, for {test['not']['pairs']} pairs of val2017 where b is in 3 images with a or more, and"
        " in half of these at most. NOT leaves out images from a confidence for b on; *left out wrongly* are those that do"
        f" not show b. The best possible is {_mean(halves, 'not', 'best_possible_at_10'):.0f} and"
        f" {test['not']['best_possible_at_10']:.0f}.",
        "",
        "| images of a without b, by | first ten right, train | val | first ten showing b, train | val"
        " | left out per query, val | left out wrongly, train | val |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for way in [*NOT, *(f"NOT from {cut:g}" for cut in CUTS)]:
        own = test["not"]["ways"][way]
        chosen = way == f"NOT from {found['sure']:g}"
        label = NOT.get(way, f"**`a NOT b`**, from {found['sure']:g}" if chosen else way)
        left = (
            f"{own['left_out']:.1f} | {_mean(halves, 'not', 'ways', way, 'left_out_wrongly'):.0f}"
            f" | {own['left_out_wrongly']:.0f} |"
            if "left_out" in own
            else "| | |"
        )
        lines.append(
            f"| {label} | {_mean(halves, 'not', 'ways', way, 'at_10'):.1f} | {own['at_10']:.1f}"
            f" | {_mean(halves, 'not', 'ways', way, 'showing_b'):.1f} | {own['showing_b']:.1f} | {left}"
        )
    return [
        *lines,
        "",
        "From 0.8 on, the cut hardly matters to what is right, so it is the confidence that any answer needs. NOT is"
        " careful: what it leaves out mostly shows b, but most images that show b stay, as few are sure to. A sentence"
        " finds the very images that it should avoid.",
        "",
    ]


def _mean(halves: Sequence[Any], *path: str) -> float:
    """The mean of a figure over the halves of train2017."""
    total = 0.0
    for half in halves:
        value = half
        for name in path:
            value = value[name]
        total += value
    return total / len(halves)
