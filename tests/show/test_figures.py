import builtins
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from felga.errors import BadInputError, MissingError
from felga.show.figures import class_bars, precision_recall_figure


def test_curves_and_bars_are_written(tmp_path):
    pytest.importorskip("matplotlib")
    recall = np.linspace(0, 1, 101)
    precision_recall_figure({"frozen": (recall, 1 - recall)}, tmp_path / "curve.png", "discovery")
    class_bars(
        {"frozen": {"dog": 0.2, "cat": None}, "felga": {"dog": 0.4, "cat": None}}, tmp_path / "bars.png"
    )
    for name in ("curve.png", "bars.png"):
        with Image.open(tmp_path / name) as image:
            assert image.width > 600
    with pytest.raises(BadInputError, match="no class"):
        class_bars({"felga": {"dog": None}}, tmp_path / "none.png")


def test_without_matplotlib_the_line_to_install_is_said(monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(name=name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingError, match=r'pip install "felga\[plots\]"'):
        precision_recall_figure({}, tmp_path / "curve.png")


def test_matplotlib_is_loaded_only_when_drawing():
    code = "import sys, felga.show.figures; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_figure_that_cannot_be_written_is_one_sentence(tmp_path):
    pytest.importorskip("matplotlib")
    recall = np.linspace(0, 1, 3)
    for path in (tmp_path / "missing" / "curve.png", tmp_path / "curve.nonsense"):
        with pytest.raises(BadInputError, match="cannot be written"):
            precision_recall_figure({"frozen": (recall, recall)}, path)
