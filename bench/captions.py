"""How good are the captions of `felga caption`, trained on coco-mini, beside what needs no decoder?

    python bench/captions.py --root COCO [--work runs/captions] [--out bench/results/captions.json] [--sheet]

Every captioner learns from train2017 as `felga caption train` does; every 16th image of it says which epoch
is kept. val2017 is measured, and nothing is chosen on it. BLEU-1 to 4 of all captions together, CIDEr-D as
the mean of the images, against all captions that people wrote. *Finds its image*: the caption is a query to
an index of val2017 with the default parts; how often its own image is the first hit, or among the first ten.
A training whose file is in --work already is not repeated; an interrupted one goes on.
"""

from __future__ import annotations

import argparse
import base64
import copy
import html
import io
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

import felga
from felga.captions.caption_batches import CaptionData, Captioned, read_captions
from felga.captions.caption_decoder import Shape
from felga.captions.caption_training import EPOCHS, CaptionTraining, split
from felga.captions.captioner import Captioner, write_captioner
from felga.captions.visual_tokens import TokenFile
from felga.captions.word_pieces import Source, WordPieces
from felga.corpus.coco import CocoCorpus, CocoFiles, coco_files
from felga.evaluation.captioning import caption_scores, caption_words, cider
from felga.evaluation.results import commit, machine
from felga.models.arrays import read_about
from felga.models.efficientnet import DEFAULT, LONGER_SIDE
from felga.models.minilm import minilm

CPU = torch.device("cpu")
SEEDS = (0, 1, 2)
BEAM = 4
LEARNED_BY_HEART, HEART_EPOCHS = 50, 60
MASK_EPOCHS = 4  # of one caption per image, to see what the masks do
NEAREST = 10  # images whose captions vote
Tokens = npt.NDArray[np.float16]


def say(stage: str, done: int, total: int) -> None:
    """Progress, now and then."""
    if done % 100 == 0 or done == total:
        print(stage, done, total, flush=True)


class Split:
    """The images of a split, their captions and visual tokens."""

    def __init__(self, files: CocoFiles, work: Path) -> None:
        self.files = files
        self.rows: list[Captioned] = read_captions(files.captions)
        self.references = [row.captions for row in self.rows]
        folder = work / files.name
        folder.mkdir(parents=True, exist_ok=True)
        paths = [(row.image_id, files.images / row.file_name) for row in self.rows]
        self.tokens: Tokens = TokenFile(folder).fill(paths, CPU, say)


def train(name: str, source: Split, work: Path, shape: Shape, epochs: int, seed: int, **how: bool) -> Path:
    """Train one captioner, unless it is in ``work``; ``how`` says what is special."""
    out = work / f"{name}.safetensors"
    if out.exists():
        return out
    captions = source.references
    learned, held = split(len(captions))
    if how.get("single") or how.get("heart"):
        captions = [own[:1] for own in captions]
    if how.get("heart"):
        captions, learned, held = captions[:LEARNED_BY_HEART], np.arange(LEARNED_BY_HEART), np.arange(0)
    words = WordPieces.of_texts(Source.of(None), (text for own in captions for text in own))
    data = CaptionData(source.tokens, captions, words, shape.longest)
    run = CaptionTraining(data, words, shape, learned, held, epochs=epochs, seed=seed, device=CPU)
    state, about = work / f"{name}.training", {"name": name, "epochs": epochs, "seed": seed}
    run.restore(state)
    spent = work / f"{name}.seconds"
    seconds = float(spent.read_text()) if spent.exists() else 0.0
    while run.epoch < epochs:
        start = time.process_time()
        run.one_epoch(say)
        seconds += time.process_time() - start
        if not how.get("heart"):
            run.save(state)
            spent.write_text(str(seconds))
        print(name, run.history[-1], f"{seconds:.0f} CPU s", flush=True)
    write_captioner(
        out, run.best, words, shape, {**about, "history": run.history, "cpu_seconds": round(seconds)}
    )
    state.unlink(missing_ok=True)
    return out


def measure(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Any]:
    """BLEU-1 to 4 and CIDEr-D."""
    scores = caption_scores(captions, references)
    return {"bleu": [round(value, 4) for value in scores.bleu], "cider": round(scores.cider, 4)}


