"""Figures of results: precision-recall curves and bars per class."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from felga.errors import BadInputError, MissingError
from felga.files import shown
from felga.types import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INSTALL = 'pip install "felga[plots]"'


def precision_recall_figure(
    curves: Mapping[str, tuple[Floats, Floats]], path: str | os.PathLike[str], title: str = ""
) -> None:
    """Precision over recall, one line per method; the suffix of ``path`` decides the format.

    Args:
        curves: label -> (recall, precision), (n,) each, in [0, 1].
        path: the file to write.
        title: above the axes.

    Raises:
        MissingError: matplotlib is not installed.
    """
    figure, axes = new_figure((6.0, 4.5))
    for label, (recall, precision) in curves.items():
        axes.plot(recall, precision, label=label)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1), title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)


def class_bars(
    methods: Mapping[str, Mapping[str, float | None]], path: str | os.PathLike[str], title: str = ""
) -> None:
    """AP per class, the bars of the methods side by side, the best class of the last method first.

    Args:
        methods: label -> AP per class; classes that do not occur (None) are left out.
        path: the file to write.
        title: above the axes.

    Raises:
        BadInputError: no class occurs.
        MissingError: matplotlib is not installed.
    """
    last: Mapping[str, float | None] = list(methods.values())[-1] if methods else {}
    known = {name: value for name, value in last.items() if value is not None}
    if not known:
        raise BadInputError("no class occurs: there are no bars to draw")
    names = sorted(known, key=lambda name: -known[name])
    figure, axes = new_figure((max(6.0, 0.19 * len(names) + 1.5), 4.5))
    width = 0.8 / len(methods)
    for i, (label, values) in enumerate(methods.items()):
        places = [j + (i - (len(methods) - 1) / 2) * width for j in range(len(names))]
        axes.bar(places, [values.get(name) or 0.0 for name in names], width, label=label)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set(ylabel="average precision", xlim=(-0.6, len(names) - 0.4), ylim=(0, 1), title=title)
    axes.legend()
    save_figure(figure, path)


def new_figure(size: tuple[float, float]) -> tuple[Figure, Axes]:
    """A figure of ``size`` inches with one pair of axes; needs no display.

    Raises:
        MissingError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingError(f"figures need matplotlib: {INSTALL}") from error
    figure: Any = Figure(figsize=size, layout="constrained")  # no pyplot: no global state, no window
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def save_figure(
    figure: Figure, path: str | os.PathLike[str], *, dpi: int = 150, format: str | None = None
) -> None:
    """Write a figure; ``format`` None: that of the suffix of ``path``.

    Raises:
        BadInputError: the file cannot be written, or its suffix names no format.
    """
    try:
        figure.savefig(path, dpi=dpi, format=format)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadInputError(f"{shown(path)} cannot be written: {reason}") from error
