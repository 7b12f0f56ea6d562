"""What encoders guarantee: :class:`EncoderContract`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import numpy as np
import pytest

from felga.types import Boxes, DecodedImage, Encoder, FeatureEncoder, Vectors

TEXTS = ("bus", "a red bus", "dog", "A dog on the street!", "ünïcödé 🚌", "x" * 600)
TOLERANCE = 1e-5
"""Largest difference between vectors of one input encoded in different company."""


def noise(width: int, height: int, seed: int, image_id: str = "") -> DecodedImage:
    """A test image of coarse noise, so that its crops differ."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    pixels = np.ascontiguousarray(coarse.repeat(8, 0).repeat(8, 1)[:height, :width])
    return DecodedImage(image_id or f"{width}x{height}#{seed}", pixels, width, height)


def boxes(*rows: tuple[float, float, float, float]) -> Boxes:
    """(n, 4) float32."""
    return np.array(rows, np.float32).reshape(-1, 4)


IMAGES = (noise(60, 50, 1), noise(40, 90, 2), noise(64, 64, 3))
BOXES = (
    boxes(IMAGES[0].whole, (5, 5, 30, 40), (10, 0, 60, 20)),
    boxes(),
    boxes((0, 0, 31, 33), IMAGES[2].whole),
)


def check_vectors(vectors: Vectors, shape: tuple[int, int]) -> None:
    """Float32 of that shape; finite rows of length 1."""
    assert vectors.shape == shape
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=TOLERANCE)


def check_identity(identity: Mapping[str, Any], dim: int) -> None:
    """Json with name, dim, weights and version; no path of this machine, so that an index can move."""
    json.dumps(dict(identity), allow_nan=False)
    assert identity["name"]
    assert identity["dim"] == dim
    assert identity["weights"]
    version = identity["version"]
    assert type(version) is int
    assert version >= 1
    for text in strings(identity):
        assert not any(os.path.isabs(part) for part in re.split("[:@]", text)), f"a path: {text}"


