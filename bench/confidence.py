"""How sure a hit is: the weights of felga/search/confidence.py, chosen on train2017, judged on val2017.

    python bench/confidence.py --root COCO [--work DIR] [--out bench/results/confidence.json]

A query asks for a thing that is there (the class names that a split shows) or that is not: *carved*, a class
whose images were all taken out, while its relatives stay; *absent*, names of ImageNet's classes that no
caption mentions; *nonsense*; *misspelt* class names; *languages*, class names in French and German (on
train2017) or Spanish and Italian (on val2017). Each of these five groups counts the same. On train2017, a
FENet trained on three quarters of the images judges the fourth, four times; val2017 is indexed with the
packaged one, and is only measured.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from sklearn.linear_model import LogisticRegression

from felga.cli.progress import Log
from felga.corpus.coco import CocoFiles, coco_files, read_coco
from felga.evaluation.results import commit, machine
from felga.evaluation.split import Encoded, encode_split, read_split
from felga.fenet.checkpoint import load_fenet
from felga.fenet.packaged import packaged
from felga.fenet.recipes import make_recipe
from felga.fenet.train import train
from felga.indexing.options import Options
from felga.indexing.parts import Parts
from felga.models.wordlist import CAPTION_WORDS, bank_words, class_names
from felga.proposals.inflection import singular
from felga.search.confidence import Background, image_scores, sampled, share_reaching
from felga.search.scoring import Extras
from felga.store.pairs import features_of
from felga.store.vocabulary import Vocabulary, words_of
from felga.types import Embedding, Encoder, Floats, Rows, Vectors

LANGUAGES = {
    "train2017": "chien chat bateau voiture cheval vache oiseau pomme chaise lit fourchette couteau cuillère "
    "gâteau hund katze schiff auto pferd kuh vogel apfel stuhl bett gabel messer löffel kuchen",
    "val2017": "perro gato barco coche caballo vaca pájaro manzana silla cama tenedor cuchillo cuchara "
    "pastel cane gatto barca macchina cavallo mucca uccello mela sedia letto forchetta coltello "
    "cucchiaio torta",
}
FOLDS = 4  # of train2017: a FENet of three judges the images of the fourth
GROUPS = ("carved", "absent", "nonsense", "misspelt", "languages")
IMAGES = 8  # of train2017 whose captions use a word of the bank
TAIL = (1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01, 0.005)
LEVELS = (0.5, 0.8, 0.9, 0.95, 0.98)


class Asked(NamedTuple):
    """A query, and what its best image offers.

    Attributes:
        group: ``present``, or one of :data:`GROUPS`.
        right: the best image shows the class.
        known: all words are known to the index or its encoder.
    """

    group: str
    word: str
    evidence: Sequence[float]
    right: bool
    known: bool


@dataclass(frozen=True)
class Collection:
    """Some images of a split, embedded, with the classes they show."""

    vectors: Vectors
    offsets: Rows
    extras: Extras
    contains: Any  # (C, images) bool
    bank: Vectors

    def of(self, images: Rows) -> Collection:
        """These images alone."""
        rows = np.concatenate([np.arange(*self.offsets[[i, i + 1]]) for i in images])
        offsets = np.concatenate([[0], np.cumsum(np.diff(self.offsets)[images])])
        extras = {name: column[rows] for name, column in self.extras.items()}
        return Collection(self.vectors[rows], offsets, extras, self.contains[:, images], self.bank)

    def background(self) -> Background:
        """As an engine makes it."""
        part = self.of(sampled(self.offsets))
        return Background(self.bank, part.vectors, part.offsets, part.extras, len(self.offsets) - 1)

    def best(self, query: Vectors, background: Background) -> tuple[int, Sequence[float]]:
        """The best image for a query, and its evidence."""
        scores = image_scores((self.vectors @ query)[None], self.offsets, self.extras)[0]
        best = int(scores.argmax())
        rows = slice(*self.offsets[[best, best + 1]])
        extras = {name: column[rows] for name, column in self.extras.items()}
        return best, background.query(query).evidence(self.vectors[rows], extras)


def words_absent(files: CocoFiles, seed: int, names: Sequence[str]) -> dict[str, list[str]]:
    """The queries for things that are not there, by group; ``carved`` is made from the images."""
    captions = " ".join(str(row["caption"]).lower() for row in read_coco(files.captions)["annotations"])
    said = {singular(word) for word in re.findall(r"[a-z]+", captions)}
    rng = np.random.default_rng(seed)
    syllables = [a + b for a in "bcdfghklmnprstvz" for b in "aeiou"]
    return {
        "absent": [
            name
            for name in class_names()
            if said.isdisjoint(singular(word) for word in re.findall(r"[a-z]+", name.lower()))
        ],
        "nonsense": ["".join(rng.choice(syllables, rng.integers(2, 5))) for _ in range(80)],
        "misspelt": [misspelt(name, rng) for name in names if len(name) > 3],
        "languages": LANGUAGES[files.name].split(),
    }


def misspelt(name: str, rng: np.random.Generator) -> str:
    """A name with two letters exchanged, one left out, or one doubled; not the first."""
    letters = list(name)
    at = int(rng.integers(1, len(name) - 1))
    match rng.integers(3):
        case 0:
            letters[at], letters[at + 1] = letters[at + 1], letters[at]
        case 1:
            del letters[at]
        case _:
            letters.insert(at, letters[at])
    return "".join(letters)


def ask(
    whole: Collection, names: Sequence[str], classes: Vectors, absent: dict[str, list[str]],
    embedding: Embedding, encoder: Encoder, vocabulary: Vocabulary,
) -> Iterator[Asked]:  # fmt: skip
    """All queries of a collection."""
    background = whole.background()
    for name, query, shown in zip(names, classes, whole.contains, strict=True):
        if not shown.any():
            continue
        best, evidence = whole.best(query, background)
        known = not vocabulary.unknown(name)
        yield Asked("present", name, evidence, bool(shown[best]), known)
        rest = whole.of(np.flatnonzero(~shown))
        yield Asked("carved", name, rest.best(query, rest.background())[1], False, known)
    for group, words in absent.items():
        for word, query in zip(words, embedding.keywords(encoder.encode_texts(words)), strict=True):
            known = not vocabulary.unknown(word)
            if group != "misspelt" or word not in names:
                yield Asked(group, word, whole.best(query, background)[1], False, known)


def queries_of(
    encoded: Encoded, encoder: Encoder, embedding: Embedding, images: Sequence[str] | None, seed: int
) -> list[Asked]:
    """All queries on the images of a split (None: all)."""
    split = read_split(encoded, encoder, Log())
    own = split.embedded(embedding)
    ids = list(split.image_ids or ())
    taken = range(len(ids)) if images is None else [ids.index(one) for one in images]
    bank = embedding.keywords(encoder.encode_texts(bank_words()))
    extras = {"quality": own.region_quality, "whole": own.region_whole}
    whole = Collection(own.region_vectors, own.region_offsets, extras, own.contains, bank)  # type: ignore[arg-type]
    vocabulary = Vocabulary(partial(words_of, encoded.index.texts), encoded.manifest.contract.encoder)
    return list(
        ask(
            whole.of(np.array(taken)), own.class_names, own.class_vectors,
            words_absent(encoded.files, seed, own.class_names), embedding, encoder, vocabulary,
        )
    )  # fmt: skip


def fit(asked: Sequence[Asked]) -> Floats:
    """Weights of the evidence and, last, the constant.

    Each group counts the same, and what is there as much as what is not.
    """
    known = [one for one in asked if one.known]
    counts = Counter(one.group for one in known)
    weights = [1 / counts[one.group] * (1 if one.group == "present" else 1 / len(GROUPS)) for one in known]
    evidence = np.array([one.evidence for one in known])
    center, scale = evidence.mean(0), evidence.std(0)
    model = LogisticRegression(C=1.0 * len(known), max_iter=1000)
    model.fit(
        (evidence - center) / scale,
        [one.group == "present" for one in known],
        np.array(weights) * len(known) / 2,
    )
    slopes = model.coef_[0] / scale
    return np.append(slopes, model.intercept_[0] - center @ slopes)


def sums(asked: Sequence[Asked], weights: Floats) -> Floats:
    """The sum of each query's evidence; ``-inf`` where a word is unknown."""
    evidence = np.array([one.evidence for one in asked])
    return np.where([one.known for one in asked], evidence @ weights[:-1] + weights[-1], -np.inf)


