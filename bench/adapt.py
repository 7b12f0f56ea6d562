"""What classes of one's own bring: felga adapt on train2017, measured on val2017.

    python bench/adapt.py --root COCO [--work runs/adapt] [--out bench/results/adapt.json]

Two trainings, each with several seeds: on all classes, and on three quarters of them: every fourth is held
out, as in bench/unseen_classes.py, and its boxes are background there, as in a file that does not
have them. Measured before and after:

* AP and AP50 (pycocotools) of boxes with labels. Before: the boxes of `learned`, each labelled with the class
  name nearest to conse's vector. After: `--regions adapted:FILE`.
* Object discovery (the paper's 4.3) by ten regions of `learned` and the whole image, over the classes that
  were learned and over those that were not; with frozen vectors, and with the FENet that comes with felga,
  which was trained on conse's vectors and the captions of train2017.

The gate and the settings of the training were chosen on every seventh image of train2017, held out, with each
quarter of the classes held out in turn (docs/adapt.md).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from felga.adapt.adapted_head import KIND
from felga.adapt.adapting import EPOCHS, Training, described
from felga.adapt.collected import PROPOSALS, Collected
from felga.adapt.examples import read_task
from felga.adapt.roi_features import roi_features
from felga.cli.progress import Log
from felga.corpus.coco import CocoFiles, coco_files, read_coco, read_instances
from felga.corpus.decode import read_image
from felga.evaluation.localisation import detection
from felga.evaluation.protocol import Split, object_discovery
from felga.evaluation.results import commit, machine
from felga.evaluation.split import GroundTruth
from felga.fenet.checkpoint import load_fenet
from felga.fenet.packaged import packaged
from felga.models.arrays import read_about, write_arrays
from felga.models.efficientnet import DEFAULT, LONGER_SIDE
from felga.registry import make_encoder, make_regions
from felga.types import DecodedImage, Encoder, FeatureEncoder, Frozen, Region

EVERY, HELD = 4, 3
TEMPERATURE = 0.2  # of the cosines, in the score of a labelled box before; the best on held-out images
TOP = 10
"""Regions of an image in discovery, as in an index."""


def learn(files: CocoFiles, classes: Sequence[str], seeds: Sequence[int], work: Path) -> dict[int, Path]:
    """A file for each seed; the features are collected once. CPU seconds are kept in the files."""
    task, roi = read_task(files.instances, classes), roi_features("learned", "cpu")
    folder = work / f"{len(classes)}-classes"
    paths = {seed: folder / f"{seed}.safetensors" for seed in seeds}
    if all(path.exists() for path in paths.values()):
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    collected, resumed = Collected(folder, roi.dim), (folder / "features.bin").exists()
    start = time.process_time()
    collected.fill(task, files.images, roi, Log())
    seeing = None if resumed else round(time.process_time() - start)
    about = described(task, files.instances, "learned", roi, "boxes and class names of coco-mini train2017")
    for seed, path in paths.items():
        start = time.process_time()
        run = Training(collected, len(classes), EPOCHS, seed)
        while run.epoch < EPOCHS:
            run.one_epoch(Log())
        cpu = {"features": seeing, "training": round(time.process_time() - start, 1)}
        write_arrays(path, KIND, run.weights(), {**about, "epochs": EPOCHS, "seed": seed, "cpu_seconds": cpu})
    return paths


class Test:
    """The images of a split, their classes and boxes, and the regions of `learned`."""

    def __init__(self, files: CocoFiles) -> None:
        self.files, self.instances = files, read_instances(files.instances)
        self.ids = sorted(self.instances.files, key=int)
        self.truth = GroundTruth.of(self.instances, self.ids)
        self.names = list(self.instances.categories.values())

    def images(self) -> Iterator[DecodedImage]:
        """One after the other."""
        for image_id in self.ids:
            yield read_image(self.files.images / self.instances.files[image_id], image_id)

    def split(self, regions: Sequence[Sequence[Region]], classes: Sequence[str], dim: int) -> Split:
        """Regions, without vectors, and the ground truth of some classes."""
        truth, crowds = self.truth, self.truth.crowds
        wanted = np.array([name in classes for name in self.names])
        own, crowd = wanted[truth.box_class], wanted[crowds.box_class]
        counts = [len(each) for each in regions]
        boxes = [region.box for each in regions for region in each]
        none = np.empty(0, np.int64)
        return Split(
            class_names=self.names,
            class_vectors=np.zeros((len(self.names), dim), np.float32),
            region_vectors=np.zeros((sum(counts), dim), np.float32),
            region_offsets=np.cumsum([0, *counts]),
            region_boxes=np.array(boxes, np.float32).reshape(-1, 4),
            keyword_vectors=np.empty((0, dim), np.float32),
            keyword_rows=none,
            keyword_offsets=np.zeros(len(self.ids) + 1, np.int64),
            box_vectors=np.zeros((int(own.sum()), dim), np.float32),
            boxes=truth.boxes[own],
            box_class=truth.box_class[own],
            box_area=truth.box_area[own],
            box_image=truth.box_image[own],
            contains=truth.contains & wanted[:, None],
            crowds=replace(
                crowds,
                boxes=crowds.boxes[crowd],
                box_class=crowds.box_class[crowd],
                box_area=crowds.box_area[crowd],
                box_image=crowds.box_image[crowd],
            ),
        )

    def ap(self, regions: Sequence[Sequence[Region]], classes: Sequence[str]) -> dict[str, float]:
        """AP and AP50 of labelled regions, in percent; regions without a label are no detections."""
        labelled = [[region for region in each if region.label is not None] for each in regions]
        split = self.split(labelled, classes, 1)
        every = [region for each in labelled for region in each]
        label = np.array([self.names.index(str(region.label)) for region in every])
        detected = label == np.arange(len(self.names))[:, None]
        scores = np.tile(np.array([region.score for region in every], np.float32), (len(self.names), 1))
        found = detection(split, scores, detected)
        return {"ap": 100 * (found.ap or 0), "ap50": 100 * (found.ap50 or 0)}

    def ap_rows(
        self,
        labelled: Mapping[str, Sequence[Sequence[Region]]],
        task: str,
        specs: Mapping[int, str],
        classes: Sequence[str],
    ) -> dict[str, Any]:
        """AP before, and after with each seed."""
        after = [self.ap(labelled[spec], classes) for spec in specs.values()]
        return {"before": self.ap(labelled[task], classes), "after": summary(after)}

    def searched(self, regions: Sequence[Sequence[Region]], encoder: Encoder, seen: Sequence[Any]) -> Split:
        """The regions of discovery with what an encoder saw: pairs of vectors and features for each image."""
        return replace(
            self.split(regions, (), encoder.dim),  # no box is a query here
            contains=self.truth.contains,
            class_vectors=encoder.encode_texts(self.names),
            region_vectors=np.concatenate([vectors for vectors, _ in seen]),
            region_features=np.concatenate([features for _, features in seen]),
            box_features=np.empty((0, seen[0][1].shape[1]), np.float16),
        )


def discovery(split: Split, embedding: Any, groups: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """mAP in percent over each group of class names."""
    each = object_discovery(split.embedded(embedding)).per_class
    found = {
        group: [value for name in names if (value := each[name]) is not None]
        for group, names in groups.items()
    }
    return {group: 100 * statistics.fmean(values) for group, values in found.items() if values}


def by_names(regions: Sequence[Region], vectors: np.ndarray, names: Mapping[str, np.ndarray]) -> list[Region]:
    """Before: each box labelled with the nearest class name, by meaning and quality as in a search."""
    scores = vectors @ np.stack(list(names.values())).T  # (n, C)
    best = scores.argmax(1)
    labels = list(names)
    return [
        replace(region, label=labels[c], score=float(np.exp(scores[i, c] / TEMPERATURE) * region.score))
        for i, (region, c) in enumerate(zip(regions, best.tolist(), strict=True))
    ]


def see(
    test: Test,
    encoders: Mapping[str, FeatureEncoder],
    proposers: Mapping[str, Any],
    groups: Mapping[str, Any],
) -> tuple[list[list[Region]], dict[str, Any], dict[str, list[list[Region]]]]:
    """One pass over the images: the regions of discovery, vectors and features, and labelled regions."""
    learned, conse, show = make_regions("learned", device="cpu"), make_encoder("conse", device="cpu"), Log()
    asked = {name: dict(zip(names, conse.encode_texts(names), strict=True)) for name, names in groups.items()}
    searched: list[list[Region]] = []
    seen: dict[str, list[Any]] = {name: [] for name in encoders}
    labelled: dict[str, list[list[Region]]] = {name: [] for name in [*asked, *proposers]}
    for number, image in enumerate(test.images(), 1):
        (proposed,) = learned.propose([image], PROPOSALS)
        searched.append([Region(image.whole, 1.0, whole=True), *proposed[:TOP]])
        boxes = np.array([region.box for region in searched[-1]], np.float32)
        for name, encoder in encoders.items():
            seen[name] += encoder.encode_features([image], [boxes])
        every = np.array([region.box for region in proposed], np.float32).reshape(-1, 4)
        (vectors,) = conse.encode_regions([image], [every])
        for name, names in asked.items():
            labelled[name].append(by_names(proposed, vectors, names))
        for name, proposer in proposers.items():
            labelled[name] += proposer.propose([image], PROPOSALS)
        show("images", number, len(test.ids))
    return searched, seen, labelled


def summary(rows: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation of each figure over the seeds."""
    return {
        name: {
            "mean": statistics.fmean(row[name] for row in rows),
            "std": statistics.stdev(row[name] for row in rows) if len(rows) > 1 else 0.0,
        }
        for name in rows[0]
    }