def finds(engine: felga.Engine, captions: Sequence[str], target: Split) -> dict[str, float]:
    """How often a caption finds its own image."""
    found = engine.search_all([" ".join(caption_words(caption)) for caption in captions], 10)
    ranks = [
        next((hit.rank for hit in hits if hit.image_id == row.image_id), 11)
        for hits, row in zip(found, target.rows, strict=True)
    ]
    return {f"finds@{cut}": round(statistics.fmean(rank <= cut for rank in ranks), 4) for cut in (1, 10)}


def seen(tokens: Tokens) -> npt.NDArray[np.float32]:
    """One vector per image: square roots of the mean activations, of length 1, as conse's features."""
    vectors = np.sqrt(np.stack([np.asarray(one, np.float32).mean(0) for one in tokens]))
    unit: npt.NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def blindfolded(source: Split, target: Split) -> Split:
    """The target, of whose images nothing is seen but the mean visual tokens of all training images."""
    blind = copy.copy(target)
    mean = sum(one.astype(np.float32) for one in source.tokens) / len(source.tokens)
    blind.tokens = np.broadcast_to(mean.astype(np.float16), target.tokens.shape)
    return blind


def copied(source: Split, target: Split) -> dict[str, list[str]]:
    """Captions without a decoder: of the nearest training image, by a vote of ten, and the most typical.

    The vote goes to the caption whose MiniLM vector is nearest to the mean of all captions of these images.
    """
    order = np.argsort(-(seen(target.tokens) @ seen(source.tokens).T), axis=1)[:, :NEAREST]
    vectors = [minilm(CPU).embed(own) for own in source.references]
    voted = []
    for rows in order:
        texts = [text for row in rows for text in source.references[row]]
        own = np.concatenate([vectors[row] for row in rows])
        voted.append(texts[int(np.argmax(own @ own.mean(0)))])
    nearest = [source.references[rows[0]][0] for rows in order]
    return {"nearest": nearest, "voted": voted, "typical": [typical(source)] * len(target.rows)}


def typical(source: Split) -> str:
    """The first caption of a training image that says most, by CIDEr-D, of every twentieth training image."""
    judges = source.references[::20]
    candidates = [own[0] for own in source.references]
    return max(candidates, key=lambda text: statistics.fmean(cider([text] * len(judges), judges)))


def written(path: Path, target: Split, beam: int) -> list[str]:
    """The captions of a captioner."""
    return [one.text for one in Captioner.load(path, device="cpu").of_tokens(target.tokens, beam)]


def of_decoder(path: Path, target: Split, engine: felga.Engine, beam: int) -> dict[str, Any]:
    """One captioner, measured."""
    start = time.process_time()
    captions = written(path, target, beam)
    each = (time.process_time() - start) / len(captions)
    row = {**measure(captions, target.references), **finds(engine, captions, target)}
    return row | {"cpu_ms": round(1000 * each, 1), "different": len(set(captions))}


def by_heart(path: Path, source: Split) -> int:
    """How many of the captions that it learned are written word by word, greedily."""
    captioner = Captioner.load(path, device="cpu")
    found = captioner.of_tokens(source.tokens[:LEARNED_BY_HEART])
    wanted = [
        captioner.words.text(captioner.words.rows(own[0])) for own in source.references[:LEARNED_BY_HEART]
    ]
    return sum(one.text == text for one, text in zip(found, wanted, strict=True))


