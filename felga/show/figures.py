"""Figures of results: precision-recall curves and bars per class."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from felga.errors import BadInputError, MissingError
from felga.types import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