def main() -> None:
    """Train, measure, print and write the json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/adapt"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "adapt.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    source, test = coco_files(args.root, "train2017"), Test(coco_files(args.root, "val2017"))
    kept = [name for at, name in enumerate(test.names) if at % EVERY != HELD]
    tasks = {"all classes": test.names, "three quarters": kept}
    files = {name: learn(source, classes, args.seeds, args.work) for name, classes in tasks.items()}
    specs = {name: {seed: f"adapted:{path}" for seed, path in own.items()} for name, own in files.items()}
    every = [spec for own in specs.values() for spec in own.values()]
    encoders: dict[str, Any] = {name: make_encoder(name, device="cpu") for name in ("conse", *every)}
    searched, seen, labelled = see(
        test, encoders, {spec: make_regions(spec, device="cpu") for spec in every}, tasks
    )
    splits = {name: test.searched(searched, encoders[name], own) for name, own in seen.items()}
    shipped = packaged(encoders["conse"].identity())
    assert shipped is not None
    results: dict[str, Any] = {}
    for task, classes in tasks.items():
        groups = {"learned": classes, "others": [name for name in test.names if name not in classes]}
        own = specs[task]
        results[task] = {
            "classes": len(classes),
            "boxes": test.ap_rows(labelled, task, own, classes),
            "cpu_seconds": [read_about(path, KIND)["cpu_seconds"] for path in files[task].values()],
        }
        for kind, embedding in (("frozen", Frozen()), ("packaged", load_fenet(shipped))):
            after = [discovery(splits[spec], embedding, groups) for spec in own.values()]
            results[task][kind] = {
                "before": discovery(splits["conse"], embedding, groups),
                "after": summary(after),
            }
    result = {
        "commit": commit(),
        "machine": machine(),
        "network": {"name": DEFAULT, "side": LONGER_SIDE},
        "dataset": args.root.resolve().name,
        "images": {"train2017": len(read_coco(source.instances)["images"]), "val2017": len(test.ids)},
        "epochs": EPOCHS,
        "seeds": args.seeds,
        "results": results,
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
