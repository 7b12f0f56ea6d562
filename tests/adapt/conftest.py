"""A small set of boxes with two classes, and a head adapted to it, made once by the real function."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from felga.adapt.adapting import adapt

SUPERVISION = "drawn boxes"


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


def draw(folder: Path, count: int = 12) -> Path:
    """``count`` images of a striped box or a spotted disc on noise, with COCO's annotations."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for n in range(count):
        image = Image.fromarray(rng.integers(90, 110, (160, 224, 3), dtype=np.uint8))
        pen = ImageDraw.Draw(image)
        x, y, side = int(rng.integers(5, 110)), int(rng.integers(5, 50)), int(rng.integers(70, 100))
        if n % 2:
            pen.ellipse([x, y, x + side, y + side], (40, 60, 220))
            pen.ellipse([x + side / 3, y + side / 3, x + side / 2, y + side / 2], (250, 250, 250))
        else:
            pen.rectangle([x, y, x + side, y + side], (230, 40, 30))
            for at in range(0, side, 16):
                pen.line([x + at, y, x + at, y + side], (250, 240, 40), 5)
        image.save(folder / "images" / f"{n}.png")
        images.append({"id": n, "file_name": f"{n}.png", "width": 224, "height": 160})
        row = {"id": n, "image_id": n, "category_id": 1 + n % 2, "bbox": [x, y, side, side]}
        annotations.append({**row, "area": side * side, "iscrowd": 0})
    categories = [{"id": 1, "name": "striped crate"}, {"id": 2, "name": "buoy"}]
    write(folder, {"images": images, "annotations": annotations, "categories": categories})
    return folder


def write(folder: Path, data: dict) -> Path:
    (folder / "instances.json").write_text(json.dumps(data))
    return folder / "instances.json"


def read(folder: Path) -> dict:
    return json.loads((folder / "instances.json").read_text())


def run(folder: Path, out: Path, **options) -> None:
    """Adapt to the boxes of a folder."""
    options = {"epochs": 3, "supervision": SUPERVISION, "device": "cpu", **options}
    adapt(folder / "instances.json", folder / "images", out, **options)


@pytest.fixture(scope="session")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("boxes") / "data")


@pytest.fixture(scope="session")
def file(boxes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("adapted") / "mine.safetensors"
    run(boxes, out)
    return out