def strings(value: Any) -> Iterator[str]:
    """Every string inside json values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from strings(part)


class EncoderContract:
    """Tests of a :class:`felga.types.Encoder`.

    Override the fixtures ``encoder`` and ``other``, with scope "class" if they are slow to make, and
    ``fresh`` if your encoder loads its weights on first use, which you should: then threads race for it. Set
    ``exact_crops`` to False if a region's vector depends on what surrounds it (RoI pooling).
    """

    exact_crops = True

    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls) -> Encoder:
        """The encoder under test."""
        raise NotImplementedError("override the fixture `encoder`")

    @pytest.fixture(scope="class")
    @classmethod
    def other(cls) -> Encoder:
        """An encoder of the same family with different weights."""
        raise NotImplementedError("override the fixture `other`")

    @pytest.fixture
    def fresh(self, encoder: Encoder) -> Encoder:
        """An encoder with the weights of ``encoder`` that has not encoded anything yet."""
        return encoder

    def test_satisfies_the_protocol(self, encoder: Encoder) -> None:
        assert isinstance(encoder, Encoder)
        assert encoder.name
        assert type(encoder.dim) is int
        assert encoder.dim > 0

    def test_regions_are_unit_vectors_in_order(self, encoder: Encoder) -> None:
        encoded = encoder.encode_regions(IMAGES, BOXES)
        assert len(encoded) == len(IMAGES)
        for vectors, rows in zip(encoded, BOXES, strict=True):
            check_vectors(vectors, (len(rows), encoder.dim))

    def test_features_come_with_the_same_vectors(self, encoder: Encoder) -> None:
        if not isinstance(encoder, FeatureEncoder):
            pytest.skip("hands out no features")
        encoded = encoder.encode_features(IMAGES, BOXES)
        same([vectors for vectors, _ in encoded], encoder.encode_regions(IMAGES, BOXES))
        for (_, features), rows in zip(encoded, BOXES, strict=True):
            assert features.shape == (len(rows), encoder.feature_dim)
            assert features.dtype == np.float16
            assert np.isfinite(features).all()

    def test_texts_are_unit_vectors(self, encoder: Encoder) -> None:
        check_vectors(encoder.encode_texts(TEXTS), (len(TEXTS), encoder.dim))

    def test_no_input_gives_no_rows(self, encoder: Encoder) -> None:
        check_vectors(encoder.encode_texts([]), (0, encoder.dim))
        assert encoder.encode_regions([], []) == []
        (vectors,) = encoder.encode_regions(IMAGES[:1], [boxes()])
        check_vectors(vectors, (0, encoder.dim))

    def test_lists_and_tuples_are_the_same(self, encoder: Encoder) -> None:
        same(encoder.encode_regions(IMAGES, BOXES), encoder.encode_regions(list(IMAGES), list(BOXES)))
        same([encoder.encode_texts(TEXTS)], [encoder.encode_texts(list(TEXTS))])

    def test_regions_do_not_depend_on_the_rest_of_the_call(self, encoder: Encoder) -> None:
        together = encoder.encode_regions(IMAGES, BOXES)
        for image, rows, vectors in zip(IMAGES, BOXES, together, strict=True):
            for i in range(len(rows)):
                (alone,) = encoder.encode_regions([image], [rows[i : i + 1]])
                np.testing.assert_allclose(alone[0], vectors[i], atol=TOLERANCE)
        backward = encoder.encode_regions(IMAGES[::-1], [rows[::-1] for rows in BOXES[::-1]])
        same([vectors[::-1] for vectors in backward[::-1]], together)

    def test_texts_do_not_depend_on_the_rest_of_the_call(self, encoder: Encoder) -> None:
        together = encoder.encode_texts(TEXTS)
        for i, text in enumerate(TEXTS):
            np.testing.assert_allclose(encoder.encode_texts([text])[0], together[i], atol=TOLERANCE)
        same([encoder.encode_texts(TEXTS[::-1])[::-1]], [together])

    def test_threads_agree_from_the_first_use_on(self, encoder: Encoder, fresh: Encoder) -> None:
        regions, texts = encoder.encode_regions(IMAGES, BOXES), encoder.encode_texts(TEXTS)
        barrier = Barrier(4)

        def use(_: int) -> tuple[list[Vectors], Vectors]:
            barrier.wait(timeout=60)
            return fresh.encode_regions(IMAGES, BOXES), fresh.encode_texts(TEXTS)

        with ThreadPoolExecutor(4) as pool:
            for own_regions, own_texts in pool.map(use, range(4)):
                same([*own_regions, own_texts], [*regions, texts])

    def test_a_crop_is_the_image_with_a_box(self, encoder: Encoder) -> None:
        if not self.exact_crops:
            pytest.skip("exact_crops is False: regions are seen in their context")
        whole = IMAGES[0]
        crop = DecodedImage("crop", np.ascontiguousarray(whole.pixels[5:40, 10:50]), 40, 35)
        same(
            encoder.encode_regions([whole], [boxes((10, 5, 50, 40))]),
            encoder.encode_regions([crop], [boxes(crop.whole)]),
        )

    def test_boxes_refer_to_the_original_of_a_downscaled_image(self, encoder: Encoder) -> None:
        small = IMAGES[2]
        large = DecodedImage("large", small.pixels, small.width * 4, small.height * 4)
        same(
            encoder.encode_regions([small], [boxes((8, 8, 40, 48))]),
            encoder.encode_regions([large], [boxes((32, 32, 160, 192))]),
        )

    def test_tiny_and_elongated_images(self, encoder: Encoder) -> None:
        images = [noise(1, 1, 4), noise(300, 1, 5), noise(1, 300, 6), noise(7, 7, 7)]
        rows = [boxes(image.whole) for image in images[:3]]
        rows.append(boxes((3.2, 3.2, 3.3, 3.3), (-5, -5, 99, 99)))
        for vectors, own in zip(encoder.encode_regions(images, rows), rows, strict=True):
            check_vectors(vectors, (len(own), encoder.dim))

    def test_the_same_again_to_the_bit(self, encoder: Encoder) -> None:
        once, again = (encoder.encode_regions(IMAGES, BOXES) for _ in range(2))
        for a, b in zip(once, again, strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(encoder.encode_texts(TEXTS), encoder.encode_texts(TEXTS))

    def test_inputs_stay_unchanged(self, encoder: Encoder) -> None:
        pixels, rows = IMAGES[0].pixels.copy(), BOXES[0].copy()
        encoder.encode_regions(IMAGES, BOXES)
        np.testing.assert_array_equal(IMAGES[0].pixels, pixels)
        np.testing.assert_array_equal(BOXES[0], rows)

    def test_identity_is_json_without_paths_and_tells_weights_apart(
        self, encoder: Encoder, other: Encoder
    ) -> None:
        check_identity(encoder.identity(), encoder.dim)
        assert dict(encoder.identity()) == dict(encoder.identity())
        assert encoder.identity()["weights"] != other.identity()["weights"]

    def test_other_weights_give_other_vectors(self, encoder: Encoder, other: Encoder) -> None:
        a, b = (np.concatenate(e.encode_regions(IMAGES, BOXES)) for e in (encoder, other))
        assert np.abs(a - b).max() > 1e-3
        assert np.abs(encoder.encode_texts(TEXTS) - other.encode_texts(TEXTS)).max() > 1e-3


def same(actual: Sequence[Vectors], expected: Sequence[Vectors]) -> None:
    """Equal within :data:`TOLERANCE`."""
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=TOLERANCE)
