"""AND and NOT: how well they answer, beside a sentence and beside sums of vectors.

    python bench/composition.py --root COCO [--work DIR] [--out bench/results/composition.json]

"a AND b" is asked for all pairs of classes that at least 3 images show together; right are these images.
"a NOT b" is asked where b is in at least 3 and at most half of the images with a; right are those with a and
without b. On train2017, a FENet trained on one half of the images judges the other half, and the other way
round: how scores are joined, and the confidence from which NOT removes an image, are chosen there. val2017 is
indexed with the packaged FENet, and is only measured.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from felga.cli.progress import Log
from felga.corpus.coco import coco_files
from felga.evaluation.results import commit, machine
from felga.evaluation.split import Encoded, encode_split, read_split
from felga.fenet.checkpoint import load_fenet
from felga.fenet.packaged import packaged
from felga.fenet.recipes import make_recipe
from felga.fenet.train import train
from felga.indexing.options import Options
from felga.indexing.parts import Parts
from felga.models.wordlist import bank_words
from felga.search.average_precision import metrics
from felga.search.composition import mean
from felga.search.confidence import SURE, Background, confidence, image_scores, sampled
from felga.search.scoring import Extras
from felga.store.pairs import features_of
from felga.types import Embedding, Encoder, Flags, Floats, Rows, Scores, Vectors

LEAST = 3  # images that show a pair
CUTS = (0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)


@dataclass(frozen=True)
class Judged:
    """What some images score for class names, alone and in other words.

    Attributes:
        scores: (C, P).
        confidences: (C, P).
        contains: (C, P) bool.
        texts: the scores (n, P) of n sentences.
        sums: those of n vectors a + b, or a - b.
    """

    scores: Scores
    confidences: Floats
    contains: Flags
    texts: Callable[[Sequence[str]], Scores]
    sums: Callable[[Sequence[tuple[int, int]], int], Scores]
    names: Sequence[str]


def judged(encoded: Encoded, encoder: Encoder, embedding: Embedding, images: Sequence[str] | None) -> Judged:
    """The images of a split (None: all), searched for class names."""
    own = (split := read_split(encoded, encoder, Log())).embedded(embedding)
    ids = list(split.image_ids or ())
    taken = np.arange(len(ids)) if images is None else np.sort([ids.index(one) for one in images])
    every = {"quality": own.region_quality, "whole": own.region_whole}
    vectors, offsets, extras = part(own.region_vectors, own.region_offsets, every, taken)  # type: ignore[arg-type]
    bank = embedding.keywords(encoder.encode_texts(bank_words()))
    few = sampled(offsets)
    background = Background(bank, *part(vectors, offsets, extras, few), len(taken))
    confidences = np.zeros((len(own.class_names), len(taken)))
    for c, vector in enumerate(own.class_vectors):
        query = background.query(vector)
        for p in range(len(taken)):
            rows = slice(*offsets[[p, p + 1]])
            columns = {name: column[rows] for name, column in extras.items()}
            confidences[c, p] = confidence(query.evidence(vectors[rows], columns))

    def scores(queries: Vectors) -> Scores:
        return image_scores(queries @ vectors.T, offsets, extras)

    def sums(pairs: Sequence[tuple[int, int]], sign: int) -> Scores:
        added = np.array([own.class_vectors[a] + sign * own.class_vectors[b] for a, b in pairs])
        return scores(added / np.linalg.norm(added, axis=1, keepdims=True))

    return Judged(
        scores(own.class_vectors), confidences, own.contains[:, taken],
        lambda texts: scores(embedding.keywords(encoder.encode_texts(texts))), sums, own.class_names,
    )  # fmt: skip


def part(vectors: Vectors, offsets: Rows, extras: Extras, images: Rows) -> tuple[Vectors, Rows, Extras]:
    """The regions of some images, side by side."""
    rows = np.concatenate([np.arange(*offsets[[i, i + 1]]) for i in images])
    few = np.concatenate([[0], np.cumsum(np.diff(offsets)[images])])
    return vectors[rows], few, {name: column[rows] for name, column in extras.items()}


def pairs_together(found: Judged) -> list[tuple[int, int]]:
    """The pairs of classes that :data:`LEAST` images show."""
    pairs = combinations(range(len(found.names)), 2)
    return [(a, b) for a, b in pairs if (found.contains[a] & found.contains[b]).sum() >= LEAST]


def measure_and(found: Judged) -> dict[str, Any]:
    """Each way of asking for two classes, over all pairs, in %."""
    pairs = pairs_together(found)
    a, b = np.array(pairs).T
    relevant, own = found.contains[a] & found.contains[b], found.scores
    sentence = found.texts([f"{found.names[one]} and {found.names[other]}" for one, other in pairs])
    standard = (own - own.mean(1, keepdims=True)) / own.std(1, keepdims=True)
    terms = mean([own[a], own[b]], [1, 1])
    ways = {
        "sentence": sentence,
        "sum of vectors": found.sums(pairs, 1),
        "mean of terms": terms,
        "minimum of terms": np.minimum(own[a], own[b]),
        "standardized mean": mean([standard[a], standard[b]], [1, 1]),
        "standardized minimum": np.minimum(standard[a], standard[b]),
        "mean of terms and sentence": (joined := mean([own[a], own[b], sentence], [1, 1, 2])),
    }
    best = joined.argmax(1)
    right = relevant[np.arange(len(best)), best]
    sure = np.minimum(found.confidences[a, best], found.confidences[b, best]) >= SURE
    somewhere = found.confidences[np.arange(len(own)), own.argmax(1)] >= SURE
    each = somewhere[a] & somewhere[b]
    person = (a == found.names.index("person")) | (b == found.names.index("person"))
    precise = {name: metrics(scores, relevant).average_precision for name, scores in ways.items()}
    return {
        "pairs": len(pairs),
        "best_possible_at_5": percent(np.minimum(relevant.sum(1), 5) / 5),
        "ways": {
            name: {
                "at_5": percent(precision(scores, relevant, 5)),
                "map": percent(precise[name]),
                "map_with_person": percent(precise[name][person]),
                "map_without_person": percent(precise[name][~person]),
            }
            for name, scores in ways.items()
        },
        "first_hit": {
            "right": percent(right),
            "sure_of_both_there": [percent(sure), percent(right[sure])],
            "sure_of_each_somewhere": [percent(each), percent(right[each])],
        },
    }


def measure_not(found: Judged) -> dict[str, Any]:
    """Each way of asking for one class without another, over all pairs, in %."""
    together = found.contains.astype(int) @ found.contains.T
    pairs = [
        (a, b)
        for a, b in permutations(range(len(found.names)), 2)
        if LEAST <= together[a, b] <= together[a, a] / 2
    ]
    a, b = np.array(pairs).T
    relevant = found.contains[a] & ~found.contains[b]
    sentence = found.texts([f"{found.names[one]} without {found.names[other]}" for one, other in pairs])
    ways = {"a alone": found.scores[a], "sentence": sentence, "difference of vectors": found.sums(pairs, -1)}
    rows: dict[str, dict[str, float]] = {
        name: {
            "at_10": percent(precision(scores, relevant, 10)),
            "showing_b": percent(precision(scores, found.contains[b], 10)),
        }
        for name, scores in ways.items()
    }
    for cut in CUTS:
        left_out = found.confidences[b] >= cut
        kept = np.where(left_out, np.float32(-np.inf), found.scores[a])
        above = left_out & (found.scores[a] > -np.sort(-kept, axis=1)[:, 9:10])
        rows[f"NOT from {cut}"] = {
            "at_10": percent(precision(kept, relevant, 10)),
            "showing_b": percent(precision(kept, found.contains[b], 10)),
            "left_out": round(float(above.sum(1).mean()), 2),
            "left_out_wrongly": percent(~found.contains[b][above]),
        }
    best = percent(np.minimum(relevant.sum(1), 10) / 10)
    return {"pairs": len(pairs), "best_possible_at_10": best, "ways": rows}


def precision(scores: Scores, relevant: Flags, k: int) -> Floats:
    """(n,) the share of right ones among the first ``k`` of each row."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    right = np.take_along_axis(relevant, order, 1) & (np.take_along_axis(scores, order, 1) > -np.inf)
    return right.sum(1) / k


