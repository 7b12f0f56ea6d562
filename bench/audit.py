"""How well felga audit finds planted errors: its limits were chosen on train2017, val2017 is only measured.

    python bench/audit.py --root COCO [--work DIR] [--out bench/results/audit.json]

Of the images of an index, a tenth swap their captions; in a tenth the captions name a class that the image
does not show in place of one that it does; and a tenth lose all mentions of a class that they show. The index
is brought in line with these captions and audited by the command's own code. On train2017, a FENet trained on
three quarters of the images judges the fourth, four times; val2017 has the FENet that comes with felga and is
planted three times. The findings of all runs are ranked together.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from felga.cli.progress import Log
from felga.corpus.class_names import NAMES, mentions
from felga.corpus.coco import CocoCorpus, CocoFiles, Instances, coco_files, read_coco, read_instances
from felga.engine import Engine
from felga.evaluation.results import commit, machine
from felga.evaluation.split import encode_split
from felga.fenet.recipes import make_recipe
from felga.fenet.train import train
from felga.indexing.job import index
from felga.indexing.options import Options
from felga.indexing.parts import Parts
from felga.store.pairs import features_of
from felga.survey.audit import Audit, Finding, audit

FOLDS, SEEDS = 4, 3
SHARE = 0.1  # of the images, for each kind of error
FIRST = 50
ALL = 100_000  # findings: more than there are


@dataclass
class Plants:
    """Planted errors: images whose captions were swapped; image -> the class named wrongly, or left out."""

    captions: dict[str, list[str]]
    swapped: set[str] = field(default_factory=set)
    wrong: dict[str, str] = field(default_factory=dict)
    unsaid: dict[str, str] = field(default_factory=dict)


@dataclass
class Run:
    """An audit of planted captions."""

    plants: Plants
    found: Audit
    shown: dict[str, set[str]]


def plant(
    captions: dict[str, list[str]], shown: dict[str, set[str]], names: Sequence[str], seed: int
) -> Plants:
    """Errors in captions, each image with one kind at most; ``shown`` are the classes of each image."""
    rng = np.random.default_rng(seed)
    made = Plants({image: list(texts) for image, texts in captions.items()})
    order = [sorted(captions)[at] for at in rng.permutation(len(captions))]
    count = round(SHARE * len(order))
    swapped, rest = order[:count], iter(order[count:])
    for image, other in zip(swapped, np.roll(swapped, 1).tolist(), strict=True):
        made.captions[image] = captions[other]
        made.swapped.add(image)
    for target in (made.wrong, made.unsaid):
        while len(target) < count and (image := next(rest, None)) is not None:
            texts = captions[image]
            said = mentions([" ".join(texts)], names)[:, 0]
            right = [name for name, flag in zip(names, said, strict=True) if flag and name in shown[image]]
            right = [name for name in right if name != "person"]
            absent = [
                name for name, flag in zip(names, said, strict=True) if not flag and name not in shown[image]
            ]
            if right:
                old, new = str(rng.choice(right)), str(rng.choice(absent))
                made.captions[image] = [
                    without(text, old, new if target is made.wrong else "") for text in texts
                ]
                target[image] = new if target is made.wrong else old
    return made


def without(text: str, name: str, new: str) -> str:
    """A caption with another word, or none, where it names a class."""
    phrases = sorted(NAMES[name], key=len, reverse=True)
    return re.sub(rf"\b(?:{'|'.join(map(re.escape, phrases))})\b", new, text, flags=re.IGNORECASE)


def audited(
    base: Path, files: CocoFiles, ids: Sequence[str], instances: Instances, parts: Parts, seed: int,
    fenet: Path | str = "auto",
) -> Run:  # fmt: skip
    """Plant errors in captions, bring a copy of an index of these images in line with them, and audit it."""
    data = read_coco(files.captions)
    names = list(instances.categories.values())
    shown = {
        image: {instances.categories[one.category_id] for one in instances.truths[image]} for image in ids
    }
    captions: dict[str, list[str]] = {image: [] for image in ids}
    for row in data["annotations"]:
        if str(row["image_id"]) in captions:
            captions[str(row["image_id"])].append(row["caption"])
    plants = plant({image: texts for image, texts in captions.items() if texts}, shown, names, seed)
    folder = base.parent / "planted"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    rows = [(image, text) for image, texts in plants.captions.items() for text in texts]
    annotations = [{"id": n, "image_id": int(image), "caption": text} for n, (image, text) in enumerate(rows)]
    kept = [row for row in data["images"] if str(row["id"]) in plants.captions]
    (folder / "captions.json").write_text(json.dumps({"images": kept, "annotations": annotations}))
    shutil.copytree(base, folder / "index")
    corpus = CocoCorpus(folder / "captions.json", files.images)
    report = index(
        corpus, folder / "index", parts.options, parts=parts, fenet=fenet, prune=True, progress=Log()
    )
    assert not report.images.added, "images are not encoded again"
    with Engine.open(folder / "index", device="cpu", encoder=parts.encoder) as engine:
        return Run(plants, audit(engine, ALL), shown)


def of_train(base: Path, files: CocoFiles, parts: Parts) -> Iterator[Run]:
    """Each fourth of train2017, by a FENet of the others."""
    instances, pairs = read_instances(files.instances), features_of(base)
    for fold in range(FOLDS):
        inside = pairs.usable[pairs.usable % FOLDS != fold]
        checkpoint = base.parent / f"fold-{fold}.safetensors"
        train(pairs.take(inside), make_recipe("locked"), seed=0, device="cpu", out=checkpoint)
        ids = [pairs.pair_ids[at] for at in pairs.usable if at % FOLDS == fold]
        yield audited(base, files, ids, instances, parts, fold, checkpoint)


def of_val(base: Path, files: CocoFiles, parts: Parts) -> Iterator[Run]:
    """val2017, planted several times."""
    instances = read_instances(files.instances)
    for seed in range(SEEDS):
        yield audited(base, files, sorted(instances.truths), instances, parts, FOLDS + seed)


def ranked(
    runs: Sequence[Run], findings: Callable[[Audit], Sequence[Finding]],
    right: Callable[[Run, Finding], bool | None], planted: int, *, falling: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """The findings of all runs in one ranking, without those of which nobody knows whether they are right.

    The average precision is over all that was planted: what was not reported counts as never found.
    """
    rows = [(one.score, right(run, one)) for run in runs for one in findings(run.found)]
    order = sorted(
        (row for row in rows if row[1] is not None), key=lambda row: -row[0] if falling else row[0]
    )
    flags = np.array([flag for _, flag in order], float)
    precision = flags.cumsum() / np.arange(1, len(flags) + 1)
    return {
        "reported": len(rows),
        "judged": len(order),
        "planted": planted,
        "right": int(flags.sum()),
        "first_50_percent": round(100 * float(flags[:FIRST].mean()), 1),
        "average_precision_percent": round(100 * float((precision * flags).sum() / planted), 1),
    }


def unsaid(run: Run, one: Finding) -> bool | None:
    """Whether a region's name is of a class that is shown and not mentioned; None: it is of no class."""
    names = [name for name, flag in zip(NAMES, mentions([one.word], list(NAMES))[:, 0], strict=True) if flag]
    if not names:
        return None
    said = mentions([" ".join(run.plants.captions[one.image_id])], names)[:, 0]
    return any(name in run.shown[one.image_id] and not flag for name, flag in zip(names, said, strict=True))


