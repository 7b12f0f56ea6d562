"""The demo corpus: scenes composed of the photographs inside scikit-image's wheel.

The objects searched for fill a tenth to a third of a scene, as they do in ordinary photographs. The captions
name them, and the boxes locate them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from felga.errors import MissingError
from felga.types import Box

WIDTH, HEIGHT = 640, 480


@dataclass(frozen=True, slots=True)
class Part:
    """A photograph or part of one: the crop ``left, top, right, bottom``, and sentences about it."""

    file: str
    crop: tuple[int, int, int, int]
    sentences: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Assignment:
    """A box to assign sentences to, and the word that the best one should contain."""

    image_id: str
    box: Box
    word: str


@dataclass(frozen=True, slots=True)
class DemoCorpus:
    """What :func:`write_demo` wrote.

    Attributes:
        searches: queries, each with the label of the box it should find.
        boxes: image id -> label -> box.
    """

    folder: Path
    searches: tuple[tuple[str, str], ...]
    assignment: Assignment
    boxes: dict[str, dict[str, Box]]


PARTS = {
    "cat": Part(
        "chelsea.png",
        (80, 0, 380, 300),
        ("A ginger cat looks straight at us.", "The cat has green eyes and long whiskers."),
    ),
    "cup": Part(
        "coffee.png",
        (90, 30, 480, 370),
        ("A cup of coffee stands on a saucer.", "Someone has left an espresso with a spoon."),
    ),
    "rocket": Part(
        "rocket.jpg",
        (200, 20, 500, 420),
        ("A rocket waits on its launch pad.", "Steam rises beside the rocket before the launch."),
    ),
    "astronaut": Part(
        "astronaut.png",
        (60, 0, 400, 360),
        (
            "An astronaut smiles in her orange space suit.",
            "The woman of the space crew wears an orange suit.",
        ),
    ),
    "motorcycle": Part(
        "motorcycle_left.png",
        (0, 0, 741, 500),
        ("A motorcycle is parked in a garage.", "The motorbike has a shiny engine and a black seat."),
    ),
    "coins": Part(
        "coins.png",
        (0, 0, 384, 303),
        ("Old coins lie in rows.", "The ancient coins are made of bronze."),
    ),
    "photographer": Part(
        "camera.png",
        (100, 30, 420, 350),
        ("A man in a coat looks through his camera.", "The photographer has put his camera on a tripod."),
    ),
}
BACKGROUNDS = {  # texture -> tint
    "brick.png": (150, 90, 70),
    "grass.png": (95, 130, 60),
    "gravel.png": (130, 125, 115),
}
# The parts of each scene: left, top and width in pixels.
SCENES: tuple[dict[str, tuple[int, int, int]], ...] = (
    {"cat": (40, 60, 230), "coins": (360, 250, 220)},
    {"cup": (350, 50, 240), "astronaut": (50, 220, 210)},
    {"rocket": (60, 70, 200), "motorcycle": (320, 230, 290)},
    {"motorcycle": (30, 40, 280), "cat": (380, 230, 210)},
    {"astronaut": (380, 60, 220), "coins": (60, 240, 240)},
    {"coins": (40, 40, 240), "cup": (340, 230, 250)},
    {"photographer": (60, 110, 230), "rocket": (400, 130, 200)},
    {"cat": (350, 40, 240), "motorcycle": (30, 260, 290)},
    {"cup": (50, 50, 230), "photographer": (370, 220, 220)},
    {"rocket": (380, 40, 210), "cat": (70, 210, 230)},
    {"astronaut": (60, 40, 230), "cup": (350, 240, 240)},
    {"coins": (350, 60, 240), "photographer": (60, 210, 220)},
    {"motorcycle": (320, 50, 280), "astronaut": (60, 200, 220)},
    {"photographer": (50, 50, 230), "cat": (360, 230, 220)},
    {"cup": (360, 200, 240), "rocket": (60, 60, 220)},
    {"coins": (50, 200, 250), "motorcycle": (330, 60, 280)},
)


def write_demo(folder: Path) -> DemoCorpus:
    """Write the scenes, a ``NAME.txt`` of captions beside each, and ``boxes.json``; always the same pixels.

    Scenes that already exist with the same content are left alone, so that a second demo encodes nothing.

    Raises:
        MissingError: scikit-image is not installed, or lacks a photograph.
    """
    folder.mkdir(parents=True, exist_ok=True)
    boxes: dict[str, dict[str, Box]] = {}
    for number, layout in enumerate(SCENES):
        name = f"scene-{number + 1:02d}.png"
        texture, tint = list(BACKGROUNDS.items())[number % len(BACKGROUNDS)]
        scene = _background(texture, tint)
        boxes[name] = {label: _paste(scene, PARTS[label], at) for label, at in layout.items()}
        path = folder / name
        if not path.exists() or not _same(path, scene):
            scene.save(path)
        captions = "".join(f"{sentence}\n" for label in layout for sentence in PARTS[label].sentences)
        path.with_suffix(".txt").write_text(captions, "utf-8")
    box_file = {
        name: [{"box": list(box), "label": label} for label, box in by_label.items()]
        for name, by_label in boxes.items()
    }
    (folder / "boxes.json").write_text(json.dumps(box_file, indent=1), "utf-8")
    searches = (("cat", "cat"), ("cup of coffee", "cup"), ("rocket", "rocket"))
    assignment = Assignment("scene-04.png", boxes["scene-04.png"]["motorcycle"], "motorcycle")
    return DemoCorpus(folder, searches, assignment, boxes)


def _same(path: Path, scene: Image.Image) -> bool:
    with Image.open(path) as existing:
        return existing.size == scene.size and existing.tobytes() == scene.tobytes()


def _photograph(file: str) -> Image.Image:
    try:
        import skimage
    except ModuleNotFoundError as error:
        raise MissingError(
            'the demo uses photographs from scikit-image, which is not installed: pip install "felga[demo]"'
        ) from error
    path = Path(skimage.__file__).parent / "data" / file
    if not path.is_file():
        raise MissingError(f"this scikit-image lacks {file}: pip install --upgrade scikit-image")
    return Image.open(path)


def _background(file: str, tint: tuple[int, int, int]) -> Image.Image:
    """A tinted texture of low contrast, as behind objects in focus."""
    grey = _photograph(file).convert("L").resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
    shade = np.asarray(grey, np.float32)[:, :, None] / 255 * 0.25 + 0.8
    return Image.fromarray(np.clip(shade * np.array(tint, np.float32), 0, 255).astype(np.uint8))


def _paste(scene: Image.Image, part: Part, at: tuple[int, int, int]) -> Box:
    left, top, width = at
    photograph = _photograph(part.file).convert("RGB").crop(part.crop)
    height = round(photograph.height * width / photograph.width)
    scene.paste(photograph.resize((width, height), Image.Resampling.LANCZOS), (left, top))
    return float(left), float(top), float(left + width), float(top + height)
