"""A sheet of test images: the box, the generated phrase and the tags, best and worst by CIDEr-D."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from felga.alignment.aligned import Tag
from felga.alignment.region_texts import RegionTexts
from felga.corpus.decode import read_image
from felga.evaluation.captioning import cider

SIDE = 240  # pixels of the longer side
EACH = 20  # best, and as many worst


def sheet(texts: RegionTexts, said: Sequence[str], tags: Sequence[Sequence[Tag]], folder: Path) -> None:
    """Write ``folder/index.html`` and its images.

    Args:
        said, tags: of the described boxes, in order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scores = cider(said, [texts.phrases[box] for box in texts.described])
    order = np.argsort(scores)[::-1]
    shown = {"best": order[:EACH], "middle": order[len(order) // 2 :][:EACH], "worst": order[-EACH:]}
    lines = ["<!doctype html><meta charset=utf-8><title>Region captions</title>"]
    lines.append("<style>figure{display:inline-block;width:250px;margin:4px;vertical-align:top}</style>")
    for title, rows in shown.items():
        lines.append(f"<h2>{title}</h2>")
        for row in rows.tolist():
            box = int(texts.described[row])
            name = f"{row}.jpg"
            _drawn(texts, box).save(folder / name)
            words = ", ".join(f"{tag.tag} {tag.score:.2f}" for tag in tags[row])
            people = "; ".join(dict.fromkeys(texts.phrases[box]))
            lines.append(
                f"<figure><img src={name}><figcaption><b>{html.escape(said[row])}</b> (generated, "
                f"{scores[row]:.2f})<br>{html.escape(people)}<br><small>{html.escape(words)}</small></figcaption>"
                "</figure>"
            )
    (folder / "index.html").write_text("\n".join(lines) + "\n")


def _drawn(texts: RegionTexts, box: int) -> Image.Image:
    image_id, path = texts.images[int(texts.box_image[box])]
    decoded = read_image(path, image_id)
    image = Image.fromarray(decoded.pixels)
    corners = decoded.in_pixels(texts.boxes[box])[0]
    image.thumbnail((SIDE, SIDE))
    scale = image.width / decoded.pixels.shape[1]
    ImageDraw.Draw(image).rectangle([float(side) * scale for side in corners], outline="red", width=2)
    return image
