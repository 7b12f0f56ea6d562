"""What every region proposer keeps to. Subclass :class:`ProposerContract` and give it ``proposer``."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from felga.types import DecodedImage, RegionProposer


def image(width: int, height: int, seed: int, name: str = "") -> DecodedImage:
    """Rectangles of one colour each on a plain ground, with a little noise."""
    rng = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 128, np.int16)
    for _ in range(5):
        x, y = rng.integers(0, width), rng.integers(0, height)
        pixels[y : y + height // 2 + 1, x : x + width // 3 + 1] = rng.integers(0, 256, 3)
    pixels += rng.integers(-8, 9, pixels.shape, dtype=np.int16)
    return DecodedImage(
        name or f"{width}x{height}#{seed}", pixels.clip(0, 255).astype(np.uint8), width, height
    )


IMAGES = [image(120, 90, 1, "a"), image(80, 130, 2, "b"), image(100, 100, 3, "c")]


class ProposerContract:
    finds_something = True

    @pytest.fixture(scope="class")
    @classmethod
    def proposer(cls) -> RegionProposer:
        raise NotImplementedError

    def check(self, image: DecodedImage, regions: list, top: int) -> None:
        assert len(regions) <= top
        scores = [r.score for r in regions]
        assert scores == sorted(scores, reverse=True)
        assert all(np.isfinite(scores))
        for region in regions:
            x1, y1, x2, y2 = region.box
            assert 0 <= x1 < x2 <= image.width
            assert 0 <= y1 < y2 <= image.height
            assert all(type(v) is float for v in (*region.box, region.score))
            assert region.box != image.whole
            assert not region.whole
        assert len({r.box for r in regions}) == len(regions)

    def test_is_a_proposer(self, proposer):
        assert isinstance(proposer, RegionProposer)
        assert proposer.name

    @pytest.mark.parametrize("top", [1, 3, 10, 1000])
    def test_boxes_lie_in_the_image_best_first(self, proposer, top):
        found = proposer.propose(IMAGES, top)
        assert len(found) == len(IMAGES)
        for own, regions in zip(IMAGES, found, strict=True):
            self.check(own, regions, top)
        if self.finds_something:
            assert all(found)

    def test_fewer_are_the_first_of_more(self, proposer):
        few, many = proposer.propose(IMAGES, 2), proposer.propose(IMAGES, 6)
        assert few == [own[:2] for own in many]

    def test_no_images(self, proposer):
        assert proposer.propose([], 10) == []
        assert proposer.propose(IMAGES[:1], 0) == [[]]

    def test_the_same_whatever_else_is_asked(self, proposer):
        together = proposer.propose(IMAGES, 10)
        assert together == proposer.propose(IMAGES, 10)
        assert together == proposer.propose(IMAGES[::-1], 10)[::-1]
        assert together == [proposer.propose([own], 10)[0] for own in IMAGES]

    def test_threads(self, proposer):
        alone = [proposer.propose([own], 10)[0] for own in IMAGES]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda own: proposer.propose([own], 10)[0], IMAGES * 4))
        assert found == alone * 4

    def test_a_reduced_image_has_boxes_of_the_original(self, proposer):
        own = IMAGES[0]
        large = DecodedImage(own.image_id, own.pixels, own.width * 5, own.height * 5)
        self.check(large, proposer.propose([large], 10)[0], 10)
        if self.finds_something:
            (regions,) = proposer.propose([large], 1000)
            assert max(max(r.box) for r in regions) > max(own.width, own.height)

    def test_tiny_and_long_images(self, proposer):
        odd = [image(1, 1, 4), image(400, 2, 5), image(2, 400, 6), image(3, 3, 7)]
        for own, regions in zip(odd, proposer.propose(odd, 10), strict=True):
            self.check(own, regions, 10)

    def test_inputs_are_left_alone(self, proposer):
        pixels = IMAGES[0].pixels.copy()
        proposer.propose(IMAGES, 10)
        np.testing.assert_array_equal(IMAGES[0].pixels, pixels)

    def test_settings_are_json(self, proposer):
        assert json.loads(json.dumps(proposer.settings())) == json.loads(json.dumps(proposer.settings()))
