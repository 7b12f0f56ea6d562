"""AlignCap's terms, measured: region captions, tags, and retrieval between regions and phrases.

    python bench/alignment.py --root COCO --captioner FILE [--held-out] [--seeds 0,1,2] [--sheet DIR]

Trains felga.alignment on boxes, class names and captions of train2017, full and without each of its four
losses, and measures on val2017; with ``--held-out`` it trains on six sevenths of train2017 and measures on
the rest, where the settings were chosen. Ground-truth boxes, and boxes of the proposer ``learned``
(AlignCap's General Object Detection). Beside it: conse's frozen vectors, and the FENet that comes with felga,
which saw captions alone.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from alignment_sheet import sheet

from felga.alignment.align_losses import Weights
from felga.alignment.align_training import EPOCHS, Training
from felga.alignment.aligned import AlignedModel, Decoding
from felga.alignment.aligner import Aligned
from felga.alignment.region_cells import CellFile, places, region_cells
from felga.alignment.region_texts import RegionTexts, read_region_texts
from felga.boxes import iou
from felga.cli.progress import Log
from felga.corpus.coco import coco_files
from felga.corpus.decode import read_image
from felga.encoders.conse import conse
from felga.evaluation.captioning import caption_scores
from felga.evaluation.phrases_of_regions import RANKS, recalls, tag_map
from felga.evaluation.results import commit, machine
from felga.fenet.checkpoint import load_fenet
from felga.fenet.packaged import packaged
from felga.files import sha256_file
from felga.models.efficientnet import DEFAULT, LONGER_SIDE
from felga.models.minilm import minilm
from felga.proposals.learned import learned

CPU = torch.device("cpu")
FULL = Weights()
ROWS = {
    "full": FULL,
    "without L_tag": replace(FULL, tag=0.0),
    "without L_cap": replace(FULL, cap=0.0),
    "without L_cond": replace(FULL, cond=0.0),
    "without L_multi": replace(FULL, multi=0.0),
}
HELD_OUT = (7, 3)
PROPOSALS = 10  # per image
BEAM = 4
IOU = 0.5


@dataclass
class Regions:
    """Regions of the test images, as every method needs them.

    Attributes:
        cells: (n, 49, 1280) float16; places: (n, 4).
        frozen, fenet: (n, d) unit vectors.
        phrases: (n, Q) bool, which of the test's phrases describe a region.
    """

    cells: torch.Tensor
    places: torch.Tensor
    frozen: np.ndarray
    fenet: np.ndarray
    phrases: np.ndarray


@dataclass
class Test:
    """Everything that is measured on.

    Attributes:
        means: (N, 1280) of all ground-truth boxes; classes: (N,).
        class_vectors: conse's and the FENet's of the class names; all_boxes: theirs of the N boxes.
        described: the boxes with phrases; proposed: all proposals; matched: for each described box its best
            proposal, or -1 below an IoU of 0.5.
        vectors: MiniLM's of the phrases, and the FENet's; references: the phrases of each described box.
    """

    texts: RegionTexts
    means: torch.Tensor
    phrases: list[str]
    references: list[list[str]]
    described: Regions
    proposed: Regions
    matched: np.ndarray
    vectors: dict[str, np.ndarray]
    class_vectors: dict[str, np.ndarray]
    all_boxes: dict[str, np.ndarray]


def read_test(texts: RegionTexts, cells: CellFile, progress: Any) -> Test:
    """Encode the test images once, for all rows."""
    encoder, proposer = conse("", device="cpu"), learned("")
    fenet = load_fenet(packaged(encoder.identity()), device="cpu")
    bounds = np.searchsorted(texts.box_image, np.arange(len(texts.images) + 1))
    phrases = sorted({phrase for own in texts.phrases for phrase in own})
    owns = np.array([[phrase in own for phrase in phrases] for own in texts.phrases])
    boxes_seen, proposed, owned, matched = [], [], [], []
    for at, (image_id, path) in enumerate(texts.images):
        image = read_image(path, image_id)
        own = slice(bounds[at], bounds[at + 1])
        found = np.array([r.box for r in proposer.propose([image], PROPOSALS)[0]], np.float32).reshape(-1, 4)
        boxes_seen += encoder.encode_features([image], [texts.boxes[own]])
        overlap = iou(found.astype(np.float64), texts.boxes[own].astype(np.float64))  # (proposals, boxes)
        for box in np.flatnonzero(owns[own].any(1)):
            best = int(overlap[:, box].argmax())
            matched.append(sum(map(len, owned)) + best if overlap[best, box] >= IOU else -1)
        owned.append((overlap >= IOU) @ owns[own])
        proposed.append(
            (
                *encoder.encode_features([image], [found])[0],
                region_cells(image, found, CPU).half(),
                places(image, found),
            )
        )
        progress("test images", at + 1, len(texts.images))
    frozen, features = (np.concatenate(column) for column in zip(*boxes_seen, strict=True))
    moved = fenet.regions(frozen, features)
    own = texts.described
    vectors, crops, pooled, where = zip(*proposed, strict=True)
    vectors = np.concatenate(vectors)
    words = {"classes": minilm(CPU).embed(texts.class_names), "phrases": minilm(CPU).embed(phrases)}
    return Test(
        texts,
        torch.from_numpy(np.array(cells.means)),
        phrases,
        [texts.phrases[box] for box in own],
        Regions(
            torch.from_numpy(np.array(cells.cells)),
            torch.from_numpy(np.array(cells.places[own])),
            frozen[own],
            moved[own],
            owns[own],
        ),
        Regions(
            torch.cat(pooled),
            torch.from_numpy(np.concatenate(where)),
            vectors,
            fenet.regions(vectors, np.concatenate(crops)),
            np.concatenate(owned),
        ),
        np.array(matched),
        {"frozen": words["phrases"], "fenet": fenet.keywords(words["phrases"])},
        {"frozen": words["classes"], "fenet": fenet.keywords(words["classes"])},
        {"frozen": frozen, "fenet": moved},
    )


def retrieval(described: np.ndarray, proposed: np.ndarray, phrases: np.ndarray, test: Test) -> dict[str, Any]:
    """Recall both ways, of ground-truth boxes and of proposals, for one kind of region vector."""
    scores, found = described @ phrases.T, proposed @ phrases.T
    kept = test.matched[test.matched >= 0]
    right = test.described.phrases
    return {
        "region to phrase": recalls(scores, right),
        "phrase to region": recalls(scores.T, right.T),
        "proposal to phrase": recalls(found[kept], right[test.matched >= 0]),
        "phrase to proposal": recalls(found.T, test.proposed.phrases.T),
    }


def measure(model: AlignedModel, test: Test) -> dict[str, Any]:
    """All measures of a trained model."""
    own = model.of_cells(test.described.cells, test.described.places)
    found = model.of_cells(test.proposed.cells, test.proposed.places)
    vectors = {
        name: retrieval(_unit(getattr(own, part)), _unit(getattr(found, part)), test.vectors["frozen"], test)
        for name, part in (("x", "x"), ("c", "pooled"), ("m", "m"))
    }
    with torch.inference_mode():
        logits = model.net.tag_logits(model.net.states(model.net.reduce(test.means))).numpy()
    classes = len(test.texts.class_names)
    measured = {"vectors": vectors, "tag_map": tag_map(logits[:, :classes], test.texts.box_class)}
    names = [test.texts.class_names[c] for c in own.logits[:, :classes].argmax(1)]
    measured["class_name"] = scored(names, test.references)
    if model.decoding is not None:
        kept = np.flatnonzero(test.matched >= 0)
        said = [caption.text for caption in model.captions_of(own, BEAM)]
        best = torch.from_numpy(test.matched[kept])
        proposed = [c.text for c in model.captions_of(Aligned(*(part[best] for part in found)), BEAM)]
        measured["captions"] = scored(said, test.references)
        measured["captions of matched boxes"] = scored(
            [said[row] for row in kept], [test.references[row] for row in kept]
        )
        measured["captions of proposals"] = scored(proposed, [test.references[row] for row in kept])
        measured["distinct_captions"] = len(set(said))
    return measured


def scored(said: list[str], references: list[list[str]]) -> dict[str, Any]:
    """BLEU-1 to BLEU-4 and CIDEr-D."""
    scores = caption_scores(said, references)
    return {"bleu": list(scores.bleu), "cider": scores.cider}


def baselines(test: Test, train: RegionTexts, cells: CellFile) -> dict[str, Any]:
    """What needs no steps: frozen vectors, FENet, where training starts, the nearest region's phrase."""
    rows = {
        name: {
            "vectors": retrieval(
                getattr(test.described, name), getattr(test.proposed, name), test.vectors[name], test
            ),
            "tag_map": tag_map(test.all_boxes[name] @ test.class_vectors[name].T, test.texts.box_class),
        }
        for name in ("frozen", "fenet")
    }
    seen = F.normalize(torch.from_numpy(np.array(cells.means[train.described])).float(), dim=-1)
    asked = F.normalize(test.means[test.texts.described].float(), dim=-1)
    nearest = train.described[(asked @ seen.T).argmax(1).numpy()]
    run = Training(train, cells, None, FULL, 1, 0)
    start = measure(AlignedModel(run.net, run.tags, None, {}), test)
    rows["start"] = {"vectors": start["vectors"]["m"], "tag_map": start["tag_map"]}
    rows["nearest"] = {"captions": scored([train.phrases[box][0] for box in nearest], test.references)}
    return rows


