"""``felga bench coco``: encode COCO splits, train the methods of the paper's tables, and measure them.

Encoding goes through an index like any other, so it resumes; ground-truth boxes and whole sentences, which
no index holds, are encoded beside it and kept in one file. Trainings see captions of the training split and
nothing else: neither boxes nor class names, and no image of the test split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import load_file, save_file

from felga.corpus.coco import CocoCorpus, CocoFiles, Instances, coco_files, read_instances
from felga.corpus.decode import read_image
from felga.errors import BadInputError
from felga.evaluation.class_names import mentions
from felga.evaluation.protocol import (
    Relevance,
    Split,
    Transform,
    check_disjoint,
    discovery_curve,
    evaluate,
    identity,
    keyword_ceiling,
    proposal_ceiling,
)
from felga.evaluation.results import METHODS, build_results
from felga.fenet.recipes import make_recipe
from felga.fenet.train import Progress as Training
from felga.fenet.train import train
from felga.files import sha256_file, to_json
from felga.indexing.job import index
from felga.indexing.options import Options
from felga.registry import make_encoder
from felga.search.segments import segment_max, top_owners
from felga.show.figures import class_bars, precision_recall_figure
from felga.show.sheets import Hit, result_sheet
from felga.store.manifest import Manifest, read_manifest
from felga.store.pairs import features_of
from felga.store.schema import flat, list_lengths
from felga.store.stored import StoredIndex
from felga.types import Box, Encoder, Progress

UNTRAINED = ("entire", "frozen")


@dataclass(frozen=True, slots=True)
class Encoded:
    """A split on disk: its index and, for a test, what is encoded beside it."""

    files: CocoFiles
    folder: Path
    manifest: Manifest
    ids: Path | None


def encode_split(
    files: CocoFiles, work: Path, options: Options, ids: Path | None, progress: Progress
) -> Encoded:
    """Index a split below ``work``; another encoder or proposer has another folder there."""
    corpus = CocoCorpus(files.captions, files.images, ids=ids)
    made = {
        "options": replace(options, device="", batch_size=1, commit_every=1),
        "captions": str(files.captions),
    }
    mark = hashlib.sha256(repr((made, ids and ids.read_bytes())).encode()).hexdigest()[:10]
    folder = work / f"{files.name}-{mark}"
    index(corpus, folder, options, progress=progress)
    return Encoded(files, folder, read_manifest(folder), ids)


def read_split(encoded: Encoded, options: Options, progress: Progress) -> Split:
    """Everything that a test needs of a split: fragments from its index, queries and truth beside them."""
    truth = read_instances(encoded.files.instances)
    rows = StoredIndex.open(encoded.folder).images.read(
        ["image_id", "path", "error", "boxes", "whole", "vectors"]
    )
    ids = rows.column("image_id").to_pylist()
    readable = [i for i, error in enumerate(rows.column("error").to_pylist()) if error is None]
    unknown = [ids[i] for i in readable if ids[i] not in truth.truths]
    if unknown:
        raise BadInputError(f"{encoded.files.instances} lacks the image {unknown[0]} of the captions file")
    order = sorted(readable, key=lambda i: int(ids[i]))
    images = [ids[i] for i in order]
    place = {image_id: p for p, image_id in enumerate(images)}
    names = list(truth.categories.values())
    class_of = {category: c for c, category in enumerate(truth.categories)}

    counts = list_lengths(rows.column("boxes").combine_chunks())
    starts = np.concatenate([[0], np.cumsum(counts)])
    taken = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in order])
    region_vectors = flat(rows.column("vectors").combine_chunks())[taken]
    region_boxes = flat(rows.column("boxes").combine_chunks())[taken]

    contains = np.zeros((len(names), len(images)), bool)
    box_class, box_area, box_image, boxes = [], [], [], []
    for p, image_id in enumerate(images):
        for one in truth.truths[image_id]:
            contains[class_of[one.category_id], p] = True
            if not one.crowd:
                box_class.append(class_of[one.category_id])
                box_area.append(one.area)
                box_image.append(p)
                boxes.append(one.box)
    texts, words = _texts(encoded, place)
    beside = _beside(
        encoded, options, truth, images, boxes, box_image, names, [t[0] for t in texts], progress
    )
    keyword_rows = np.concatenate([np.array(t[1], np.int64) for t in texts])
    return Split(
        class_names=names,
        class_vectors=beside["classes"],
        region_vectors=region_vectors,
        region_offsets=np.concatenate([[0], np.cumsum(counts[order])]).astype(np.int64),
        keyword_vectors=np.stack(list(words.values())),
        keyword_rows=keyword_rows,
        keyword_offsets=np.cumsum([0, *(len(t[1]) for t in texts)]),
        box_vectors=beside["boxes"],
        box_class=np.array(box_class, np.int64),
        box_area=np.array(box_area),
        box_image=np.array(box_image, np.int64),
        contains=contains,
        mentions=mentions([t[0] for t in texts], names),
        image_vectors=beside["images"],
        text_vectors=beside["texts"],
        region_boxes=region_boxes,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        keywords=list(words),
        image_ids=images,
    )


def _texts(encoded: Encoded, place: dict[str, int]) -> tuple[list[tuple[str, list[int]]], dict[str, Any]]:
    """(text, rows of its keywords) of each image, and each distinct keyword's vector."""
    table = StoredIndex.open(encoded.folder).texts
    texts: list[tuple[str, list[int]]] = [("", []) for _ in place]
    words: dict[str, Any] = {}
    numbers: dict[str, int] = {}
    for batch in table.batches(["image_id", "text", "keywords", "vectors"]):
        vectors = iter(flat(batch.column("vectors")))
        for row in batch.select(["image_id", "text", "keywords"]).to_pylist():
            own = []
            for word in row["keywords"]:
                vector = next(vectors)
                if word not in words:
                    words[word] = vector.copy()
                    numbers[word] = len(numbers)
                own.append(numbers[word])
            if row["image_id"] in place:
                texts[place[row["image_id"]]] = row["text"], own
    return texts, words


