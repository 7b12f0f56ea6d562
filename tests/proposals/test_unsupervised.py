from __future__ import annotations

import numpy as np
import pytest

from felga.errors import BadInputError
from felga.proposals.unsupervised import DUPLICATE, LEAST, MOST, SLIVER
from felga.registry import make_regions
from felga.types import DecodedImage

from .contract import ProposerContract, image


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
def test_a_plain_thing_is_found(name):
    """A red square on grey is among the first three."""
    pixels = np.full((200, 300, 3), 120, np.uint8)
    pixels[60:140, 90:190] = 220, 20, 20
    pixels += np.random.default_rng(0).integers(0, 6, pixels.shape, np.uint8)
    (found,) = make_regions(name).propose([DecodedImage("a", pixels, 300, 200)], 3)
    assert max(iou(region.box, (90, 60, 190, 140)) for region in found) > 0.75


@pytest.mark.parametrize("name", ["selective-search", "graphseg+edgeboxes"])
def test_the_filters_hold(name):
    own = image(240, 160, 11)
    (found,) = make_regions(name).propose([own], 50)
    assert len(found) > 5
    for i, region in enumerate(found):
        x1, y1, x2, y2 = region.box
        share = (x2 - x1) * (y2 - y1) / (240 * 160)
        assert LEAST <= share <= MOST
        assert max((x2 - x1) / (y2 - y1), (y2 - y1) / (x2 - x1)) <= SLIVER + 1e-9
        assert all(iou(region.box, other.box) <= DUPLICATE + 1e-9 for other in found[:i])


def test_an_argument_is_refused():
    with pytest.raises(BadInputError, match="takes no argument, found 'x'"):
        make_regions("grid:x")