def _unit(vectors: torch.Tensor) -> np.ndarray:
    return F.normalize(vectors, dim=-1).numpy()


def splits(args: argparse.Namespace) -> tuple[RegionTexts, RegionTexts]:
    """What to train and to measure on."""
    files = coco_files(args.root, "train2017")
    paths = files.instances, files.captions, files.images
    if args.held_out:
        train, test = (read_region_texts(*paths, leave_out=HELD_OUT, only=only) for only in (False, True))
        return train, test
    other = coco_files(args.root, "val2017")
    return read_region_texts(*paths), read_region_texts(other.instances, other.captions, other.images)


def run_row(
    args: argparse.Namespace,
    name: str,
    seed: int,
    train: RegionTexts,
    cells: CellFile,
    test: Test,
    found: dict[str, Any],
) -> None:
    """Train one row with one seed, measure it, and write the json."""
    start, progress = time.process_time(), Log()
    decoding = Decoding.of_captioner(args.captioner)
    run = Training(train, cells, decoding, ROWS[name], args.epochs, seed)
    while run.epoch < args.epochs:
        run.one_epoch(progress)
    seconds = time.process_time() - start
    model = AlignedModel(run.net, run.tags, decoding, {})
    entry = measure(model, test) | {"cpu_seconds": seconds, "losses": run.losses}
    row = found["rows"].setdefault(name, {"weights": asdict(ROWS[name]), "seeds": {}})
    row["seeds"][seed] = entry
    print(name, seed, json.dumps(entry), flush=True)
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    if args.sheet and (name, seed) == ("full", 0):
        own = model.of_cells(test.described.cells, test.described.places)
        said = [caption.text for caption in model.captions_of(own, BEAM)]
        sheet(test.texts, said, model.tags_of(own, 4), args.sheet)