def _beside(
    encoded: Encoded,
    options: Options,
    truth: Instances,
    images: Sequence[str],
    boxes: Sequence[Box],
    box_image: Sequence[int],
    names: Sequence[str],
    texts: Sequence[str],
    progress: Progress,
) -> dict[str, np.ndarray[Any, Any]]:
    """Vectors of ground-truth boxes, whole images, whole texts and class names; kept for the next time."""
    encoder = make_encoder(
        options.encoder, device=options.device, batch_size=options.batch_size, pooling=options.pooling
    )
    asked = [encoder.identity(), encoded.manifest.images.digest, sha256_file(encoded.files.instances)]
    mark = hashlib.sha256(to_json(asked).encode()).hexdigest()[:16]
    path = encoded.folder.parent / f"{encoded.folder.name}-queries-{mark}.safetensors"
    if path.exists():
        kept: dict[str, np.ndarray[Any, Any]] = load_file(path)
        return kept
    found = {"classes": encoder.encode_texts(list(names)), "texts": encoder.encode_texts(list(texts))}
    found["images"], found["boxes"] = _look(encoded, encoder, images, boxes, box_image, options, progress)
    part = path.with_suffix(".part")
    save_file(found, part)
    part.replace(path)
    return found


def _look(
    encoded: Encoded,
    encoder: Encoder,
    images: Sequence[str],
    boxes: Sequence[Box],
    box_image: Sequence[int],
    options: Options,
    progress: Progress,
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Vectors of whole images (P, dim) and of ground-truth boxes (B, dim), each image decoded once."""
    paths = _paths(encoded)
    own: list[list[Box]] = [[] for _ in images]
    for box, p in zip(boxes, box_image, strict=True):
        own[p].append(box)
    wholes = np.empty((len(images), encoder.dim), np.float32)
    found = []
    for start in range(0, len(images), 8):
        group = range(start, min(start + 8, len(images)))
        decoded = [read_image(paths[images[p]], images[p]) for p in group]
        asked = [
            np.array([image.whole, *own[p]], np.float32) for p, image in zip(group, decoded, strict=True)
        ]
        for p, vectors in zip(group, encoder.encode_regions(decoded, asked), strict=True):
            wholes[p] = vectors[0]
            found.append(vectors[1:])
        progress("boxes", group.stop, len(images))
    return wholes, np.concatenate(found) if found else np.empty((0, encoder.dim), np.float32)


def bench_coco(
    root: Path,
    *,
    methods: Sequence[str] = METHODS,
    options: Options | None = None,
    train_root: Path | None = None,
    train_split: str = "train2017",
    test_split: str = "val2017",
    ids: Path | None = None,
    train_ids: Path | None = None,
    recipe: str = "auto",
    changes: dict[str, Any] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    relevance: Relevance = "box",
    work: Path = Path("indexes"),
    progress: Progress = lambda stage, done, total: None,
    tell: Callable[[str], None] = lambda line: None,
    drawings: Drawings | None = None,
) -> dict[str, Any]:
    """Measure methods on a COCO split; the content of a results file.

    Args:
        root, train_root: folders in the official layout; ``train_root`` None: the same.
        methods: of :data:`felga.evaluation.results.METHODS`.
        ids, train_ids: files of image ids, for subsets.
        recipe, changes: of :func:`felga.fenet.recipes.make_recipe`; each method sets its own losses.
        seeds: a training of each trained method for each.
        work: where indexes are kept.
        tell: is told each result as it comes.
        drawings: figures to draw; a trained method by its first seed.

    Raises:
        BadInputError: an unknown method, or an image that is in training and test.
        NotFoundError: missing files.
    """
    options = options or Options()
    for method in methods:
        if method not in METHODS:
            raise BadInputError(f"there is no method {method!r}; known: {', '.join(METHODS)}")
    trained = [method for method in methods if method not in UNTRAINED]
    test = encode_split(coco_files(root, test_split), work, options, ids, progress)
    data: dict[str, Any] = {"test": _fingerprint(test)}
    if trained:
        source = encode_split(coco_files(train_root or root, train_split), work, options, train_ids, progress)
        features = features_of(source.folder)
        check_disjoint(features.pair_ids, _ids(test))
        data["train"] = {**_fingerprint(source), "pairs": len(features), "features": features.fingerprint()}
    split = read_split(test, options, progress)
    runs: dict[str, list[dict[str, Any]]] = {}
    for method in methods:
        if method in UNTRAINED:
            seen = split.entire() if method == "entire" else split
            runs[method] = [{"seed": None, **evaluate(seen, relevance=relevance)}]
            if drawings:
                drawings.add(method, seen, identity, runs[method][-1])
            tell(_line(method, runs[method][-1]))
            continue
        plan = make_recipe(recipe, pairs=len(features.usable), **{**(changes or {}), "method": method})
        data["recipe"] = {**plan.to_json(), "method": "each row its own"}
        runs[method] = []
        for seed in seeds:
            fenet = train(
                features, plan, seed=seed, device=options.device, progress=_epochs(method, seed, progress)
            )
            runs[method].append({"seed": seed, **evaluate(split, fenet.apply, relevance)})
            if drawings and seed == seeds[0]:
                drawings.add(method, split, fenet.apply, runs[method][-1])
            tell(_line(f"{method}, seed {seed}", runs[method][-1]))
    if drawings:
        drawings.draw(split, _paths(test))
    return build_results(
        runs,
        dataset=f"{root.resolve().name} {test_split}",
        year=test.files.year,
        encoder=make_encoder(options.encoder, device=options.device, pooling=options.pooling).identity(),
        relevance=relevance,
        data=data,
        ceiling={
            "object_discovery": proposal_ceiling(split),
            "description_assignment": keyword_ceiling(split, relevance),
        },
    )


@dataclass(slots=True)
class Drawings:
    """The figures of a benchmark: precision-recall curves, bars by class, the paper's Figure 2.

    Attributes:
        folder: where they go.
        query: the class of the before/after sheet.
    """

    folder: Path
    query: str
    _curves: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    _classes: dict[str, dict[str, float | None]] = field(default_factory=dict)
    _rows: dict[str, list[tuple[int, int, float]]] = field(default_factory=dict)

    def add(self, method: str, split: Split, transform: Transform, run: dict[str, Any]) -> None:
        """Take what the figures need of a method."""
        self._curves[method] = discovery_curve(split, transform)
        self._classes[method] = run["object_discovery"]["per_class"]
        if method == "entire":
            return
        if self.query not in split.class_names:
            raise BadInputError(f"{self.query!r} is none of the {len(split.class_names)} classes")
        query = transform(split.class_vectors)[list(split.class_names).index(self.query)]
        best, rows = segment_max(transform(split.region_vectors) @ query, split.region_offsets)
        self._rows[method] = [(int(p), int(rows[p]), float(best[p])) for p in top_owners(best, 5)]

    def draw(self, split: Split, paths: dict[str, Path]) -> None:
        """Write the figures."""
        self.folder.mkdir(parents=True, exist_ok=True)
        precision_recall_figure(self._curves, self.folder / "precision-recall.png", "object discovery")
        class_bars(self._classes, self.folder / "classes.png", "object discovery")
        assert split.region_boxes is not None
        assert split.image_ids is not None
        right = split.contains[list(split.class_names).index(self.query)]
        rows = []
        for method, found in self._rows.items():
            hits = []
            for p, row, score in found:
                image = read_image(paths[split.image_ids[p]], split.image_ids[p])
                box = image.in_pixels(split.region_boxes[row])[0].tolist()
                hits.append(Hit(Image.fromarray(image.pixels), tuple(box), bool(right[p]), score))
            rows.append((method, hits))
        result_sheet(rows, f'"{self.query}"').save(
            self.folder / f"figure-2-{self.query.replace(' ', '-')}.png"
        )


def _paths(encoded: Encoded) -> dict[str, Path]:
    """Where each image is, by its id."""
    corpus = CocoCorpus(encoded.files.captions, encoded.files.images, ids=encoded.ids)
    return {item.image_id: encoded.files.images / item.path for item in corpus.scan().images}


def _ids(encoded: Encoded) -> list[str]:
    table = StoredIndex.open(encoded.folder).images
    found: list[str] = table.read(["image_id"]).column("image_id").to_pylist()
    return found


def _fingerprint(encoded: Encoded) -> dict[str, Any]:
    manifest = encoded.manifest
    return {
        "split": encoded.files.name,
        "images": manifest.images.owners,
        "regions": manifest.images.fragments,
        "texts": manifest.texts.owners,
        "keywords": manifest.texts.fragments,
        "images_digest": manifest.images.digest,
        "texts_digest": manifest.texts.digest,
        "proposers": {name: dict(getattr(manifest.contract, name)) for name in ("regions", "keywords")},
    }


def _epochs(method: str, seed: int, progress: Progress) -> Callable[[Training], None]:
    def show(training: Training) -> None:
        done = (training.epoch - 1) * training.steps + training.step
        progress(f"{method} {seed}", done, training.epochs * training.steps)

    return show


def _line(name: str, run: dict[str, Any]) -> str:
    discovery, assignment = run["object_discovery"]["map"], run["description_assignment"]["map"]
    return (
        f"{name:24} object discovery {100 * discovery:5.1f}   description assignment {100 * assignment:5.1f}"
    )
