"""Result sheets: images side by side with their best regions outlined. Pillow only."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from felga.corpus.decode import UnreadableImage, read_image
from felga.corpus.inside import exists
from felga.errors import BadInputError
from felga.files import shown
from felga.show.targets import check_file
from felga.show.text import Answer
from felga.survey.concepts import Concept
from felga.types import Box, ImageHit, RegionHit, TextHit

Colour: TypeAlias = tuple[int, int, int]
Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

RIGHT = (0, 160, 60)
WRONG = (215, 30, 40)
REGION = (150, 40, 200)
"""Colours of Figure 2 (FELGA): frames of right and wrong images, and the best region."""
GREY = (215, 215, 215)

SIDE = 320  # pixels of a tile
GAP = 10
LINE = 22
COLUMNS = 5
WRAP = 84  # characters of a text line
CELL, FRAME, LABEL = 240, 6, 150  # of a comparison of methods
CROP, ABOUT = 130, 220  # of a region of a concept, and of what is said of the concept

FALLBACK_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "wqy-zenhei.ttc",
    "Arial Unicode.ttf",
    "msgothic.ttc",
    "DejaVuSans.ttf",
)
"""Tried where Pillow's font lacks a character; what none of them has is escaped."""


@dataclass(frozen=True, slots=True)
class Hit:
    """An image of a comparison.

    Attributes:
        image: RGB, upright.
        box: its best region, in pixels of ``image``; None for the whole.
        right: whether it shows what was asked for.
        score: printed on it.
    """

    image: Image.Image
    box: Box | None
    right: bool
    score: float | None = None


def tile(image: Image.Image, boxes: Sequence[Box], side: int = SIDE) -> Image.Image:
    """``image`` fitted into ``side`` by ``side``, with boxes of its pixels drawn; the first one thickest."""
    scale = min(side / image.width, side / image.height)
    width, height = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    out = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(out)
    for i, box in reversed(list(enumerate(boxes))):
        line = ceil(side / (80 if i == 0 else 160))
        x1, y1, x2, y2 = (value * scale for value in box)
        # around the region, so that a small one stays visible, but inside the image
        left, top = min(max(x1 - line, 0), width - 1), min(max(y1 - line, 0), height - 1)
        right, bottom = max(min(x2 + line, width - 1), left), max(min(y2 + line, height - 1), top)
        pen.rectangle((left, top, right, bottom), outline=REGION, width=line)
    return out


def sheet(answer: Answer) -> Image.Image:
    """The sheet of the hits of one query."""
    if answer.kind == "texts" and answer.image is not None:
        return text_sheet(answer.image, answer.box, [hit for hit in answer.hits if isinstance(hit, TextHit)])
    return image_sheet(answer.query, [hit for hit in answer.hits if isinstance(hit, ImageHit)])


def image_sheet(title: str, hits: Sequence[ImageHit]) -> Image.Image:
    """Matching images by rank, each with its regions; a grey tile where the file is gone."""
    tiles = [_file_tile(hit.path, [region.box for region in hit.regions]) for hit in hits]
    lines = [tiles[i : i + COLUMNS] for i in range(0, len(tiles), COLUMNS)]
    heights = [max(one.height for one in line) + 2 * LINE for line in lines]
    width = max(1, min(COLUMNS, len(hits))) * (SIDE + GAP) + GAP
    sheet = Image.new("RGB", (width, 2 * LINE + sum(heights)), "white")
    pen = ImageDraw.Draw(sheet)
    _write(pen, (GAP, GAP), title)
    for i, (hit, image) in enumerate(zip(hits, tiles, strict=True)):
        row, column = divmod(i, COLUMNS)
        x, y = GAP + column * (SIDE + GAP), 2 * LINE + sum(heights[:row])
        sheet.paste(image, (x, y))
        _write(pen, (x, y + image.height + 2), f"{hit.rank}. {hit.score:.3f}  {hit.image_id[-28:]}")
        for region in hit.regions[:1]:
            _write(pen, (x, y + image.height + LINE), _about(region), REGION)
    return sheet