def tail(asked: Sequence[Asked], weights: Floats) -> list[tuple[float, float]]:
    """(sum, share of the queries for absent things that reach it), groups counting the same, falling."""
    total, group = sums(asked, weights), np.array([one.group for one in asked])
    null = np.isin(group, GROUPS)
    share = np.array([1 / (group == one).sum() / len(GROUPS) for one in group[null]])
    order = np.argsort(-total[null], kind="stable")
    falling, reached = total[null][order], np.cumsum(share[order])
    most = reached[np.isfinite(falling)][-1]
    return [(float(falling[np.searchsorted(reached, p)]), p) for p in sorted(TAIL) if p <= most]


def measure(
    asked: Sequence[Asked], weights: Floats, falling: Sequence[tuple[float, float]]
) -> dict[str, Any]:
    """What each confidence keeps and lets through, in %, and how the confidences of each group are spread."""
    total, group = sums(asked, weights), np.array([one.group for one in asked])
    right = np.array([one.right for one in asked])
    sure = np.array([1 - share_reaching(one, falling) for one in total])
    there = group == "present"
    rows = []
    for level in LEVELS:
        kept = there & (sure >= level)
        false = {one: 100 * float((sure[group == one] >= level).mean()) for one in GROUPS}
        rows.append(
            {
                "confidence": level,
                "kept": 100 * float(kept.sum() / there.sum()),
                "right": 100 * float(right[kept].mean()) if kept.any() else None,
                "false_alarms": sum(false.values()) / len(GROUPS),
                **false,
            }
        )
    bins = np.linspace(0, 1, 21)
    spread = {one: np.histogram(sure[group == one], bins)[0].tolist() for one in ("present", *GROUPS)}
    counts = {one: int((group == one).sum()) for one in ("present", *GROUPS)}
    return {"queries": counts, "levels": rows, "histogram": spread}