def mean(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over the seeds."""
    flat = [{**row, **{f"bleu{n}": value for n, value in enumerate(row["bleu"], 1)}} for row in rows]
    values = {name: [row[name] for row in flat] for name in flat[0] if name != "bleu"}
    return {
        name: {"mean": statistics.fmean(own), "std": statistics.stdev(own)} for name, own in values.items()
    }


def sheet(out: Path, captions: Sequence[str], target: Split) -> None:
    """A page of images with their captions: the best and the worst by CIDEr-D, and some in between."""
    scores = cider(captions, target.references)
    order = np.argsort(scores)[::-1]
    parts = []
    for title, rows in (("Best", order[:20]), ("Worst", order[-20:]), ("Every tenth", order[5::10])):
        parts.append(f"<h2>{title}</h2>")
        for row in rows:
            buffer = io.BytesIO()
            image = Image.open(target.files.images / target.rows[row].file_name).convert("RGB")
            image.thumbnail((260, 260))
            image.save(buffer, "JPEG")
            said, people = html.escape(captions[row]), html.escape(target.references[row][0])
            data = base64.b64encode(buffer.getvalue()).decode()
            parts.append(
                f'<figure><img src="data:image/jpeg;base64,{data}"><figcaption> <b>{said}</b>'
                f" {scores[row]:.2f}<br><i>{people}</i></figcaption></figure>"
            )
    style = "figure{display:inline-block;width:260px;margin:8px;vertical-align:top;font:13px sans-serif}"
    out.write_text(f"<!doctype html><meta charset=utf-8><style>{style}</style>{''.join(parts)}")


def opened(work: Path, target: Split) -> felga.Engine:
    """An index of the images with the default parts, built unless it is there."""
    if not (work / "index").exists():
        corpus = CocoCorpus(target.files.captions, target.files.images)
        felga.index(corpus, work / "index", felga.Options(device="cpu"))
    return felga.Engine.open(work / "index", device="cpu")


def leak(paths: dict[str, Path], target: Split, engine: felga.Engine) -> dict[str, Any]:
    """Both masks: the loss by teacher forcing on held-out images, and what is written freely."""
    rows = {}
    for mask, path in paths.items():
        history = read_about(path, "captioner")["history"]
        lowest = min(history, key=lambda entry: entry["held_out"])
        rows[mask] = {"epochs": len(history), **lowest, **of_decoder(path, target, engine, 1)}
    return rows


def main() -> None:
    """Train, measure, and write the json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/captions"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/captions.json"))
    parser.add_argument("--only", nargs="+", help="train these alone, and measure nothing")
    parser.add_argument("--sheet", action="store_true", help="also draw --work/sheet.html")
    args = parser.parse_args()
    torch.set_num_threads(1)
    source, target = (Split(coco_files(args.root, name), args.work) for name in ("train2017", "val2017"))
    plan: dict[str, tuple[Shape, int, int, dict[str, bool]]] = {
        **{f"seed-{seed}": (Shape(), EPOCHS, seed, {}) for seed in SEEDS},
        "prefix": (Shape(), MASK_EPOCHS, 0, {"single": True}),
        "printed": (Shape(mask="printed"), MASK_EPOCHS, 0, {"single": True}),
        "heart": (Shape(dropout=0.0), HEART_EPOCHS, 0, {"heart": True}),
    }
    files = {
        name: train(name, source, args.work, shape, epochs, seed, **how)
        for name, (shape, epochs, seed, how) in plan.items()
        if args.only is None or name in args.only
    }
    if args.only:
        return
    about = {name: read_about(path, "captioner") for name, path in files.items()}
    results: dict[str, Any] = {}
    with opened(args.work, target) as engine:
        for label, beam in (("greedy", 1), ("beam", BEAM)):
            rows = [of_decoder(files[f"seed-{seed}"], target, engine, beam) for seed in SEEDS]
            results[label] = {"mean": mean(rows), "seeds": rows}
        results["blind"] = of_decoder(files["seed-0"], blindfolded(source, target), engine, BEAM)
        texts = copied(source, target)
        for label, captions in texts.items():
            results[label] = {**measure(captions, target.references), **finds(engine, captions, target)}
        first, others = [own[0] for own in target.references], [own[1:] for own in target.references]
        results["people"] = {**measure(first, others), **finds(engine, first, target)}
        results["leak"] = leak({mask: files[mask] for mask in ("prefix", "printed")}, target, engine)
    result = {
        "commit": commit(),
        "machine": machine(),
        "network": {"name": DEFAULT, "side": LONGER_SIDE},
        "dataset": args.root.resolve().name,
        "images": {"train2017": len(source.rows), "val2017": len(target.rows)},
        "captions": sum(map(len, source.references)),
        "words": len(Captioner.load(files["seed-0"], device="cpu").words.ids),
        "epochs": EPOCHS,
        "beam": BEAM,
        "megabytes": round(files["seed-0"].stat().st_size / 1e6, 1),
        "cpu_seconds": {name: entry["cpu_seconds"] for name, entry in about.items()},
        "by_heart": {"images": LEARNED_BY_HEART, "right": by_heart(files["heart"], source)},
        "history": about["seed-0"]["history"],
        "typical": texts["typical"][0],
        "results": results,
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    if args.sheet:
        sheet(args.work / "sheet.html", written(files["seed-0"], target, BEAM), target)


if __name__ == "__main__":
    main()
