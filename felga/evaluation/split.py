"""A COCO split, encoded: its fragments from an index, and what no index holds kept in a file beside it.

Indexing resumes like any other. Class names, whole texts, whole images and ground-truth boxes are encoded
once per encoder and split, with features where the encoder has them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from felga.corpus.class_names import mentions, noun_phrase
from felga.corpus.coco import CocoCorpus, CocoFiles, Instances, read_instances
from felga.corpus.decode import read_image
from felga.errors import BadInputError
from felga.evaluation.protocol import Crowds, Split
from felga.files import canonical, sha256_file, shown, to_json
from felga.indexing.job import index
from felga.indexing.parts import Parts
from felga.models.arrays import Arrays, read_arrays, write_arrays
from felga.store.manifest import Manifest
from felga.store.schema import FEATURES, feature_rows, flat, keywords_of, list_lengths, vector_rows
from felga.store.stored import StoredIndex
from felga.types import (
    Box,
    Boxes,
    DecodedImage,
    Encoder,
    FeatureEncoder,
    Flags,
    Floats,
    Progress,
    RegionFeatures,
    Rows,
    Scores,
    Vectors,
)

DECODED = 8  # images decoded at once
_Seen: TypeAlias = tuple[Vectors, RegionFeatures | None]


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
    images, regions = _Regions.of(encoded, instances)
    truth = GroundTruth.of(instances, images)
    texts = _Texts.of(encoded, images)
    names = list(instances.categories.values())
    phrases, phrase_box = truth.phrases(texts.texts, names)
    asked = {"classes": names, "texts": texts.texts, "phrases": phrases}
    queries = query_vectors(encoded, encoder, images, truth, asked, progress)
    return Split(
        class_names=names,
        class_vectors=queries["classes"],
        region_vectors=regions.vectors,
        region_offsets=regions.offsets,
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
        text_whole=texts.whole,
        region_boxes=regions.boxes,
        boxes=truth.boxes,
        keywords=texts.keywords,
        image_ids=images,
        crowds=truth.crowds,
        region_quality=regions.quality,
        region_whole=regions.whole,
        region_features=regions.features,
        box_features=queries.get("box_features"),
        image_features=queries.get("image_features"),
        phrase_vectors=queries["phrases"],
        phrase_box=phrase_box,
    )


def query_vectors(
    encoded: Encoded,
    encoder: Encoder,
    images: Sequence[str],
    truth: GroundTruth,
    asked: Mapping[str, Sequence[str]],
    progress: Progress,
) -> Arrays:
    """Vectors of what is asked, whole images and ground-truth boxes; kept for the next run.

    Args:
        asked: name of an array -> texts.

    Returns:
        The arrays of ``asked``, ``images`` and ``boxes``; and ``image_features`` and ``box_features``, (n, f)
        float16, if the encoder has features.
    """
    tables = encoded.manifest.images.digest, encoded.manifest.texts.digest
    shape = [*map(list, asked.items()), isinstance(encoder, FeatureEncoder)]
    key = [canonical(dict(encoder.identity())), *tables, sha256_file(encoded.files.instances), shape]
    mark = hashlib.sha256(to_json(key).encode()).hexdigest()[:16]
    folder = encoded.index.folder
    path = folder.with_name(f"{folder.name}-queries-{mark}.safetensors")
    if path.exists():
        return read_arrays(path, "queries")[0]
    vectors: Arrays = {name: encoder.encode_texts(texts) for name, texts in asked.items()}
    vectors |= encode_boxes(encoded, encoder, images, truth, progress)
    write_arrays(path, "queries", vectors, {})
    return vectors


def encode_boxes(
    encoded: Encoded, encoder: Encoder, images: Sequence[str], truth: GroundTruth, progress: Progress
) -> Arrays:
    """``images`` (P, dim) and ``boxes`` (B, dim), with features; each image is decoded once."""
    paths = encoded.paths()
    boxes: list[list[Box]] = [[] for _ in images]
    for box, p in zip(truth.boxes.tolist(), truth.box_image, strict=True):
        boxes[p].append(box)
    found: list[_Seen] = []
    for start in range(0, len(images), DECODED):
        group = range(start, min(start + DECODED, len(images)))
        decoded = [read_image(paths[images[p]], images[p]) for p in group]
        asked = [
            np.array([image.whole, *boxes[p]], np.float32) for p, image in zip(group, decoded, strict=True)
        ]
        found += _seen(encoder, decoded, asked)
        progress("boxes", group.stop, len(images))
    empty = np.empty((0, encoder.dim), np.float32)
    arrays = {
        "images": np.concatenate([empty, *(vectors[:1] for vectors, _ in found)]),
        "boxes": np.concatenate([empty, *(vectors[1:] for vectors, _ in found)]),
    }
    if features := [each for _, each in found if each is not None]:
        arrays["image_features"] = np.concatenate([each[:1] for each in features])
        arrays["box_features"] = np.concatenate([each[1:] for each in features])
    return arrays


def _seen(encoder: Encoder, images: Sequence[DecodedImage], boxes: Sequence[Boxes]) -> list[_Seen]:
    if isinstance(encoder, FeatureEncoder):
        return list(encoder.encode_features(images, boxes))
    return [(vectors, None) for vectors in encoder.encode_regions(images, boxes)]


@dataclass(frozen=True, slots=True)
class _Regions:
    """The regions of the readable images, as in :class:`felga.evaluation.protocol.Split`."""

    offsets: Rows
    boxes: Boxes
    vectors: Vectors
    whole: Flags
    quality: Scores | None
    features: RegionFeatures | None

    @classmethod
    def of(cls, encoded: Encoded, instances: Instances) -> tuple[list[str], _Regions]:
        """Ids of the readable images in COCO's order, and their regions."""
        table = encoded.index.images
        more = [name for name in ("quality", *FEATURES) if name in table.schema.names]
        rows = table.read(["image_id", "error", "boxes", "vectors", "whole", *more])
        ids = rows.column("image_id").to_pylist()
        readable = [i for i, error in enumerate(rows.column("error").to_pylist()) if error is None]
        if unknown := [ids[i] for i in readable if ids[i] not in instances.truths]:
            raise BadInputError(
                f"{shown(encoded.files.instances)} lacks image {unknown[0]} of the captions file: both must "
                "be of the same split"
            )
        order = sorted(readable, key=lambda i: int(ids[i]))
        columns = {name: rows.column(name).combine_chunks() for name in ("boxes", "whole", *more)}
        counts = list_lengths(columns["boxes"])
        starts = np.concatenate([[0], np.cumsum(counts)])
        taken = np.concatenate([np.empty(0, np.int64), *(np.arange(starts[i], starts[i + 1]) for i in order)])
        regions = cls(
            offsets=np.cumsum([0, *counts[order]]),
            boxes=flat(columns["boxes"])[taken],
            vectors=vector_rows(rows)[taken],
            whole=_values(columns["whole"])[taken].astype(bool),
            quality=_quality(columns["quality"], taken) if "quality" in more else None,
            features=feature_rows(rows)[taken] if "features" in more else None,
        )
        return [ids[i] for i in order], regions


