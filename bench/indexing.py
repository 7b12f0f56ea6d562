"""Indexing: images per second, where the time goes, peak memory.

    python bench/indexing.py --corpus IMAGES [--images 100 500] [--out bench/results/indexing.json]

Each size is indexed in its own process, from the first images of the corpus by name, repeated if there are
fewer. Peak memory is the largest resident set of the process, so the two sizes show what grows with the
corpus. The largest size is compared with a script that a user would write, in the same run and with all
threads: the same proposers; each region cropped, resized and classified by the whole EfficientNet as its
package loads it, one by one; one text at a time. Once with captions, once of images alone.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import felga
from felga.cli.progress import Log
from felga.evaluation.results import commit, machine


def measure(corpus: Path, count: int, script: bool, captions: bool) -> dict[str, Any]:
    """Index ``count`` images, or run the script over them; for a new process."""
    from felga.corpus.folder import FolderCorpus
    from felga.indexing import Options, index

    with tempfile.TemporaryDirectory() as folder:
        chosen = Path(folder, "corpus")
        chosen.mkdir()
        items = FolderCorpus(corpus).scan()
        texts = {text.image_id: text.text for text in items.texts} or _captions(corpus)
        for n in range(count):
            item = items.images[n % len(items.images)]
            suffix = Path(item.path).suffix
            os.symlink(corpus / item.path, chosen / f"{n:06d}{suffix}")
            caption = texts.get(item.image_id) or texts.get(str(int(Path(item.path).stem or 0)))
            if caption and captions:
                (chosen / f"{n:06d}.txt").write_text(caption)
        start = time.perf_counter()
        if script:
            crop_by_crop(chosen)
            details: dict[str, Any] = {}
        else:
            report = index(FolderCorpus(chosen), Path(folder, "index"), Options(device="cpu"), progress=Log())
            details = {
                "working_seconds": {k: round(v, 2) for k, v in report.seconds.items() if k != "total"},
                "regions": report.images.fragments,
                "keywords and whole texts": report.texts.fragments,
            }
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "images": count,
        "seconds": round(seconds, 2),
        "images_per_second": round(count / seconds, 2),
        "peak_mib": round(peak),
        **details,
    }


def _captions(corpus: Path) -> dict[str | None, str]:
    """Captions of a COCO image folder, from ../annotations/captions_NAME.json."""
    from felga.corpus.coco import CocoCorpus

    path = corpus.parent / "annotations" / f"captions_{corpus.name}.json"
    return {text.image_id: text.text for text in CocoCorpus(path).scan().texts} if path.exists() else {}


@torch.no_grad()
def crop_by_crop(folder: Path) -> None:
    """The script: eager torch, one image, one crop and one text at a time."""
    from efficientnet_lite_pytorch import EfficientNet

    from felga.corpus.decode import read_image
    from felga.encoders.conse import LIKELIEST, class_vectors
    from felga.models.efficientnet import DEFAULT, MEAN, NETWORKS, STD, weights_file
    from felga.registry import make_encoder, make_keywords, make_regions

    model, side = EfficientNet.from_name(f"efficientnet-{DEFAULT}"), NETWORKS[DEFAULT].side
    model.load_state_dict(torch.load(weights_file(DEFAULT), weights_only=True))
    model.eval()
    classes = class_vectors(torch.device("cpu"))
    texts, regions = make_encoder("conse", device="cpu"), make_regions("learned", device="cpu")
    keywords = make_keywords("keybert", device="cpu")
    show, paths = Log(), sorted(folder.iterdir())
    for n, path in enumerate(paths):
        show("files", n, len(paths))
        if path.suffix == ".txt":
            texts.encode_texts([keyword.text for keyword in keywords.propose([path.read_text()], 10)[0]])
            continue
        image = read_image(path, path.name)
        boxes = [image.whole, *(region.box for region in regions.propose([image], 10)[0])]
        for x1, y1, x2, y2 in image.in_pixels(np.array(boxes, np.float32)).round().astype(int).tolist():
            crop = Image.fromarray(image.pixels[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)])
            pixels = torch.from_numpy(np.array(crop.resize((side, side), Image.Resampling.BILINEAR)))
            probabilities = model((pixels.permute(2, 0, 1)[None] - MEAN) / STD).softmax(-1)
            weights, likeliest = probabilities.topk(LIKELIEST, -1)
            torch.nn.functional.normalize((weights[..., None] * classes[likeliest]).sum(1), dim=-1)


def main() -> None:
    """Measure each size in a new process and write the json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--images", type=int, nargs="+", default=[100, 500])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "indexing.json")
    parser.add_argument("--one", choices=["felga", "script"], help=argparse.SUPPRESS)
    parser.add_argument("--no-captions", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    corpus = arguments.corpus.resolve()
    if arguments.one:
        script, captions = arguments.one == "script", not arguments.no_captions
        print(json.dumps(measure(corpus, arguments.images[0], script, captions)))
        return

    def child(kind: str, count: int, *more: str) -> dict[str, Any]:
        command = [
            sys.executable,
            __file__,
            "--corpus",
            str(corpus),
            "--one",
            kind,
            "--images",
            str(count),
            *more,
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        print(kind, *more, measured, file=sys.stderr, flush=True)
        return measured

    def compared(felga: dict[str, Any], *more: str) -> dict[str, Any]:
        script = child("script", felga["images"], *more)
        return {"felga": felga, "script": script, "ratio": round(script["seconds"] / felga["seconds"], 2)}

    runs = [child("felga", count) for count in arguments.images]
    largest = max(runs, key=lambda run: run["images"])
    alone = child("felga", largest["images"], "--no-captions")
    result = {
        "felga": felga.__version__,
        "commit": commit(),
        "machine": machine(),
        "corpus": f"{corpus.parent.name}/{corpus.name}",
        "runs": runs,
        "crop_by_crop": {
            "images with captions": compared(largest),
            "images alone": compared(alone, "--no-captions"),
        },
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