def main() -> None:
    """Train every row with every seed, measure, write the json after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--captioner", type=Path, required=True)
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--work", type=Path, default=Path("indexes/alignment"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/alignment.json"))
    parser.add_argument("--sheet", type=Path)
    args = parser.parse_args()
    progress = Log()
    train, other = splits(args)
    files = []
    for name, texts in (("train", train), ("test", other)):
        folder = args.work / f"{name}{'-held-out' if args.held_out else ''}"
        folder.mkdir(parents=True, exist_ok=True)
        files.append(CellFile(folder, texts))
        files[-1].fill(CPU, progress)
    test = read_test(other, files[1], progress)
    found: dict[str, Any] = {
        "commit": commit(),
        "machine": machine(),
        "network": {"name": DEFAULT, "side": LONGER_SIDE},
        "captioner": {
            "sha256": sha256_file(args.captioner),
            "epochs": Decoding.of_captioner(args.captioner).source.get("epochs"),
        },
        "epochs": args.epochs,
        "beam": BEAM,
        "train": _counts(train),
        "test": _counts(other) | {"phrases": len(test.phrases), "matched": int((test.matched >= 0).sum())},
        "ranks": RANKS,
        "baselines": baselines(test, train, files[0]),
        "rows": {},
    }
    for seed in map(int, args.seeds.split(",")):
        for name in args.rows.split(","):
            run_row(args, name, seed, train, files[0], test, found)


def _counts(texts: RegionTexts) -> dict[str, int]:
    return {
        "images": len(texts.images),
        "boxes": len(texts.boxes),
        "described": len(texts.described),
        "phrases_said": sum(map(len, texts.phrases)),
    }


if __name__ == "__main__":
    main()