def crossed(asked: Sequence[Asked]) -> dict[str, Any]:
    """:func:`measure` of each half of the words with weights of the other half."""
    halves = [[one for one in asked if sum(map(ord, one.word)) % 2 == half] for half in (0, 1)]
    fitted = [fit(half) for half in halves]
    found = [measure(halves[1 - at], weights, tail(halves[at], weights)) for at, weights in enumerate(fitted)]
    return {
        "kept": [row["levels"][LEVELS.index(0.95)]["kept"] for row in found],
        "false_alarms": [row["levels"][LEVELS.index(0.95)]["false_alarms"] for row in found],
    }


def caption_words(files: CocoFiles) -> list[str]:
    """The words of a bank: those in the captions of at least :data:`IMAGES` images, in the singular."""
    by_image: dict[int, set[str]] = {}
    for row in read_coco(files.captions)["annotations"]:
        words = re.findall(r"[a-z]{3,}", str(row["caption"]).lower())
        by_image.setdefault(row["image_id"], set()).update(singular(word) for word in words)
    counts = Counter(word for words in by_image.values() for word in words)
    return sorted(
        word for word, count in counts.items() if count >= IMAGES and word not in ENGLISH_STOP_WORDS
    )


def main() -> None:
    """Choose on train2017, measure on val2017, print and write the json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/confidence"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/confidence.json"))
    parser.add_argument("--words", action="store_true", help="Write the bank's words of captions, and stop.")
    args = parser.parse_args()
    torch.set_num_threads(2)
    files = coco_files(args.root, "train2017")
    if args.words:
        CAPTION_WORDS.write_text("\n".join(caption_words(files)) + "\n")
        return
    args.work.mkdir(parents=True, exist_ok=True)
    parts = Parts.make(Options(device="cpu"))
    encoded = encode_split(files, args.work, parts, None, Log())
    pairs = features_of(encoded.index.folder)
    chosen: list[Asked] = []
    for fold in range(FOLDS):
        inside = pairs.usable % FOLDS != fold
        fenet = train(pairs.take(pairs.usable[inside]), make_recipe("locked"), seed=0, device="cpu")
        seen = {pairs.pair_ids[at] for at in pairs.usable[inside]}
        judged = [one for one in encoded.image_ids() if one not in seen]
        chosen += queries_of(encoded, parts.encoder, fenet, judged, seed=fold)
    weights = fit(chosen).round(4)
    falling = [(round(total, 3), share) for total, share in tail(chosen, weights)]
    checkpoint = packaged(parts.encoder.identity())
    assert checkpoint is not None
    test = encode_split(coco_files(args.root, "val2017"), args.work, parts, None, Log())
    asked = queries_of(test, parts.encoder, load_fenet(checkpoint), None, seed=FOLDS)
    result = {
        "commit": commit(),
        "machine": machine(),
        "weights": weights.tolist(),
        "tail": falling,
        "train2017": measure(chosen, weights, falling),
        "crossed": crossed(chosen),
        "val2017": measure(asked, weights, falling),
        "val2017_words": {
            one.word: [one.right, round(1 - share_reaching(float(total), falling), 3)]
            for one, total in zip(asked, sums(asked, weights), strict=True)
            if one.group == "present"
        },
    }
    print(json.dumps({key: value for key, value in result.items() if key != "val2017_words"}, indent=1))
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
