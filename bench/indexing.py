"""Indexing: images per second, where the time goes, peak memory.

    python bench/indexing.py --corpus IMAGES [--images 100 1500] [--out bench/results/indexing.json]

Each size is indexed in its own process, from the first images of the corpus by name, repeated if there are
fewer. Peak memory is the largest resident set of the process, so the two sizes show what grows with the
corpus. The baseline does the same work without felga's job: a plain loop that decodes, proposes and encodes
one image at a time, with the same parts and all threads.
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

import felga
from felga.cli.progress import Log
from felga.evaluation.results import commit, machine


def measure(corpus: Path, count: int, plain: bool) -> dict[str, object]:
    """Index ``count`` images with their captions, or run the plain loop over them; for a new process."""
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
            if caption:
                (chosen / f"{n:06d}.txt").write_text(caption)
        start = time.perf_counter()
        if plain:
            _loop(chosen)
            details: dict[str, object] = {}
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


def _loop(folder: Path) -> None:
    """The baseline: one image at a time, each region cropped and encoded, one text at a time."""
    import numpy as np

    from felga.corpus.decode import read_image
    from felga.registry import make_encoder, make_keywords, make_regions

    encoder = make_encoder("conse", device="cpu", pooling="crop")
    regions, keywords = make_regions("graphseg+edgeboxes"), make_keywords("keybert", device="cpu")
    show, paths = Log(), sorted(folder.iterdir())
    for n, path in enumerate(paths):
        show("files", n, len(paths))
        if path.suffix == ".txt":
            words = [keyword.text for keyword in keywords.propose([path.read_text()], 10)[0]]
            encoder.encode_texts(words)
        else:
            image = read_image(path, path.name)
            boxes = [image.whole, *(region.box for region in regions.propose([image], 10)[0])]
            encoder.encode_regions([image], [np.array(boxes, np.float32)])


def main() -> None:
    """Measure each size in a new process and write the json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--images", type=int, nargs="+", default=[100, 1500])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "indexing.json")
    parser.add_argument("--one", choices=["felga", "plain"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    corpus = arguments.corpus.resolve()
    if arguments.one:
        print(json.dumps(measure(corpus, arguments.images[0], arguments.one == "plain")))
        return

    def child(kind: str, count: int) -> dict[str, object]:
        command = [sys.executable, __file__, "--corpus", str(corpus), "--one", kind, "--images", str(count)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        measured: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
        print(kind, measured, file=sys.stderr, flush=True)
        return measured

    plain = child("plain", min(arguments.images))
    runs = [child("felga", count) for count in arguments.images]
    result = {
        "felga": felga.__version__,
        "commit": commit(),
        "machine": machine(),
        "corpus": f"{corpus.parent.name}/{corpus.name}",
        "runs": runs,
        "plain_loop_crop_by_crop": plain,
        "times_faster_than_plain_loop": round(
            runs[0]["images_per_second"] / plain["images_per_second"],  # type: ignore[operator]
            2,
        ),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
