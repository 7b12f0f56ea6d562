"""What FiftyOne, Hugging Face datasets and embedding-reader see in felga's exports: FOLDER/seen.json.

    python checks/exports_reader.py FOLDER

Runs in an environment that has these packages and not felga; checks/exports.py starts it.
"""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["FIFTYONE_DO_NOT_TRACK"] = "1"
PACKAGES = ("fiftyone", "datasets", "embedding-reader", "img2dataset", "pyarrow", "numpy")


def by_fiftyone(folder: Path) -> list[dict[str, Any]]:
    """Detections of each image. By FiftyOne's importer alone: its datasets need a MongoDB server."""
    from fiftyone.types import COCODetectionDataset

    importer = COCODetectionDataset().get_dataset_importer_cls()
    seen = []
    with importer(
        data_path=str(folder / "corpus"), labels_path=str(folder / "hits.coco.json"), label_types="detections"
    ) as reader:
        for path, metadata, detections in reader:
            size = [metadata.width, metadata.height]
            for one in detections.detections:
                about = {"label": one.label, "box": one.bounding_box, "score": one.confidence}
                seen.append({"path": path, "size": size, **about})
    return seen


def by_datasets(folder: Path) -> dict[str, Any]:
    """Rows of the imagefolder, the hits as json lines and csv, and the metadata of the vectors."""
    from datasets import load_dataset

    cache = str(folder / "cache")
    images = load_dataset("imagefolder", data_dir=str(folder / "copies"), split="train", cache_dir=cache)
    hits = load_dataset("json", data_files=str(folder / "hits.jsonl"), split="train", cache_dir=cache)
    table = load_dataset("csv", data_files=str(folder / "hits.csv"), split="train", cache_dir=cache)
    rows = load_dataset(
        "parquet", data_files=str(folder / "vectors/metadata/*.parquet"), split="train", cache_dir=cache
    )
    return {
        "imagefolder": [{**row, "image": list(row["image"].size)} for row in images],
        "jsonl": list(hits),
        "csv": list(table),
        "parquet": list(rows),
    }


def by_embedding_reader(folder: Path) -> dict[str, Any]:
    """Vectors and their rows, as clip-retrieval reads them."""
    from embedding_reader import EmbeddingReader

    reader = EmbeddingReader(
        str(folder / "vectors/img_emb"),
        metadata_folder=str(folder / "vectors/metadata"),
        meta_columns=["image_path", "caption"],
        file_format="parquet_npy",
    )
    vectors: list[list[float]] = []
    paths: list[str] = []
    for block, about in reader(batch_size=100, start=0, end=reader.count, show_progress=False):
        vectors += block.astype(float).tolist()
        paths += about["image_path"].tolist()
    return {"dimension": reader.dimension, "vectors": vectors, "paths": paths}


def by_img2dataset(folder: Path) -> None:
    """Download what urls.csv lists into parquet shards."""
    from img2dataset import download

    download(
        url_list=str(folder / "urls.csv"),
        input_format="csv",
        caption_col="caption",
        output_folder=str(folder / "shards"),
        output_format="parquet",
        number_sample_per_shard=10,
        disable_all_reencoding=True,
        processes_count=1,
        thread_count=4,
    )


def main() -> None:
    folder = Path(sys.argv[1])
    by_img2dataset(folder)
    seen = {
        "versions": {name: version(name) for name in PACKAGES},
        "fiftyone": by_fiftyone(folder),
        "datasets": by_datasets(folder),
        "embedding_reader": by_embedding_reader(folder),
    }
    (folder / "seen.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
