"""Do the tools of others read what felga writes, and felga what img2dataset writes?

    python checks/exports.py [--python PYTHON]

Makes an environment of their own for FiftyOne, Hugging Face datasets, embedding-reader (which clip-retrieval
uses) and img2dataset, or uses that of PYTHON, which has them: they cannot be installed beside felga. Indexes
the demo corpus, exports hits and vectors with felga's commands, and compares what the packages read with what
felga's Python interface says. img2dataset downloads the demo corpus from this machine into parquet shards,
which felga reads. Writes checks/results/exports.json; exits 1 where something differs.

FiftyOne's importer is run without a dataset: its datasets live in a MongoDB server, which the package
fiftyone-db downloads from MongoDB's site when it is installed.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import threading
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from felga.corpus.demo import write_demo
from felga.corpus.folder import FolderCorpus
from felga.corpus.parquet import ParquetShards
from felga.engine import Engine
from felga.evaluation.results import commit, machine
from felga.indexing.imported import import_vectors
from felga.types import ImageHit

QUERIES = ["rocket", "cat", "coffee"]
TOP, REGIONS = 5, 3
PACKAGES = ["fiftyone", "datasets", "embedding-reader", "img2dataset"]
FELGA = [sys.executable, "-c", "from felga.cli.app import main; main()"]
READER = Path(__file__).with_name("exports_reader.py")


def environment(folder: Path) -> Path:
    """The Python of a new environment with the packages."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return python


def felga(*words: object) -> bytes:
    """What a command of felga writes to stdout."""
    return subprocess.run([*FELGA, *map(str, words)], check=True, stdout=subprocess.PIPE).stdout


def export(folder: Path) -> None:
    """Every export of felga that these packages read, by its commands."""
    write_demo(folder / "corpus")
    index = folder / "index"
    felga("index", folder / "corpus", "--out", index, "--fenet", "none")
    search = ["search", *QUERIES, "--index", index, "-k", TOP, "--regions", REGIONS, "--min-confidence", 0]
    for form, name in (("coco", "hits.coco.json"), ("jsonl", "hits.jsonl"), ("csv", "hits.csv")):
        (folder / name).write_bytes(felga(*search, "--format", form))
    felga(*search, "--copy-to", folder / "copies")
    felga("export", index, "--to", "clip-retrieval", folder / "vectors")


@contextmanager
def served(folder: Path) -> Iterator[int]:
    """A folder over HTTP on this machine alone; the port."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def write_urls(folder: Path, port: int) -> None:
    """The images of the corpus with their captions, and one that is not there."""
    listing = FolderCorpus(folder / "corpus").scan()
    captions = {text.image_id: text.text for text in listing.texts}
    with (folder / "urls.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["url", "caption"])
        for image in listing.images:
            rows.writerow([f"http://127.0.0.1:{port}/{image.path}", captions[image.image_id]])
        rows.writerow([f"http://127.0.0.1:{port}/none.png", "Nothing."])


def furthest(a: Any, b: Any) -> float:
    """The largest difference between two arrays of one shape; infinite for other shapes."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.abs(a - b).max()) if a.shape == b.shape and a.size else float("inf")


def boxes(hits: list[ImageHit]) -> list[list[float]]:
    """(x, y, width, height) of all regions."""
    corners = [region.box for hit in hits for region in hit.regions]
    return [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in corners]


def coco_json(seen: list[dict[str, Any]], hits: list[list[ImageHit]]) -> dict[str, Any]:
    """Relative boxes, labels, sizes and scores, image by image, as FiftyOne groups them."""
    expected = [
        (hit.path, query, region.score, np.array(box) / [hit.width, hit.height, hit.width, hit.height])
        for query, own in zip(QUERIES, hits, strict=True)
        for hit in own
        for region, box in zip(hit.regions, boxes([hit]), strict=True)
    ]
    expected.sort(key=lambda one: (one[0], one[1], -one[2]))
    seen = sorted(seen, key=lambda one: (one["path"], one["label"], -one["score"]))
    return {
        "detections": len(seen),
        "same_images_and_labels": [(one["path"], one["label"]) for one in seen]
        == [one[:2] for one in expected],
        "furthest_box": furthest([one["box"] for one in seen], [one[3] for one in expected]),
        "furthest_score": furthest([one["score"] for one in seen], [one[2] for one in expected]),
    }


