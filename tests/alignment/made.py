"""A COCO of a few images of noise, whose captions describe their boxes, and tiny models of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from felga.alignment.aligned import Decoding, write_aligned
from felga.alignment.aligner import COMPONENTS, Aligner
from felga.captions.caption_decoder import CaptionDecoder, Shape
from felga.captions.captioner import CaptionNet, write_captioner
from felga.captions.word_pieces import Source, WordPieces
from felga.models.efficientnet import CHANNELS
from felga.models.minilm import minilm

SHAPE = Shape(layers=1, heads=2, inner=16, longest=12, dropout=0.0)
CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 6, "name": "bus"}, {"id": 44, "name": "bottle"}]
SAYS = {18: "A {} dog lying on the grass.", 6: "A {} bus in a street."}
COLORS = ("red", "blue", "green", "white")


def tiny_coco(folder: Path, images: int = 8) -> tuple[Path, Path, Path]:
    """Instances, captions, and the folder of the images; each image has a dog or bus, and two bottles."""
    (folder / "images").mkdir(parents=True)
    rows, boxes, captions = [], [], []
    for at in range(1, images + 1):
        rng = np.random.default_rng(at)
        pixels = rng.integers(0, 256, (8, 12, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(pixels).save(folder / "images" / f"{at}.png")
        rows.append({"id": at, "file_name": f"{at}.png", "width": 96, "height": 64})
        own = 18 if at % 2 else 6
        for category, box in ((own, [8, 8, 50, 40]), (44, [0, 0, 16, 32]), (44, [60, 10, 30, 50])):
            boxes.append({"id": len(boxes) + 1, "image_id": at, "category_id": category, "bbox": box})
        text = SAYS[own].format(COLORS[(at // 2) % 4])
        captions.append({"id": at, "image_id": at, "caption": text})
        captions.append({"id": 100 + at, "image_id": at, "caption": "Two bottles."})
    written = []
    for name, rest in (("instances", boxes), ("captions", captions)):
        data = {"images": rows, "annotations": rest, "categories": CATEGORIES}
        (folder / f"{name}.json").write_text(json.dumps(data))
        written.append(folder / f"{name}.json")
    return written[0], written[1], folder / "images"


def words() -> WordPieces:
    """The pieces of the captions of :func:`tiny_coco`."""
    texts = [say.format(color) for say in SAYS.values() for color in COLORS]
    return WordPieces.of_texts(Source.of(None), [*texts, "two bottles"])


def tiny_captioner(path: Path, seed: int = 0) -> Path:
    """A captioner of random weights."""
    torch.manual_seed(seed)
    net, pieces = CaptionNet(words(), SHAPE), words()
    weights = {name: value.detach().numpy() for name, value in net.state_dict().items()}
    write_captioner(path, weights, pieces, SHAPE, {})
    return path


def random_model(path: Path, seed: int, *, decoder: bool = True) -> Path:
    """A model of random weights, written as a trained one."""
    torch.manual_seed(seed)
    tags = ["dog", "bus", "red", "blue"]
    vectors = torch.from_numpy(minilm(torch.device("cpu")).embed(tags))
    net = Aligner(vectors, torch.full((CHANNELS,), 0.3), torch.randn(CHANNELS, COMPONENTS) / 30)
    with torch.no_grad():
        net.joint[-1].weight.normal_(std=0.05)  # where training would leave it: not at zero
    pieces = words()
    decoding = Decoding(CaptionDecoder(pieces.table, SHAPE), pieces, {}) if decoder else None
    write_aligned(path, net, tags, decoding, {"supervision": "nobody's"})
    return path


def edited(path: Path, change: Callable[[dict], object]) -> None:
    """Change a json file in place."""
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