def text_sheet(path: str | Path, box: Box | None, hits: Sequence[TextHit]) -> Image.Image:
    """The query image and, beside it, the matching texts with their keywords underlined."""
    texts = [textwrap.wrap(hit.text, WRAP) or [""] for hit in hits]
    height = max(SIDE, sum((len(lines) + 2) * LINE for lines in texts)) + 2 * GAP
    sheet = Image.new("RGB", (SIDE + 790, height), "white")
    pen = ImageDraw.Draw(sheet)
    sheet.paste(_file_tile(path, [] if box is None else [box]), (GAP, GAP))
    x, y = SIDE + 2 * GAP, GAP
    for hit, lines in zip(hits, texts, strict=True):
        _write(
            pen,
            (x, y),
            f"{hit.rank}. {hit.score:.3f}  {hit.keyword}{'  (generated)' * hit.generated}",
            REGION,
        )
        for line in lines:
            y += LINE
            _write(pen, (x, y), line)
            _underline(pen, (x, y + LINE - 3), line, hit.keyword)
        y += LINE * 2
    return sheet


def result_sheet(rows: Sequence[tuple[str, Sequence[Hit]]], title: str = "") -> Image.Image:
    """The paper's Figure 2: one row per method, its best images from left to right.

    Right images have a green frame, wrong ones a red one; the best region is purple.

    Args:
        rows: label and hits, such as ``("CLIP", [...five...]), ("FELGA", [...five...])``.
        title: written above, such as the query.

    Raises:
        BadInputError: there is no hit.
    """
    columns = max((len(hits) for _, hits in rows), default=0)
    if not columns:
        raise BadInputError("a result sheet needs at least one hit")
    step = CELL + GAP
    top = 40 if title else GAP
    sheet = Image.new("RGB", (LABEL + columns * step, top + len(rows) * step), "white")
    pen = ImageDraw.Draw(sheet)
    _write(pen, (GAP, GAP), title, size=18)
    for i, (label, hits) in enumerate(rows):
        y = top + i * step
        _write(pen, (GAP, y + CELL // 2), label, size=18, anchor="lm")
        for j, hit in enumerate(hits):
            sheet.paste(_framed(hit), (LABEL + j * step, y))
    return sheet


def concept_sheet(concepts: Sequence[Concept]) -> Image.Image:
    """One row per concept: its name, how many images and regions show it, and its best regions, cut out."""
    columns = max((len(concept.exemplars) for concept in concepts), default=0)
    step = CROP + GAP
    sheet = Image.new("RGB", (ABOUT + columns * step, GAP + len(concepts) * step), "white")
    pen = ImageDraw.Draw(sheet)
    for i, concept in enumerate(concepts):
        y = GAP + i * step
        _write(pen, (GAP, y + CROP // 2 - LINE), concept.name, size=18)
        _write(
            pen, (GAP, y + CROP // 2 + 4), f"{concept.images:,} images, {concept.regions:,} regions", size=14
        )
        for j, exemplar in enumerate(concept.exemplars):
            crop = _crop(exemplar.path, exemplar.box)
            left, top = (CROP - crop.width) // 2, (CROP - crop.height) // 2
            sheet.paste(crop, (ABOUT + j * step + left, y + top))
    return sheet


def check_target(path: Path) -> None:
    """Check that a sheet could be written to ``path``, before the work for it is done.

    Raises:
        BadInputError: its suffix names no image format, or its folder cannot be created or written.
    """
    Image.init()
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise BadInputError(f"{shown(path)} cannot be written: name an image file such as hits.png")
    check_file(path, "hits.png")


def save(sheet: Image.Image, path: Path) -> None:
    """Write a sheet; its suffix decides the format.

    Raises:
        BadInputError: no such format, or the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)
    except (ValueError, OSError) as error:
        raise BadInputError(
            f"{shown(path)} cannot be written ({error}): name a file such as hits.png"
        ) from error


def _file_tile(path: str | Path, boxes: Sequence[Box]) -> Image.Image:
    """The tile of an image file, with boxes of its upright original."""
    name = shown(os.path.basename(path))
    try:
        image = read_image(Path(path), name)
    except UnreadableImage:
        out = Image.new("RGB", (SIDE, SIDE * 3 // 4), GREY)
        pen = ImageDraw.Draw(out)
        _write(pen, (GAP, SIDE // 4), name[-34:])
        _write(pen, (GAP, SIDE // 4 + LINE), "cannot be read" if exists(path) else "not found")
        return out
    scaled = image.in_pixels(np.array(boxes, np.float32))
    return tile(Image.fromarray(image.pixels), [(b[0], b[1], b[2], b[3]) for b in scaled.tolist()])


def _crop(path: str, box: Box) -> Image.Image:
    """A region of an image file, fitted into a cell; grey where the file is gone."""
    name = shown(os.path.basename(path))
    try:
        image = read_image(Path(path), name)
    except UnreadableImage:
        out = Image.new("RGB", (CROP, CROP), GREY)
        _write(ImageDraw.Draw(out), (GAP, CROP // 2), name[-12:], size=14)
        return out
    (scaled,) = image.in_pixels(np.array([box], np.float32)).tolist()
    left, top = (
        min(int(value), side - 1) for value, side in zip(scaled[:2], image.pixels.shape[1::-1], strict=True)
    )
    right, bottom = max(ceil(scaled[2]), left + 1), max(ceil(scaled[3]), top + 1)
    return tile(Image.fromarray(image.pixels[top:bottom, left:right]), [], CROP)


def _about(region: RegionHit) -> str:
    """The label of a region and what its score is made of, where either is known."""
    parts = [name for name in (region.term, region.label) if name is not None]
    if region.quality is not None:
        parts.append(f"similarity {region.similarity:.3f}, quality {region.quality:.2f}")
    return ", ".join(parts)


def _framed(hit: Hit) -> Image.Image:
    image = tile(hit.image, [] if hit.box is None else [hit.box], CELL - 2 * FRAME)
    cell = Image.new("RGB", (CELL, CELL), "white")
    left, top = (CELL - image.width) // 2, (CELL - image.height) // 2
    cell.paste(image, (left, top))
    pen = ImageDraw.Draw(cell)
    frame = (left - FRAME, top - FRAME, left + image.width + FRAME - 1, top + image.height + FRAME - 1)
    pen.rectangle(frame, outline=RIGHT if hit.right else WRONG, width=FRAME)
    if hit.score is not None:
        font, text = _lettering(f"{hit.score:.3f}", 14)
        corner = (left + image.width - 4, top + image.height - 4)
        pen.rectangle(pen.textbbox(corner, text, font=font, anchor="rd"), fill="white")
        pen.text(corner, text, fill="black", font=font, anchor="rd")
    return cell


def _write(
    pen: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    fill: Colour = (0, 0, 0),
    *,
    size: int = 16,
    anchor: str | None = None,
) -> None:
    font, text = _lettering(text, size)
    pen.text(at, text, fill, font, anchor)


def _underline(pen: ImageDraw.ImageDraw, at: tuple[float, float], line: str, keyword: str) -> None:
    start = line.lower().find(keyword.lower())
    if start < 0:
        return
    font, before = _lettering(line[:start], 16)
    left = at[0] + pen.textlength(before, font)
    font, word = _lettering(line[start : start + len(keyword)], 16)
    pen.line((left, at[1], left + pen.textlength(word, font), at[1]), REGION, 2)


def _lettering(text: str, size: int) -> tuple[Font, str]:
    """A font for ``text``, and the text with the characters escaped that the font lacks."""
    text = re.sub(r"\s", " ", text)
    best: Font = _font("", size)
    if all(_has(best, char) for char in text):
        return best, text
    for name in FALLBACK_FONTS:
        try:
            font = _font(name, size)
        except OSError:  # not installed
            continue
        if all(_has(font, char) for char in text):
            return font, text
    return best, "".join(c if _has(best, c) else c.encode("ascii", "backslashreplace").decode() for c in text)


@lru_cache(maxsize=32)
def _font(name: str, size: int) -> Font:
    return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)


@lru_cache(maxsize=4096)
def _has(font: Font, char: str) -> bool:
    """Whether the font draws ``char`` as something else than its sign for a missing one."""
    if char.isspace():
        return True
    missing, drawn = font.getmask("\U0010ffff"), font.getmask(char)
    return (drawn.size, bytes(drawn)) != (missing.size, bytes(missing))
