from __future__ import annotations

import numpy as np
import pytest

from felga.errors import BadInputError, MissingError
from felga.proposals import unsupervised
from felga.proposals.unsupervised import DUPLICATE, LEAST, MOST, SLIVER
from felga.registry import make_regions
from felga.testing import ProposerContract
from felga.testing.proposer import scene
from felga.types import DecodedImage


class TestSelectiveSearch(ProposerContract):
    @pytest.fixture(scope="class")
    @classmethod
    def proposer(cls):
        return make_regions("selective-search")


class TestGraphsegEdgeboxes(ProposerContract):
    @pytest.fixture(scope="class")
    @classmethod
    def proposer(cls):
        return make_regions("graphseg+edgeboxes")


class TestGrid(ProposerContract):
    @pytest.fixture(scope="class")
    @classmethod
    def proposer(cls):
        return make_regions("grid")


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    area = lambda box: (box[2] - box[0]) * (box[3] - box[1])  # noqa: E731
    return shared / (area(a) + area(b) - shared)


@pytest.mark.parametrize("name", ["selective-search", "graphseg+edgeboxes"])
def test_a_plain_object_is_proposed(name):
    """A red rectangle on grey is among the first three."""
    pixels = np.full((200, 300, 3), 120, np.uint8)
    pixels[60:140, 90:190] = 220, 20, 20
    pixels += np.random.default_rng(0).integers(0, 6, pixels.shape, np.uint8)
    (regions,) = make_regions(name).propose([DecodedImage("a", pixels, 300, 200)], 3)
    assert max(iou(region.box, (90, 60, 190, 140)) for region in regions) > 0.75


@pytest.mark.parametrize("name", ["selective-search", "graphseg+edgeboxes"])
def test_no_region_is_tiny_or_a_sliver_or_a_duplicate(name):
    image = scene(240, 160, 11)
    (regions,) = make_regions(name).propose([image], 50)
    assert len(regions) > 5
    for i, region in enumerate(regions):
        x1, y1, x2, y2 = region.box
        share = (x2 - x1) * (y2 - y1) / (240 * 160)
        assert LEAST <= share <= MOST
        assert max((x2 - x1) / (y2 - y1), (y2 - y1) / (x2 - x1)) <= SLIVER + 1e-9
        assert all(iou(region.box, other.box) <= DUPLICATE + 1e-9 for other in regions[:i])


def test_an_argument_is_refused():
    with pytest.raises(BadInputError, match="takes no argument, got 'x'"):
        make_regions("grid:x")


@pytest.mark.parametrize(
    ("constant", "value"),
    [
        ("SIGMA", 0.5),
        ("SCALES", (500, 200)),
        ("MIN_SIZE", 20),
        ("BLUR", 2.0),
        ("MAX_BOXES", 50),
        ("LEAST", 0.01),
        ("MOST", 0.8),
        ("SLIVER", 4.0),
        ("DUPLICATE", 0.7),
        ("VERSION", 99),
    ],
)
def test_whatever_changes_the_boxes_changes_the_settings(monkeypatch, constant, value):
    before = make_regions("graphseg+edgeboxes").settings()
    assert before == make_regions("graphseg+edgeboxes").settings()
    monkeypatch.setattr(unsupervised, constant, value)
    assert make_regions("graphseg+edgeboxes").settings() != before


def test_selective_search_is_refused_on_windows(monkeypatch):
    monkeypatch.setattr(unsupervised.sys, "platform", "win32")
    with pytest.raises(MissingError, match=r"not repeatable on Windows: use --regions graphseg\+edgeboxes"):
        make_regions("selective-search")
    assert make_regions("grid").name == "grid"
