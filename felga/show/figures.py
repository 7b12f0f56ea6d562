"""Images of results: precision-recall curves, bars of classes, and the paper's Figure 2 as a sheet."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont

from felga.errors import BadInputError, MissingError
from felga.types import Box, Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RIGHT = (0, 160, 60)
WRONG = (215, 30, 40)
REGION = (150, 40, 200)
"""Colours of Figure 2: frames of right and wrong images, and the best region."""

_CELL, _FRAME, _GAP, _LABEL, _OUTLINE = 240, 6, 10, 150, 3


@dataclass(frozen=True, slots=True)
class Hit:
    """An image of a result sheet.

    Attributes:
        image: RGB, upright.
        box: its best region, in pixels of ``image``; None for the whole.
        right: whether it contains what was asked for.
        score: printed on it.
    """

    image: Image.Image
    box: Box | None
    right: bool
    score: float | None = None


def result_sheet(rows: Sequence[tuple[str, Sequence[Hit]]], title: str = "") -> Image.Image:
    """The paper's Figure 2: a row for each method, its best images from left to right.

    Green frames are right, red frames wrong; the region that won is purple.

    Args:
        rows: label and hits, such as ``("CLIP", [...five...]), ("FELGA", [...five...])``.
        title: written above, such as the query.

    Raises:
        BadInputError: there is no hit.
    """
    columns = max((len(hits) for _, hits in rows), default=0)
    if not columns:
        raise BadInputError("a result sheet needs a hit")
    font, step = ImageFont.load_default(18), _CELL + _GAP
    top = 40 if title else _GAP
    sheet = Image.new("RGB", (_LABEL + columns * step, top + len(rows) * step), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, _GAP), title, fill="black", font=font)
    for i, (label, hits) in enumerate(rows):
        y = top + i * step
        draw.text((_GAP, y + _CELL // 2), label, fill="black", font=font, anchor="lm")
        for j, hit in enumerate(hits):
            sheet.paste(_cell(hit), (_LABEL + j * step, y))
    return sheet


def _cell(hit: Hit) -> Image.Image:
    room = _CELL - 2 * _FRAME
    scale = min(room / hit.image.width, room / hit.image.height)
    size = (max(1, round(hit.image.width * scale)), max(1, round(hit.image.height * scale)))
    cell = Image.new("RGB", (_CELL, _CELL), "white")
    left, top = (_CELL - size[0]) // 2, (_CELL - size[1]) // 2
    cell.paste(hit.image.convert("RGB").resize(size, Image.Resampling.LANCZOS), (left, top))
    draw = ImageDraw.Draw(cell)
    frame = (left - _FRAME, top - _FRAME, left + size[0] + _FRAME - 1, top + size[1] + _FRAME - 1)
    draw.rectangle(frame, outline=RIGHT if hit.right else WRONG, width=_FRAME)
    if hit.box is not None:
        x1, y1, x2, y2 = (value * scale for value in hit.box)
        # Drawn round the region, so that a small one can be seen, but never on the frame.
        right, bottom = size[0] - 1, size[1] - 1
        corners = (
            left + min(max(x1 - _OUTLINE, 0), right),
            top + min(max(y1 - _OUTLINE, 0), bottom),
            left + max(min(x2 + _OUTLINE, right), 0),
            top + max(min(y2 + _OUTLINE, bottom), 0),
        )
        draw.rectangle(corners, outline=REGION, width=_OUTLINE)
    if hit.score is not None:
        font, text = ImageFont.load_default(14), f"{hit.score:.3f}"
        place = (left + size[0] - 4, top + size[1] - 4)
        draw.rectangle(draw.textbbox(place, text, font=font, anchor="rd"), fill="white")
        draw.text(place, text, fill="black", font=font, anchor="rd")
    return cell


def precision_recall_figure(
    curves: Mapping[str, tuple[Floats, Floats]], path: str | os.PathLike[str], title: str = ""
) -> None:
    """Precision over recall, a line for each method; the ending of ``path`` says the format.

    Args:
        curves: label to (recall, precision), each (n,) in [0, 1], such as
            :func:`felga.evaluation.protocol.discovery_curve` gives.
        path: written to.
        title: above the axes.

    Raises:
        MissingError: matplotlib is not installed.
    """
    figure, axes = _axes((6.0, 4.5))
    for label, (recall, precision) in curves.items():
        axes.plot(recall, precision, label=label)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1), title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def class_bars(
    methods: Mapping[str, Mapping[str, float | None]], path: str | os.PathLike[str], title: str = ""
) -> None:
    """AP of each class, bars of the methods side by side, the best class of the last method first.

    Args:
        methods: label to ``per_class`` of :class:`felga.evaluation.protocol.Task`; classes that do not occur
            (None) are left out.
        path: written to.
        title: above the axes.

    Raises:
        BadInputError: no class occurs.
        MissingError: matplotlib is not installed.
    """
    last: Mapping[str, float | None] = list(methods.values())[-1] if methods else {}
    known = {name: value for name, value in last.items() if value is not None}
    if not known:
        raise BadInputError("no class occurs, so there are no bars to draw")
    names = sorted(known, key=lambda name: -known[name])
    figure, axes = _axes((max(6.0, 0.19 * len(names) + 1.5), 4.5))
    width = 0.8 / len(methods)
    for i, (label, values) in enumerate(methods.items()):
        places = [j + (i - (len(methods) - 1) / 2) * width for j in range(len(names))]
        axes.bar(places, [values.get(name) or 0.0 for name in names], width, label=label)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set(ylabel="average precision", xlim=(-0.6, len(names) - 0.4), ylim=(0, 1), title=title)
    axes.legend()
    _save(figure, path)


def _axes(size: tuple[float, float]) -> tuple[Figure, Axes]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingError('figures need matplotlib: pip install "felga[plots]"') from error
    figure: Any = Figure(figsize=size, layout="constrained")  # no pyplot: no global state, no window
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    figure.savefig(path, dpi=150)
