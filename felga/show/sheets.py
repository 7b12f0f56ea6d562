"""Result sheets: hits side by side, the winning boxes drawn. Pillow only."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from felga.corpus.decode import read_image
from felga.errors import BadInputError
from felga.types import Box, ImageHit, TextHit

PURPLE = (128, 0, 200)  # the best region (FELGA, Figure 2)
SIDE = 320  # pixels of a tile
LINE = 22
COLUMNS = 5


def draw_boxes(
    image: Image.Image, boxes: Sequence[Box], colour: tuple[int, int, int] = PURPLE
) -> Image.Image:
    """A copy of ``image`` with boxes of its own pixels; the first one thickest."""
    out = image.copy()
    pen = ImageDraw.Draw(out)
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        width = max(2, round(max(out.size) / (80 if i == 0 else 160)))
        pen.rectangle((x1, y1, max(x2 - 1, x1 + 1), max(y2 - 1, y1 + 1)), outline=colour, width=width)
    return out


def tile(path: str | Path, boxes: Sequence[Box], side: int = SIDE) -> Image.Image:
    """An image file with boxes of its upright original drawn, fitted into ``side`` by ``side``."""
    image = read_image(Path(path), str(path))
    scaled = image.in_pixels(np.array(boxes, np.float32))
    drawn = draw_boxes(Image.fromarray(image.pixels), [(b[0], b[1], b[2], b[3]) for b in scaled.tolist()])
    drawn.thumbnail((side, side))
    return drawn


def image_sheet(title: str, hits: Sequence[ImageHit]) -> Image.Image:
    """Found images by rank, each with the regions that were found in it."""
    tiles = [tile(hit.path, [region.box for region in hit.regions]) for hit in hits]
    lines = [tiles[i : i + COLUMNS] for i in range(0, len(tiles), COLUMNS)]
    heights = [max(one.height for one in line) + 2 * LINE for line in lines]
    width = max(1, min(COLUMNS, len(hits))) * (SIDE + 10) + 10
    sheet = Image.new("RGB", (width, 2 * LINE + sum(heights)), "white")
    pen, font = ImageDraw.Draw(sheet), _font(16)
    pen.text((10, 10), title, "black", font)
    for i, (hit, image) in enumerate(zip(hits, tiles, strict=True)):
        row, column = divmod(i, COLUMNS)
        x, y = 10 + column * (SIDE + 10), 2 * LINE + sum(heights[:row])
        sheet.paste(image, (x, y))
        name = f"{hit.rank}. {hit.score:.3f}  {hit.image_id[-28:]}"
        pen.text((x, y + image.height + 2), name, "black", font)
    return sheet


def text_sheet(path: str | Path, box: Box | None, hits: Sequence[TextHit]) -> Image.Image:
    """The image that was asked about, and beside it the texts that were found, keywords underlined."""
    font = _font(16)
    width, wrap = 760, 84
    texts = [textwrap.wrap(hit.text, wrap) or [""] for hit in hits]
    height = max(SIDE, sum((len(lines) + 2) * LINE for lines in texts)) + 20
    sheet = Image.new("RGB", (SIDE + width + 30, height), "white")
    pen = ImageDraw.Draw(sheet)
    sheet.paste(tile(path, [] if box is None else [box]), (10, 10))
    y = 10
    for hit, lines in zip(hits, texts, strict=True):
        pen.text((SIDE + 20, y), f"{hit.rank}. {hit.score:.3f}  {hit.keyword}", PURPLE, font)
        for line in lines:
            y += LINE
            pen.text((SIDE + 20, y), line, "black", font)
            at = line.lower().find(hit.keyword.lower())
            if at >= 0:
                start = SIDE + 20 + pen.textlength(line[:at], font)
                stop = start + pen.textlength(line[at : at + len(hit.keyword)], font)
                pen.line((start, y + LINE - 3, stop, y + LINE - 3), PURPLE, 2)
        y += LINE * 2
    return sheet


def save(sheet: Image.Image, path: Path) -> None:
    """Write a sheet; the format is the name's.

    Raises:
        BadInputError: the name has no ending of an image format, or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)
    except (ValueError, OSError) as error:
        raise BadInputError(f"{path} cannot be written ({error}): name a file such as hits.png") from error


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