def percent(values: Any) -> float:
    """The mean of shares, in %; 0 of none."""
    return round(100 * float(np.mean(values)), 1) if np.size(values) else 0.0


def main() -> None:
    """Choose on train2017, measure on val2017, print and write the json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/composition"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/composition.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    parts = Parts.make(Options(device="cpu"))
    encoded = encode_split(coco_files(args.root, "train2017"), args.work, parts, None, Log())
    pairs = features_of(encoded.index.folder)
    halves = []
    for half in (0, 1):
        taken = pairs.usable[pairs.usable % 2 == half]
        fenet = train(pairs.take(taken), make_recipe("locked"), seed=0, device="cpu")
        seen = {pairs.pair_ids[at] for at in taken}
        halves.append(
            judged(encoded, parts.encoder, fenet, [one for one in encoded.image_ids() if one not in seen])
        )
    checkpoint = packaged(parts.encoder.identity())
    assert checkpoint is not None
    test = encode_split(coco_files(args.root, "val2017"), args.work, parts, None, Log())
    shown = judged(test, parts.encoder, load_fenet(checkpoint), None)
    result = {
        "commit": commit(),
        "machine": machine(),
        "sure": SURE,
        "train2017": [{"and": measure_and(one), "not": measure_not(one)} for one in halves],
        "val2017": {"and": measure_and(shown), "not": measure_not(shown)},
    }
    print(json.dumps(result, indent=1))
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