def _values(column: Any) -> Any:
    return column.flatten().to_numpy(zero_copy_only=False)


def _quality(column: Any, taken: Rows) -> Scores | None:
    """Predicted IoU, NaN where none was predicted; None if it nowhere was."""
    values: Scores = _values(column)[taken].astype(np.float32)
    return values if np.isfinite(values).any() else None


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """Ground truth as in :class:`felga.evaluation.protocol.Split`."""

    contains: Flags
    boxes: Boxes
    box_class: Rows
    box_area: Floats
    box_image: Rows
    crowds: Crowds

    @classmethod
    def of(cls, instances: Instances, images: Sequence[str]) -> GroundTruth:
        class_of = {category: c for c, category in enumerate(instances.categories)}
        contains = np.zeros((len(class_of), len(images)), bool)
        objects: list[tuple[Box, int, float, int]] = []
        crowds: list[tuple[Box, int, float, int]] = []
        for p, image_id in enumerate(images):
            for one in instances.truths[image_id]:
                c = class_of[one.category_id]
                contains[c, p] = True
                (crowds if one.crowd else objects).append((one.box, c, one.area, p))
        return cls(contains, *_columns(objects), Crowds(*_columns(crowds)))

    def phrases(self, texts: Sequence[str], names: Sequence[str]) -> tuple[list[str], Rows]:
        """Noun phrases that name a box: the only one of its class in an image whose text names the class.

        Returns:
            Q phrases, and the box (Q,) of each.
        """
        pairs = np.stack([self.box_image, self.box_class], axis=1).reshape(-1, 2)
        crowds = set(zip(self.crowds.box_image.tolist(), self.crowds.box_class.tolist(), strict=True))
        _, first, counts = np.unique(pairs, axis=0, return_index=True, return_counts=True)
        phrases, boxes = [], []
        for box in first[counts == 1].tolist():
            p, c = pairs[box].tolist()
            phrase = noun_phrase(texts[p], names[c])
            if phrase is not None and (p, c) not in crowds:
                phrases.append(phrase)
                boxes.append(box)
        return phrases, np.array(boxes, np.int64)


def _columns(rows: Sequence[tuple[Box, int, float, int]]) -> tuple[Boxes, Rows, Floats, Rows]:
    boxes, classes, areas, images = zip(*rows, strict=True) if rows else ((), (), (), ())
    return (
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(classes, np.int64),
        np.array(areas, np.float64),
        np.array(images, np.int64),
    )


@dataclass(frozen=True, slots=True)
class _Texts:
    """The text of each image, whether the whole of it is a fragment, and the distinct keywords."""

    texts: list[str]
    whole: Flags
    keywords: list[str]
    vectors: Vectors
    rows: Rows
    offsets: Rows

    @classmethod
    def of(cls, encoded: Encoded, images: Sequence[str]) -> _Texts:
        place = {image_id: p for p, image_id in enumerate(images)}
        texts, rows_of = [""] * len(images), [np.empty(0, np.int64)] * len(images)
        whole = np.zeros(len(images), bool)
        words: dict[str, int] = {}
        vectors: list[Any] = [np.empty((0, encoded.manifest.contract.encoder["dim"]), np.float32)]
        for batch in encoded.index.texts.batches(["image_id", "text", "keywords", "whole", "vectors"]):
            flags = _values(batch.column("whole")).astype(bool)
            each = iter(vector_rows(batch)[~flags])
            rows = batch.select(["image_id", "text", "whole"]).to_pylist()
            for row, own in zip(rows, keywords_of(batch), strict=True):
                for word, vector in zip(own, each, strict=False):
                    if word not in words:
                        words[word] = len(words)
                        vectors.append(vector[None].copy())
                if (p := place.get(row["image_id"])) is not None:
                    texts[p], whole[p] = row["text"], any(row["whole"])
                    rows_of[p] = np.array([words[w] for w in own], np.int64)
        offsets = np.cumsum([0, *map(len, rows_of)])
        return cls(texts, whole, list(words), np.concatenate(vectors), np.concatenate(rows_of), offsets)