def planted_name(run: Run, one: Finding) -> bool:
    """Whether a region's name is of the class whose mentions were left out."""
    name = run.plants.unsaid.get(one.image_id)
    return name is not None and bool(mentions([one.word], [name])[0, 0])


def wrong_word(run: Run, one: Finding) -> bool | None:
    """Whether a keyword is the one that was planted; of captions that were swapped nothing is said."""
    if one.image_id in run.plants.swapped:
        return None
    return set(one.word.lower().split()) <= set(run.plants.wrong.get(one.image_id, "").split())


def measure(runs: Sequence[Run]) -> dict[str, Any]:
    """Each kind of finding against what was planted for it."""
    counts = Counter(
        {kind: sum(len(getattr(run.plants, kind)) for run in runs) for kind in ("swapped", "wrong", "unsaid")}
    )
    regions = ranked(runs, lambda found: found.regions, unsaid, counts["unsaid"], falling=True)
    del regions["average_precision_percent"]  # omissions that nobody planted are right, too
    regions["planted_found"] = sum(
        any(planted_name(run, one) and one.image_id == image for one in run.found.regions)
        for run in runs for image in run.plants.unsaid
    )  # fmt: skip
    return {
        "images": sum(run.found.texts for run in runs),
        "captions": ranked(
            runs,
            lambda found: found.captions,
            lambda run, one: one.image_id in run.plants.swapped,
            counts["swapped"],
        ),
        "keywords": ranked(runs, lambda found: found.keywords, wrong_word, counts["wrong"]),
        "regions": regions,
    }


def main() -> None:
    """Plant, audit, print and write the json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/audit"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/audit.json"))
    args = parser.parse_args()
    torch.set_num_threads(2)
    args.work.mkdir(parents=True, exist_ok=True)
    parts = Parts.make(Options(device="cpu"))
    result: dict[str, Any] = {"commit": commit(), "machine": machine()}
    ways: dict[str, Callable[[Path, CocoFiles, Parts], Iterator[Run]]] = {
        "train2017": of_train,
        "val2017": of_val,
    }
    for split, way in ways.items():
        files = coco_files(args.root, split)
        base = encode_split(files, args.work, parts, None, Log()).index.folder
        result[split] = measure(list(way(base, files, parts)))
        print(split, json.dumps(result[split], indent=1), flush=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