def datasets(seen: dict[str, Any], hits: list[list[ImageHit]]) -> dict[str, Any]:
    flat = [hit for own in hits for hit in own]
    folder = sorted(seen["imagefolder"], key=lambda row: (QUERIES.index(row["query"]), row["rank"]))
    lines = [hit for row in seen["jsonl"] for hit in row["hits"]]
    return {
        "imagefolder": {
            "rows": len(folder),
            "same_images": [(row["image_id"], row["image"]) for row in folder]
            == [(hit.image_id, [hit.width, hit.height]) for hit in flat],
            "furthest_box": furthest([box for row in folder for box in row["objects"]["bbox"]], boxes(flat)),
            "furthest_score": furthest([row["score"] for row in folder], [hit.score for hit in flat]),
        },
        "jsonl": {
            "rows": len(lines),
            "same_images": [hit["path"] for hit in lines] == [hit.path for hit in flat],
            "furthest_box": furthest(
                [region["box"] for hit in lines for region in hit["regions"]],
                [region.box for hit in flat for region in hit.regions],
            ),
        },
        "csv": {
            "rows": len(seen["csv"]),
            "same_images": list(dict.fromkeys((row["query"], row["path"]) for row in seen["csv"]))
            == [(query, hit.path) for query, own in zip(QUERIES, hits, strict=True) for hit in own],
        },
    }


def vectors(folder: Path, seen: dict[str, Any], engine: Engine) -> dict[str, Any]:
    """What embedding-reader and datasets read of the vectors, and how many images felga imports again."""
    regions = engine.index.regions
    own: npt.NDArray[Any] = regions.vectors(0, len(regions))
    read, rows = seen["embedding_reader"], seen["datasets"]["parquet"]
    table = engine.index.images.read(["path", "boxes"]).to_pylist()
    paths = [str(engine.root / os.fsdecode(row["path"])) for row in table for _ in row["boxes"]]
    done = import_vectors(folder / "vectors", engine.encoder, folder / "imported")
    return {
        "rows": len(rows),
        "same_images": read["paths"] == [row["image_path"] for row in rows] == paths,
        "furthest_vector": furthest(read["vectors"], own),
        "furthest_box": furthest(
            [row["box"] for row in rows], [box for row in table for box in row["boxes"]]
        ),
        "imported_images": done.images,
    }


def img2dataset(folder: Path) -> dict[str, Any]:
    """What felga reads in the shards of img2dataset."""
    corpus, origin = ParquetShards(folder / "shards"), FolderCorpus(folder / "corpus")
    found, expected = corpus.scan(), origin.scan()
    by_key = sorted(found.images, key=lambda image: image.image_id.rpartition("/")[2])
    return {
        "images": len(found.images),
        "same_bytes": [corpus.read(image) for image in by_key]
        == [origin.read(image) for image in expected.images],
        "same_captions": sorted(text.text for text in found.texts)
        == sorted(text.text for text in expected.texts),
        "quarantined": [item.reason for item in found.bad],
    }


def differences(value: Any, where: str = "") -> list[str]:
    """What is not as it should be: a comparison that is False, a distance above 1e-5, nothing read."""
    if isinstance(value, dict):
        return [line for key, one in value.items() for line in differences(one, f"{where}.{key}".strip("."))]
    wrong = value is False or (isinstance(value, float) and value > 1e-5)
    wrong = wrong or (type(value) is int and value == 0)
    return [f"{where} is {value}"] if wrong else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--python", type=Path, help="of an environment that has the packages")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "exports.json")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        python = chosen.python or environment(folder / "env")
        export(folder)
        with served(folder / "corpus") as port:
            write_urls(folder, port)
            subprocess.run([python, READER, folder], check=True)
        seen = json.loads((folder / "seen.json").read_text())
        with Engine.open(folder / "index", device="cpu") as engine:
            hits = engine.search_all(QUERIES, TOP, regions=REGIONS)
            compared = {
                "fiftyone": coco_json(seen["fiftyone"], hits),
                "datasets": datasets(seen["datasets"], hits),
                "vectors": vectors(folder, seen, engine),
                "img2dataset": img2dataset(folder),
            }
    about = {"commit": commit(), "machine": machine(), "versions": seen["versions"]}
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps({**about, **compared}, indent=2) + "\n")
    print(json.dumps(compared, indent=2))
    if wrong := differences(compared):
        sys.exit("; ".join(wrong))


if __name__ == "__main__":
    main()
