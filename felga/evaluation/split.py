"""A COCO split, encoded: its fragments from an index, and what no index holds kept in a file beside it.

Indexing resumes like any other. Class names, whole texts, whole images and ground-truth boxes are encoded
once per encoder and split.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from felga.corpus.coco import CocoCorpus, CocoFiles, Instances, read_instances
from felga.corpus.decode import read_image
from felga.errors import BadInputError
from felga.evaluation.class_names import mentions
from felga.evaluation.protocol import Split
from felga.files import canonical, sha256_file, shown, to_json
from felga.indexing.job import index
from felga.indexing.parts import Parts
from felga.models.arrays import Arrays, read_arrays, write_arrays
from felga.store.manifest import Manifest
from felga.store.schema import flat, list_lengths
from felga.store.stored import StoredIndex
from felga.types import Box, Boxes, Encoder, Flags, Floats, Progress, Rows, Vectors

DECODED = 8  # images decoded at once


@dataclass(frozen=True, slots=True)
class Encoded:
    """The index of a split, open, and the files it was built from."""

    files: CocoFiles
    index: StoredIndex

    @property
    def manifest(self) -> Manifest:
        """The manifest of the index."""
        return self.index.manifest

    def image_ids(self) -> list[str]:
        """The ids of all images."""
        ids: list[str] = self.index.images.read(["image_id"]).column("image_id").to_pylist()
        return ids

    def paths(self) -> dict[str, Path]:
        """Image id -> file."""
        rows = self.index.images.read(["image_id", "path"]).to_pylist()
        return {row["image_id"]: self.files.images / os.fsdecode(row["path"]) for row in rows}


def encode_split(files: CocoFiles, work: Path, parts: Parts, ids: Path | None, progress: Progress) -> Encoded:
    """Index a split below ``work``, in a folder of its own for each contract, captions file and subset."""
    key = [
        canonical(asdict(parts.contract())),
        parts.options.max_megapixels,
        sha256_file(files.captions),
        sha256_file(ids) if ids else None,
    ]
    folder = work / f"{files.name}-{hashlib.sha256(to_json(key).encode()).hexdigest()[:10]}"
    corpus = CocoCorpus(files.captions, files.images, ids=ids)
    index(corpus, folder, parts.options, parts=parts, progress=progress)
    return Encoded(files, StoredIndex.open(folder))


def read_split(encoded: Encoded, encoder: Encoder, progress: Progress) -> Split:
    """Everything that a test needs of a split.

    Raises:
        BadInputError: the instances file lacks an image of the captions file.
    """
    instances = read_instances(encoded.files.instances)
    images, region_vectors, region_boxes, region_counts = _regions(encoded, instances)
    truth = _Truth.of(instances, images)
    texts = _Texts.of(encoded, images)
    names = list(instances.categories.values())
    queries = query_vectors(encoded, encoder, images, truth, names, texts.texts, progress)
    return Split(
        class_names=names,
        class_vectors=queries["classes"],
        region_vectors=region_vectors,
        region_offsets=np.cumsum([0, *region_counts]),
        keyword_vectors=texts.vectors,
        keyword_rows=texts.rows,
        keyword_offsets=texts.offsets,
        box_vectors=queries["boxes"],
        box_class=truth.box_class,
        box_area=truth.box_area,
        box_image=truth.box_image,
        contains=truth.contains,
        mentions=mentions(texts.texts, names),
        image_vectors=queries["images"],
        text_vectors=queries["texts"],
        region_boxes=region_boxes,
        boxes=truth.boxes,
        keywords=texts.keywords,
        image_ids=images,
    )


def query_vectors(
    encoded: Encoded,
    encoder: Encoder,
    images: Sequence[str],
    truth: _Truth,
    names: Sequence[str],
    texts: Sequence[str],
    progress: Progress,
) -> Arrays:
    """Vectors of class names, whole texts, whole images and ground-truth boxes; kept for the next run."""
    tables = encoded.manifest.images.digest, encoded.manifest.texts.digest
    key = [canonical(dict(encoder.identity())), *tables, sha256_file(encoded.files.instances)]
    mark = hashlib.sha256(to_json(key).encode()).hexdigest()[:16]
    folder = encoded.index.folder
    path = folder.with_name(f"{folder.name}-queries-{mark}.safetensors")
    if path.exists():
        return read_arrays(path, "queries")[0]
    vectors = {"classes": encoder.encode_texts(names), "texts": encoder.encode_texts(texts)}
    vectors["images"], vectors["boxes"] = encode_boxes(encoded, encoder, images, truth, progress)
    write_arrays(path, "queries", vectors, {})
    return vectors


def encode_boxes(
    encoded: Encoded, encoder: Encoder, images: Sequence[str], truth: _Truth, progress: Progress
) -> tuple[Vectors, Vectors]:
    """Vectors of whole images (P, dim) and of ground-truth boxes (B, dim); each image is decoded once."""
    paths = encoded.paths()
    boxes: list[list[Box]] = [[] for _ in images]
    for box, p in zip(truth.boxes.tolist(), truth.box_image, strict=True):
        boxes[p].append(box)
    wholes, parts = np.empty((len(images), encoder.dim), np.float32), []
    for start in range(0, len(images), DECODED):
        group = range(start, min(start + DECODED, len(images)))
        decoded = [read_image(paths[images[p]], images[p]) for p in group]
        asked = [
            np.array([image.whole, *boxes[p]], np.float32) for p, image in zip(group, decoded, strict=True)
        ]
        for p, vectors in zip(group, encoder.encode_regions(decoded, asked), strict=True):
            wholes[p] = vectors[0]
            parts.append(vectors[1:])
        progress("boxes", group.stop, len(images))
    return wholes, np.concatenate([np.empty((0, encoder.dim), np.float32), *parts])


def _regions(encoded: Encoded, instances: Instances) -> tuple[list[str], Vectors, Boxes, list[int]]:
    """Ids of the readable images in COCO's order; the vectors, boxes and numbers of their regions."""
    rows = encoded.index.images.read(["image_id", "error", "boxes", "vectors"])
    ids = rows.column("image_id").to_pylist()
    readable = [i for i, error in enumerate(rows.column("error").to_pylist()) if error is None]
    if unknown := [ids[i] for i in readable if ids[i] not in instances.truths]:
        raise BadInputError(
            f"{shown(encoded.files.instances)} lacks image {unknown[0]} of the captions file: both must be "
            "of the same split"
        )
    order = sorted(readable, key=lambda i: int(ids[i]))
    counts = list_lengths(rows.column("boxes").combine_chunks())
    starts = np.concatenate([[0], np.cumsum(counts)])
    taken = np.concatenate([np.empty(0, np.int64), *(np.arange(starts[i], starts[i + 1]) for i in order)])
    vectors = flat(rows.column("vectors").combine_chunks())[taken]
    boxes = flat(rows.column("boxes").combine_chunks())[taken]
    return [ids[i] for i in order], vectors, boxes, [int(counts[i]) for i in order]


