"""Does the detectron2 proposer run on the real Detectron2 and propose its boxes? With random weights.

    python checks/detectron2.py --images FOLDER [--count 8]

Runs the full-size Mask R-CNN and RPN (ResNet-50 FPN) of the model zoo, and mayaku on the same checkpoint if
it is installed. Detectron2 is not on PyPI: felga.proposals.detectron2.INSTALL installs it. Writes
checks/results/detectron2.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from felga.proposals.detectron2 import detectron2, mayaku
from felga.types import DecodedImage

SEED = 0
MASK = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
RPN = "COCO-Detection/rpn_R_50_FPN_1x.yaml"


def checkpoint(name: str, folder: Path) -> tuple[Any, str]:
    """A model of the zoo with random weights, saved to ``folder``; the model and the proposer's argument."""
    import detectron2 as package
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    folder.mkdir()
    config = get_cfg()
    config.merge_from_file(str(Path(package.__file__).parent / "model_zoo" / "configs" / name))
    config.MODEL.DEVICE, config.MODEL.WEIGHTS = "cpu", ""
    config.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    torch.manual_seed(SEED)
    model = build_model(config).eval()
    # Without trained norms the activations of random layers explode and every score is 1.
    model.backbone.bottom_up.stem.conv1.weight.data *= 1e-3
    torch.save({"model": model.state_dict()}, folder / "model.pth")
    (folder / "config.yaml").write_text(config.dump())
    return model, f"{folder}/config.yaml@{folder}/model.pth"


def plain(model: Any, image: DecodedImage) -> Any:
    """The output of Detectron2 for an image, as its DefaultPredictor computes it."""
    from detectron2.data import transforms as T

    pixels = np.ascontiguousarray(image.pixels[:, :, ::-1])
    pixels = T.ResizeShortestEdge([800, 800], 1333).get_transform(pixels).apply_image(pixels)
    tensor = torch.as_tensor(pixels.astype("float32").transpose(2, 0, 1))
    with torch.no_grad():
        return model([{"image": tensor, "height": image.height, "width": image.width}])[0]


def furthest(ours: list[list[Any]], theirs: list[torch.Tensor]) -> float:
    """The largest distance, in pixels, of one of our boxes from the nearest of theirs."""
    worst = 0.0
    for regions, boxes in zip(ours, theirs, strict=True):
        for region in regions:
            distance = (boxes - torch.tensor(region.box)).abs().max(1).values.min()
            worst = max(worst, float(distance))
    return worst


def overlap(a: Any, b: Any) -> float:
    from torchvision.ops import box_iou

    return float(box_iou(torch.tensor([a.box]), torch.tensor([b.box]))[0, 0])


def timed(proposer: Any, images: list[DecodedImage]) -> tuple[list[Any], float]:
    """The ten best boxes per image, and the median seconds per image after a warm-up."""
    proposer.propose(images[:1], 10)
    ours, seconds = [], []
    for image in images:
        start = time.perf_counter()
        ours += proposer.propose([image], 10)
        seconds.append(time.perf_counter() - start)
    return ours, round(statistics.median(seconds), 3)


def measure(images: list[DecodedImage], folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = {}
    model, argument = checkpoint(MASK, folder / "mask")
    ours, seconds = timed(detectron2(argument, device="cpu"), images)
    theirs = [plain(model, image)["instances"].pred_boxes.tensor for image in images]
    result["mask_rcnn_instances"] = {
        "config": MASK,
        "seconds_per_image": seconds,
        "regions_per_image": sum(map(len, ours)) / len(ours),
        "px_from_detectron2": furthest(ours, theirs),
    }
    rpn, seconds = timed(detectron2(f"{argument}#rpn", device="cpu"), images)
    result["mask_rcnn_rpn"] = {
        "seconds_per_image": seconds,
        "regions_per_image": sum(map(len, rpn)) / len(rpn),
    }
    if importlib.util.find_spec("mayaku"):
        other, seconds = timed(mayaku(argument, device="cpu"), images)
        best = [max(overlap(a, b) for b in two) for one, two in zip(ours, other, strict=True) for a in one]
        result["mask_rcnn_instances_by_mayaku"] = {
            "seconds_per_image": seconds,
            "overlap_with_detectron2_median": round(statistics.median(best), 4),
            "overlap_with_detectron2_mean": round(statistics.mean(best), 4),
            "best_box_overlap_min": round(
                min(overlap(a[0], b[0]) for a, b in zip(ours, other, strict=True)), 4
            ),
        }
    model, argument = checkpoint(RPN, folder / "rpn")
    ours, seconds = timed(detectron2(argument, device="cpu"), images)
    theirs = [plain(model, image)["proposals"].proposal_boxes.tensor for image in images]
    result["rpn"] = {
        "config": RPN,
        "seconds_per_image": seconds,
        "regions_per_image": sum(map(len, ours)) / len(ours),
        "px_from_detectron2": furthest(ours, theirs),
    }
    return result


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": (names or [platform.processor()])[0],
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "load_when_started": round(os.getloadavg()[0], 1),
    }


def read(folder: Path, count: int) -> list[DecodedImage]:
    images = []
    for path in sorted(folder.glob("*.jpg"))[:count]:
        pixels = np.asarray(Image.open(path).convert("RGB"))
        images.append(DecodedImage(path.stem, pixels, pixels.shape[1], pixels.shape[0]))
    return images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=Path, required=True, help="a folder of .jpg files")
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "detectron2.json")
    chosen = parser.parse_args()
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    run: Callable[..., Any] = subprocess.run
    packages = ("torch", "torchvision", "detectron2", "mayaku")
    result: dict[str, Any] = {
        "commit": run(git, capture_output=True, text=True, check=False).stdout.strip(),
        "machine": machine(),
        "versions": {
            name: version(name) for name in packages if name != "mayaku" or importlib.util.find_spec(name)
        },
        "seed": SEED,
        "weights": "random",
        "images": chosen.count,
    }
    with tempfile.TemporaryDirectory() as folder:
        result |= measure(read(chosen.images, chosen.count), Path(folder))
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
