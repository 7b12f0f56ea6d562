"""What proposers guarantee: :class:`ProposerContract` for regions, :class:`KeywordContract` for keywords."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from felga.types import DecodedImage, Keyword, KeywordProposer, Region, RegionProposer


def scene(width: int, height: int, seed: int, image_id: str = "") -> DecodedImage:
    """A test image: five rectangles of one color each on grey, with a little noise."""
    rng = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 128, np.int16)
    for _ in range(5):
        x, y = rng.integers(0, width), rng.integers(0, height)
        pixels[y : y + height // 2 + 1, x : x + width // 3 + 1] = rng.integers(0, 256, 3)
    pixels += rng.integers(-8, 9, pixels.shape, dtype=np.int16)
    name = image_id or f"{width}x{height}#{seed}"
    return DecodedImage(name, pixels.clip(0, 255).astype(np.uint8), width, height)


IMAGES = (scene(120, 90, 1, "a"), scene(80, 130, 2, "b"), scene(100, 100, 3, "c"))


def check_settings(settings: Mapping[str, Any]) -> None:
    """Settings are json and carry a version, so that an index notices new code that proposes otherwise."""
    json.dumps(dict(settings), allow_nan=False)
    version = settings["version"]
    assert type(version) is int
    assert version >= 1


def check_regions(image: DecodedImage, regions: Sequence[Region], top: int) -> None:
    """At most ``top``, best first; inside the image, not empty, no duplicates, never the whole image."""
    assert len(regions) <= top
    scores = [region.score for region in regions]
    assert scores == sorted(scores, reverse=True)
    for region in regions:
        assert all(type(value) is float for value in (*region.box, region.score))
        assert np.isfinite(np.float32(region.score))
        x1, y1, x2, y2 = region.box
        assert 0 <= x1 < x2 <= image.width
        assert 0 <= y1 < y2 <= image.height
        assert (x2 - x1) * (y2 - y1) < 0.99 * image.width * image.height, "the whole image is no region"
        assert not region.whole
        if region.label is not None:
            region.label.encode()  # no lone surrogates
    stored = {np.asarray(region.box, np.float32).tobytes() for region in regions}
    assert len(stored) == len(regions), "boxes are distinct in float32, as they are stored"


class ProposerContract:
    """Tests of a :class:`felga.types.RegionProposer`.

    Override the fixture ``proposer``, with scope "class" if it is slow to make. Set ``proposes_on_scenes`` to
    False if it need not find anything on images of plain rectangles (a detector of faces).
    """

    proposes_on_scenes = True

    @pytest.fixture(scope="class")
    @classmethod
    def proposer(cls) -> RegionProposer:
        """The proposer under test."""
        raise NotImplementedError("override the fixture `proposer`")

    def test_satisfies_the_protocol(self, proposer: RegionProposer) -> None:
        assert isinstance(proposer, RegionProposer)
        assert proposer.name

    @pytest.mark.parametrize("top", [1, 3, 10, 1000])
    def test_boxes_lie_in_the_image_best_first(self, proposer: RegionProposer, top: int) -> None:
        proposed = proposer.propose(IMAGES, top)
        assert len(proposed) == len(IMAGES)
        for image, regions in zip(IMAGES, proposed, strict=True):
            check_regions(image, regions, top)
        if self.proposes_on_scenes:
            assert all(proposed)

    def test_a_smaller_top_is_a_prefix(self, proposer: RegionProposer) -> None:
        few, many = proposer.propose(IMAGES, 2), proposer.propose(IMAGES, 6)
        assert few == [regions[:2] for regions in many]

    def test_no_images_and_no_regions(self, proposer: RegionProposer) -> None:
        assert proposer.propose([], 10) == []
        assert proposer.propose(IMAGES[:1], 0) == [[]]

    def test_regions_do_not_depend_on_the_rest_of_the_call(self, proposer: RegionProposer) -> None:
        together = proposer.propose(IMAGES, 10)
        assert together == proposer.propose(IMAGES, 10)
        assert together == proposer.propose(IMAGES[::-1], 10)[::-1]
        assert together == [proposer.propose([image], 10)[0] for image in IMAGES]

    def test_threads_agree(self, proposer: RegionProposer) -> None:
        alone = [proposer.propose([image], 10)[0] for image in IMAGES]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda image: proposer.propose([image], 10)[0], IMAGES * 4))
        assert together == alone * 4

    def test_boxes_refer_to_the_original_of_a_downscaled_image(self, proposer: RegionProposer) -> None:
        small = IMAGES[0]
        image = DecodedImage(small.image_id, small.pixels, small.width * 5, small.height * 5)
        check_regions(image, proposer.propose([image], 10)[0], 10)
        if self.proposes_on_scenes:
            (regions,) = proposer.propose([image], 1000)
            assert max(max(region.box) for region in regions) > max(small.width, small.height)

    def test_tiny_and_elongated_images(self, proposer: RegionProposer) -> None:
        images = [scene(1, 1, 4), scene(400, 2, 5), scene(2, 400, 6), scene(3, 3, 7)]
        for image, regions in zip(images, proposer.propose(images, 10), strict=True):
            check_regions(image, regions, 10)

    def test_pixels_stay_unchanged(self, proposer: RegionProposer) -> None:
        before = IMAGES[0].pixels.copy()
        proposer.propose(IMAGES, 10)
        np.testing.assert_array_equal(IMAGES[0].pixels, before)

    def test_settings_are_json_with_a_version(self, proposer: RegionProposer) -> None:
        check_settings(proposer.settings())
        assert proposer.settings() == proposer.settings()


TEXTS = (
    "A man rides a brown horse on the beach. Two dogs run beside the horse.",
    "The cat sleeps.",
    "It is what it was.",  # stop words only
    "Ein Café für Gäste",
    "horse horse horse, and a HORSE",
    "!!!",
    "",
    " \t\n",
)
HOSTILE = (
    "a\x00nul and \x1b[31mred\x1b[0m",
    "zebra " * 2000,
    "x" * 5000,
    "🚌🚌 bus 🦓",
    "سيارة حمراء في الشارع",
    "İstanbul ﬁne Straße",
    "line\u2028separator\u0085next",
)


def check_keywords(text: str, keywords: Sequence[Keyword], top: int) -> None:
    """At most ``top``, best first, no two alike up to case, none marked whole; spans inside the text."""
    assert len(keywords) <= top
    scores = [keyword.score for keyword in keywords]
    assert scores == sorted(scores, reverse=True)
    assert all(type(score) is float and np.isfinite(np.float32(score)) for score in scores)
    for keyword in keywords:
        start, stop = keyword.span
        assert type(start) is type(stop) is int
        assert 0 <= start < stop <= len(text)
        assert keyword.text.strip()
        assert not keyword.whole
    assert len({keyword.text.casefold() for keyword in keywords}) == len(keywords)


class KeywordContract:
    """Tests of a :class:`felga.types.KeywordProposer`.

    Override the fixture ``proposer``, with scope "class" if it is slow to make.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def proposer(cls) -> KeywordProposer:
        """The proposer under test."""
        raise NotImplementedError("override the fixture `proposer`")

    def test_satisfies_the_protocol(self, proposer: KeywordProposer) -> None:
        assert isinstance(proposer, KeywordProposer)
        assert proposer.name

    @pytest.mark.parametrize("top", [1, 3, 50])
    def test_keywords_are_distinct_parts_of_the_text_best_first(
        self, proposer: KeywordProposer, top: int
    ) -> None:
        texts = TEXTS + HOSTILE
        proposed = proposer.propose(texts, top)
        assert len(proposed) == len(texts)
        for text, keywords in zip(texts, proposed, strict=True):
            check_keywords(text, keywords, top)

    def test_a_text_of_words_has_keywords_and_a_blank_one_none(self, proposer: KeywordProposer) -> None:
        proposed = proposer.propose(TEXTS, 10)
        for text, keywords in zip(TEXTS, proposed, strict=True):
            if any(character.isalnum() for character in text):
                assert keywords
            if not text.strip():
                assert keywords == []

    def test_no_texts_and_no_keywords(self, proposer: KeywordProposer) -> None:
        assert proposer.propose([], 10) == []
        assert proposer.propose(TEXTS[:1], 0) == [[]]

    def test_keywords_do_not_depend_on_the_rest_of_the_call(self, proposer: KeywordProposer) -> None:
        together = words(proposer.propose(TEXTS, 5))
        assert together == words(proposer.propose(TEXTS[::-1], 5))[::-1]
        assert together == [words(proposer.propose([text], 5))[0] for text in TEXTS]

    def test_threads_agree(self, proposer: KeywordProposer) -> None:
        alone = [words(proposer.propose([text], 5))[0] for text in TEXTS]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda text: words(proposer.propose([text], 5))[0], TEXTS * 4))
        assert together == alone * 4

    def test_settings_are_json_with_a_version(self, proposer: KeywordProposer) -> None:
        check_settings(proposer.settings())
        assert proposer.settings() == proposer.settings()


def words(proposed: Sequence[Sequence[Keyword]]) -> list[list[tuple[str, tuple[int, int]]]]:
    """Texts and spans; scores may differ in the last digits when texts are batched otherwise."""
    return [[(keyword.text, keyword.span) for keyword in keywords] for keywords in proposed]
