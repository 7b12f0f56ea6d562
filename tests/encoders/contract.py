"""What every encoder keeps to. Subclass :class:`EncoderContract` and give it ``encoder`` and ``other``."""

from __future__ import annotations

import json

import numpy as np
import pytest

from felga.types import DecodedImage, Encoder

WORDS = ["bus", "a red bus", "dog", "A dog on the street!", "ünïcödé 🚌", "x" * 600]


def image(width: int, height: int, seed: int, name: str = "") -> DecodedImage:
    """Soft noise: random pixels at a coarse scale, so that crops differ."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    pixels = coarse.repeat(8, 0).repeat(8, 1)[:height, :width]
    return DecodedImage(name or f"{width}x{height}#{seed}", np.ascontiguousarray(pixels), width, height)


def boxes(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


IMAGES = [image(60, 50, 1), image(40, 90, 2), image(64, 64, 3)]
SOME = [
    boxes(IMAGES[0].whole, (5, 5, 30, 40), (10, 0, 60, 20)),
    boxes(),
    boxes((0, 0, 31, 33), IMAGES[2].whole),
]


class EncoderContract:
    """``exact_crops`` is False for an encoder that sees the rest of the image too (RoI pooling)."""

    exact_crops = True

    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls) -> Encoder:
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def other(cls) -> Encoder:
        """The same family with other weights."""
        raise NotImplementedError

    def test_is_an_encoder(self, encoder):
        assert isinstance(encoder, Encoder)
        assert encoder.name
        assert encoder.dim > 0

    def test_regions_are_unit_vectors_in_order(self, encoder):
        found = encoder.encode_regions(IMAGES, SOME)
        assert [v.shape for v in found] == [(3, encoder.dim), (0, encoder.dim), (2, encoder.dim)]
        assert all(v.dtype == np.float32 for v in found)
        lengths = np.linalg.norm(np.concatenate(found), axis=1)
        np.testing.assert_allclose(lengths, 1, atol=1e-5)

    def test_texts_are_unit_vectors(self, encoder):
        found = encoder.encode_texts(WORDS)
        assert found.shape == (len(WORDS), encoder.dim)
        assert found.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)

    def test_nothing_gives_no_rows(self, encoder):
        assert encoder.encode_texts([]).shape == (0, encoder.dim)
        assert encoder.encode_regions([], []) == []
        (found,) = encoder.encode_regions(IMAGES[:1], [boxes()])
        assert found.shape == (0, encoder.dim)
        assert found.dtype == np.float32

    def test_regions_do_not_depend_on_their_batch(self, encoder):
        together = encoder.encode_regions(IMAGES, SOME)
        for own, row, vectors in zip(IMAGES, SOME, together, strict=True):
            for i in range(len(row)):
                (alone,) = encoder.encode_regions([own], [row[i : i + 1]])
                np.testing.assert_allclose(alone[0], vectors[i], atol=1e-5)
        backward = encoder.encode_regions(IMAGES[::-1], [row[::-1] for row in SOME[::-1]])
        for ahead, back in zip(together, backward[::-1], strict=True):
            np.testing.assert_allclose(back[::-1], ahead, atol=1e-5)

    def test_texts_do_not_depend_on_their_batch(self, encoder):
        together = encoder.encode_texts(WORDS)
        for i, word in enumerate(WORDS):
            np.testing.assert_allclose(encoder.encode_texts([word])[0], together[i], atol=1e-5)
        np.testing.assert_allclose(encoder.encode_texts(WORDS[::-1])[::-1], together, atol=1e-5)

    def test_a_crop_is_the_image_with_a_box(self, encoder):
        if not self.exact_crops:
            pytest.skip("this encoder sees what lies around the box")
        whole = IMAGES[0]
        crop = DecodedImage("crop", np.ascontiguousarray(whole.pixels[5:40, 10:50]), 40, 35)
        (a,) = encoder.encode_regions([whole], [boxes((10, 5, 50, 40))])
        (b,) = encoder.encode_regions([crop], [boxes(crop.whole)])
        np.testing.assert_allclose(a, b, atol=1e-5)

    def test_a_reduced_image_takes_boxes_of_the_original(self, encoder):
        full = IMAGES[2]
        large = DecodedImage("large", full.pixels, full.width * 4, full.height * 4)
        (a,) = encoder.encode_regions([full], [boxes((8, 8, 40, 48))])
        (b,) = encoder.encode_regions([large], [boxes((32, 32, 160, 192))])
        np.testing.assert_allclose(a, b, atol=1e-5)

    def test_tiny_and_long_images(self, encoder):
        odd = [image(1, 1, 4), image(300, 1, 5), image(1, 300, 6), image(7, 7, 7)]
        own = [boxes(p.whole) for p in odd[:3]] + [boxes((3.2, 3.2, 3.3, 3.3), (-5, -5, 99, 99))]
        found = encoder.encode_regions(odd, own)
        assert np.isfinite(np.concatenate(found)).all()
        assert [len(v) for v in found] == [1, 1, 1, 2]

    def test_the_same_again(self, encoder):
        for a, b in zip(
            encoder.encode_regions(IMAGES, SOME), encoder.encode_regions(IMAGES, SOME), strict=True
        ):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(encoder.encode_texts(WORDS), encoder.encode_texts(WORDS))

    def test_inputs_are_left_alone(self, encoder):
        pixels, rows = IMAGES[0].pixels.copy(), SOME[0].copy()
        encoder.encode_regions(IMAGES, SOME)
        np.testing.assert_array_equal(IMAGES[0].pixels, pixels)
        np.testing.assert_array_equal(SOME[0], rows)

    def test_identity_is_json_and_tells_weights_apart(self, encoder, other):
        mine = json.loads(json.dumps(encoder.identity()))
        assert mine == json.loads(json.dumps(encoder.identity()))
        assert mine["name"] == encoder.name
        assert mine["weights"] != other.identity()["weights"]

    def test_other_weights_give_other_vectors(self, encoder, other):
        a, b = encoder.encode_regions(IMAGES, SOME), other.encode_regions(IMAGES, SOME)
        assert np.abs(a[0] - b[0]).max() > 1e-3
        assert np.abs(encoder.encode_texts(WORDS) - other.encode_texts(WORDS)).max() > 1e-3