@dataclass(frozen=True, slots=True)
class _Truth:
    """Ground truth as in :class:`felga.evaluation.protocol.Split`."""

    contains: Flags
    boxes: Boxes
    box_class: Rows
    box_area: Floats
    box_image: Rows

    @classmethod
    def of(cls, instances: Instances, images: Sequence[str]) -> _Truth:
        class_of = {category: c for c, category in enumerate(instances.categories)}
        contains = np.zeros((len(class_of), len(images)), bool)
        boxes: list[Box] = []
        about: list[tuple[int, float, int]] = []
        for p, image_id in enumerate(images):
            for one in instances.truths[image_id]:
                contains[class_of[one.category_id], p] = True
                if not one.crowd:
                    boxes.append(one.box)
                    about.append((class_of[one.category_id], one.area, p))
        return cls(
            contains,
            np.array(boxes, np.float32).reshape(-1, 4),
            np.array([c for c, _, _ in about], np.int64),
            np.array([area for _, area, _ in about], np.float64),
            np.array([p for _, _, p in about], np.int64),
        )


@dataclass(frozen=True, slots=True)
class _Texts:
    """The text of each image, and the distinct keywords."""

    texts: list[str]
    keywords: list[str]
    vectors: Vectors
    rows: Rows
    offsets: Rows

    @classmethod
    def of(cls, encoded: Encoded, images: Sequence[str]) -> _Texts:
        place = {image_id: p for p, image_id in enumerate(images)}
        texts, rows_of = [""] * len(images), [np.empty(0, np.int64)] * len(images)
        words: dict[str, int] = {}
        vectors: list[Any] = [np.empty((0, encoded.manifest.contract.encoder["dim"]), np.float32)]
        for batch in encoded.index.texts.batches(["image_id", "text", "keywords", "vectors"]):
            each = iter(flat(batch.column("vectors")))
            for row in batch.select(["image_id", "text", "keywords"]).to_pylist():
                for word, vector in zip(row["keywords"], each, strict=False):
                    if word not in words:
                        words[word] = len(words)
                        vectors.append(vector[None].copy())
                if row["image_id"] in place:
                    texts[place[row["image_id"]]] = row["text"]
                    rows_of[place[row["image_id"]]] = np.array([words[w] for w in row["keywords"]], np.int64)
        offsets = np.cumsum([0, *map(len, rows_of)])
        return cls(texts, list(words), np.concatenate(vectors), np.concatenate(rows_of), offsets)
