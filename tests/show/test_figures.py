import builtins
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from felga.errors import BadInputError, MissingError
from felga.show.figures import (
    REGION,
    RIGHT,
    WRONG,
    Hit,
    class_bars,
    precision_recall_figure,
    result_sheet,
)


def colours(image):
    return {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}


def grey(width, height):
    return Image.new("RGB", (width, height), (128, 128, 128))


def test_sheet_frames_right_green_wrong_red_region_purple():
    right = Hit(grey(300, 200), (50, 50, 150, 150), True, 0.5)
    wrong = Hit(grey(100, 400), None, False)
    assert {RIGHT, REGION} <= colours(result_sheet([("before", [right])]))
    assert WRONG not in colours(result_sheet([("before", [right])]))
    assert WRONG in colours(result_sheet([("after", [wrong])]))
    assert REGION not in colours(result_sheet([("after", [wrong])]))


def test_sheet_has_a_row_a_method_and_a_column_a_hit():
    hit = Hit(grey(300, 200), (0, 0, 300, 200), True)
    one = result_sheet([("a", [hit])])
    many = result_sheet([("a", [hit] * 5), ("b", [hit] * 2)])
    assert many.height == 2 * one.height - 10
    assert many.width > 4 * (one.width - 150)
    assert result_sheet([("a", [hit])], title="boat").height > one.height


def test_region_lies_where_the_box_is():
    hit = Hit(grey(228, 228), (114, 0, 228, 228), True)  # the right half, unscaled; outlined by 3 px
    pixels = np.asarray(result_sheet([("", [hit])]))
    columns = np.flatnonzero((pixels == REGION).all(axis=2).any(axis=0))
    assert columns.min() == 150 + 6 + 114 - 3
    assert columns.max() == 150 + 6 + 227


def test_boxes_on_and_beyond_the_edge():
    for box in (
        (0, 0, 1, 1),
        (99, 99, 100, 100),
        (-20, -20, 500, 500),
        (300, 0, 400, 50),
        (-90, -90, -50, -50),
    ):
        result_sheet([("", [Hit(grey(100, 100), box, True)])])


def test_sheet_without_hits_is_refused():
    with pytest.raises(BadInputError, match="hit"):
        result_sheet([("a", [])])


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
