"""Hits as data of others: COCO json, and rows of Hugging Face's imagefolder."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from typing import Any

from felga.files import shown
from felga.types import ImageHit


def coco(queries: Sequence[str], hits: Sequence[Sequence[ImageHit]]) -> dict[str, Any]:
    """``{"images", "categories", "annotations"}``, which pycocotools and COCO's tools read.

    An annotation per region, best first, with its score; category ``i`` is the ``i``-th query, from 1. Ids of
    images stay what they are if all are whole numbers, as in COCO; otherwise images are numbered from 1 and
    ``felga_id`` is their id. ``file_name`` is the path of the file; ``width`` and ``height`` are in pixels.
    """
    images = {hit.image_id: hit for found in hits for hit in found}
    numbers = {image_id: n for n, image_id in enumerate(images, 1)}
    numeric = all(_is_number(image_id) for image_id in images)
    if numeric:
        numbers = {image_id: int(image_id) for image_id in images}
    annotations = [
        {"image_id": numbers[hit.image_id], "category_id": category, **_annotation(region.box, region.score)}
        for category, found in enumerate(hits, 1)
        for hit in found
        for region in hit.regions
    ]
    return {
        "images": [
            {
                "id": numbers[image_id],
                "file_name": shown(hit.path),
                "width": hit.width,
                "height": hit.height,
                **({} if numeric else {"felga_id": image_id}),
            }
            for image_id, hit in images.items()
        ],
        "categories": [{"id": n, "name": query} for n, query in enumerate(queries, 1)],
        "annotations": [{"id": n, **annotation} for n, annotation in enumerate(annotations, 1)],
    }


def imagefolder_row(query: str, hit: ImageHit, file_name: str) -> dict[str, Any]:
    """A row of ``metadata.jsonl``, which Hugging Face's imagefolder reads: the image, and its regions.

    ``objects`` has a list per property of the regions, best first, as data sets for detection do: ``bbox`` is
    (x, y, width, height) in pixels, ``category`` the term that a region shows. What is not known is null.
    """
    regions = hit.regions
    return {
        "file_name": file_name,
        "query": query,
        "rank": hit.rank,
        "image_id": hit.image_id,
        "score": hit.score,
        "confidence": hit.confidence,
        "objects": {
            "bbox": [_annotation(region.box, region.score)["bbox"] for region in regions],
            "category": [region.term or query for region in regions],
            "score": [region.score for region in regions],
            "similarity": [None if isnan(region.similarity) else region.similarity for region in regions],
            "quality": [region.quality for region in regions],
        },
    }


def _annotation(box: Sequence[float], score: float) -> dict[str, Any]:
    x1, y1, x2, y2 = box
    width, height = x2 - x1, y2 - y1
    return {"bbox": [x1, y1, width, height], "area": width * height, "iscrowd": 0, "score": score}


def _is_number(image_id: str) -> bool:
    """Whether it is a whole number as json writes it: neither "007" nor "+7"."""
    return image_id.isascii() and image_id.isdigit() and (image_id == "0" or image_id[0] != "0")
