"""Hits as one static page of HTML that needs nothing else: no network, no script, no other file."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

from felga.corpus.decode import UnreadableImage, read_image
from felga.corpus.inside import exists
from felga.files import shown
from felga.show.text import Answer
from felga.types import Box, ImageHit, RegionHit, TextHit

SIDE, QUALITY = 480, 80  # pixels of the longer side of an image, and its quality as a JPEG
STYLE = """
:root{color-scheme:light dark;--ink:#1c1c1e;--paper:#fff;--card:#f3f3f5;--soft:#5f5f66;--box:#9628c8}
@media(prefers-color-scheme:dark){
:root{--ink:#ececf0;--paper:#141416;--card:#212125;--soft:#a5a5ae;--box:#d58cf5}}
body{margin:2rem auto;max-width:90rem;padding:0 1rem;background:var(--paper);color:var(--ink);
font:1rem/1.45 system-ui,sans-serif}
h1{font-size:1.5rem;overflow-wrap:anywhere}p,figcaption,td,th{overflow-wrap:anywhere}
.soft,figcaption small{color:var(--soft)}
ol{list-style:none;padding:0;display:grid;gap:1rem;grid-template-columns:repeat(auto-fill,minmax(16rem,1fr))}
figure{margin:0;padding:.6rem;background:var(--card);border-radius:.5rem}
.view{position:relative;width:fit-content;margin:0 auto .4rem}
.view img{display:block;max-width:100%;height:auto}
.view svg{position:absolute;inset:0;width:100%;height:100%;overflow:visible}
rect{fill:none;stroke:var(--box);stroke-width:2;vector-effect:non-scaling-stroke}
rect.best{stroke-width:4}
.gone{padding:3rem 1rem;text-align:center;border:1px dashed var(--soft)}
.asked{max-width:30rem}
table{border-collapse:collapse}td,th{padding:.4rem .8rem;text-align:left;vertical-align:top}
td.number{font-variant-numeric:tabular-nums}tr{border-top:1px solid var(--card)}
mark{background:var(--box);color:var(--paper);border-radius:.2rem;padding:0 .15rem}
"""
HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy"
content="default-src 'none';img-src data:;style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
"""


def page(answers: Sequence[Answer]) -> str:
    """The hits of each query: images with their boxes, texts with their keywords marked.

    Images are embedded, at most 480 pixels long; a dashed frame stands for one that cannot be read.
    """
    title = escape(", ".join(answer.query for answer in answers)[:100])
    sections = "\n".join(_section(answer) for answer in answers)
    return f"{HEAD.format(title=f'felga: {title}', style=STYLE)}{sections}\n</body>\n</html>\n"


def _section(answer: Answer) -> str:
    texts = [hit for hit in answer.hits if isinstance(hit, TextHit)]
    images = [hit for hit in answer.hits if isinstance(hit, ImageHit)]
    about = f"{len(answer.hits)} {answer.kind} in {escape(answer.index)}"
    parts = [f'<section>\n<h1>{escape(answer.query)}</h1>\n<p class="soft">{about}</p>']
    if answer.image is not None:
        boxes = [] if answer.box is None else [RegionHit(answer.box, 0.0)]
        view = _view(str(answer.image), boxes, "the image asked with")
        parts.append(f'<figure class="asked">{view}<figcaption>asked with</figcaption></figure>')
    if images:
        parts += ["<ol>", *(_image(hit) for hit in images), "</ol>"]
    if texts:
        head = "<tr><th>rank</th><th>score</th><th>text</th><th>keyword</th></tr>"
        parts += ["<table>", head, *(_text(hit) for hit in texts), "</table>"]
    return "\n".join([*parts, "</section>"])


def _image(hit: ImageHit) -> str:
    best = "".join(f", best region {_numbers(region.box)}" for region in hit.regions[:1])
    view = _view(hit.path, hit.regions, f"hit {hit.rank}: {hit.image_id}{best}")
    sure = "" if hit.confidence is None else f", confidence {hit.confidence:.2f}"
    lines = [f"<b>{hit.rank}.</b> score {hit.score:.3f}{sure}", escape(hit.image_id)]
    lines += [f"<small>{escape(_about(region))}</small>" for region in hit.regions]
    lines += [f"<small>{escape(shown(hit.path))}</small>"]
    return f"<li><figure>{view}<figcaption>{'<br>'.join(lines)}</figcaption></figure></li>"


def _text(hit: TextHit) -> str:
    start, end = hit.span
    before, word, after = (escape(part) for part in (hit.text[:start], hit.text[start:end], hit.text[end:]))
    generated = " <small>generated</small>" if hit.generated else ""
    return (
        f'<tr><td class="number">{hit.rank}</td><td class="number">{hit.score:.3f}</td>'
        f"<td>{before}<mark>{word}</mark>{after}{generated}</td><td>{escape(hit.keyword)}</td></tr>"
    )


def _view(path: str, regions: Sequence[RegionHit], alt: str) -> str:
    """An embedded image under its boxes, the best one thickest."""
    try:
        decoded = read_image(Path(path), shown(os.path.basename(path)))
    except UnreadableImage:
        reason = "cannot be read" if exists(path) else "not found"
        return f'<div class="gone" role="img" aria-label="{escape(alt)}, {reason}">{reason}</div>'
    image = Image.fromarray(decoded.pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY)
    data = base64.b64encode(out.getvalue()).decode()
    boxes = "".join(_rect(region, best=n == 0) for n, region in enumerate(regions))
    return (
        f'<div class="view"><img src="data:image/jpeg;base64,{data}" width="{image.width}" '
        f'height="{image.height}" alt="{escape(alt)}"><svg viewBox="0 0 {decoded.width} {decoded.height}" '
        f'preserveAspectRatio="none" aria-hidden="true">{boxes}</svg></div>'
    )


def _rect(region: RegionHit, *, best: bool) -> str:
    x1, y1, x2, y2 = region.box
    kind = ' class="best"' if best else ""
    return f'<rect{kind} x="{x1:g}" y="{y1:g}" width="{x2 - x1:g}" height="{y2 - y1:g}"/>'


def _about(region: RegionHit) -> str:
    parts = [] if region.term is None else [region.term]
    parts += [_numbers(region.box), f"score {region.score:.3f}"]
    parts += ["whole image"] if region.whole else []
    parts += [] if region.label is None else [region.label]
    parts += [] if region.quality is None else [f"quality {region.quality:.2f}"]
    return " · ".join(parts)


def _numbers(box: Box) -> str:
    return ", ".join(f"{value:.0f}" for value in box)
